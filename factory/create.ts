/** Builds a factory from the configuration. */
import { join } from 'node:path';
import { KataError } from '../base/errors';
import type { Logger } from '../base/log';
import type { RuntimeConfig } from '../virtcontainers/config/types';
import { DEFAULT_DEPS } from '../virtcontainers/sandbox/deps';
import { DEFAULT_ROOTS } from '../virtcontainers/sandbox/roots';
import { agentKernelParams } from '../virtcontainers/config/kernel-params';
import { checkVmConfig } from './compare';
import { CacheFactory, type CacheOptions } from './cache/cache';
import { Counters } from './counters';
import { DirectFactory } from './direct/direct';
import { Factory } from './factory';
import { GrpcCacheFactory } from './grpc-cache/client';
import { TemplateStore } from './template/store';
import { TemplateFactory } from './template/template';
import { hostTemplateMounts, type TemplateMounts } from './template/tmpfs';
import type { BaseConfig, BaseFactory, FactoryDeps } from './types';

export interface FactoryOptions {
  readonly base: BaseConfig;
  readonly template: boolean;
  readonly templatePath: string;
  /** A cache server is used; with `cacheCount` 0 we are its client. */
  readonly vmCache: boolean;
  /** VMs to keep in stock: only the cache server keeps some. */
  readonly cacheCount: number;
  readonly cacheEndpoint: string;
  /** Only use what is there already. */
  readonly fetchOnly: boolean;
  readonly deps: FactoryDeps;
  readonly mounts?: TemplateMounts;
  readonly cacheOptions?: Omit<CacheOptions, 'count'>;
}

/** What VMs are made from by a configuration as it is in the file, before a sandbox's annotations. */
export function baseConfigOf(config: RuntimeConfig): BaseConfig {
  const { hypervisor } = config;
  return { hypervisor, vcpus: hypervisor.defaultVcpus, memoryMiB: hypervisor.defaultMemory, kernelParams: agentKernelParams(config) };
}

export function hostDeps(logger: Logger): FactoryDeps {
  return { driverFor: DEFAULT_DEPS.driverFor, connectAgent: DEFAULT_DEPS.connectAgent, vmRoot: DEFAULT_ROOTS.vm, now: () => Date.now(), logger };
}

export function countersOf(templatePath: string): Counters {
  return new Counters(join(templatePath, 'counts'));
}

/**
 * The rules of upstream: `fetchOnly` and a count exclude each other; a template if templates are on; the cache server
 * if caching is on and nothing is kept here; else direct boots; a count wraps what was chosen in a cache. Beyond
 * upstream, a client of the cache server goes on to the template when the server has nothing.
 */
export function newFactory(options: FactoryOptions): Factory {
  const { base, deps, cacheCount, fetchOnly, templatePath } = options;
  if (fetchOnly && cacheCount > 0) {
    throw new KataError('InvalidArgument', 'make a factory: cache factory does not support fetch');
  }
  checkVmConfig(base.hypervisor);
  const bases: BaseFactory[] = [];
  if (options.vmCache && cacheCount === 0) {
    bases.push(new GrpcCacheFactory(base, options.cacheEndpoint, deps));
  }
  if (options.template) {
    const template = new TemplateFactory(base, new TemplateStore(templatePath, options.mounts ?? hostTemplateMounts(false), deps.vmRoot), deps);
    if (fetchOnly && !template.isThere) {
      throw new KataError('NotFound', `fetch the template ${template.key} in ${templatePath}: there is none`, { hint: 'run kata-runtime factory init' });
    }
    bases.push(template);
  }
  const [first = new DirectFactory(base, deps), ...others] = bases;
  const chosen: [BaseFactory, ...BaseFactory[]] =
    cacheCount > 0 ? [new CacheFactory(first, deps, { ...options.cacheOptions, count: cacheCount }), ...others] : [first, ...others];
  return new Factory(chosen, deps, countersOf(templatePath));
}

/**
 * A shim's factory, from the configuration without annotations: a sandbox that annotations changed too much boots its
 * own VM. Undefined where neither templates nor the cache are on. Makes nothing yet: the first `getVm` does.
 */
export function createFactory(config: RuntimeConfig, logger: Logger): Factory | undefined {
  const { enableTemplate, templatePath, vmCacheNumber, vmCacheEndpoint } = config.factory;
  if (!enableTemplate && vmCacheNumber === 0) {
    return undefined;
  }
  return newFactory({
    base: baseConfigOf(config), template: enableTemplate, templatePath, vmCache: vmCacheNumber > 0, cacheCount: 0,
    cacheEndpoint: vmCacheEndpoint, fetchOnly: false, deps: hostDeps(logger), mounts: hostTemplateMounts(true),
  });
}
