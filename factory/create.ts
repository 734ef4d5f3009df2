/** Builds a factory from the configuration. */
import { join } from 'node:path';
import { KataError } from '../base/errors';
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
  const bases: BaseFactory[] = [];
  if (options.vmCache && cacheCount === 0) {
    bases.push(new GrpcCacheFactory(base, options.cacheEndpoint, deps));
  }
  if (options.template) {
    const template = new TemplateFactory(base, new TemplateStore(templatePath, options.mounts ?? hostTemplateMounts(false)), deps);
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
