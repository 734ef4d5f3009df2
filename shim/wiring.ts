/** Joins the task service to virtcontainers: the part of the shim that is needed from the first Create on. */
import { KataError } from '../base/errors';
import type { Logger } from '../base/log';
import type { OciResources } from '../base/oci-spec';
import type { RuntimeConfig } from '../virtcontainers/config/types';
import type { VmFactory } from '../virtcontainers/sandbox/types';
import type { Backend } from './task/types';


/* eslint-disable @typescript-eslint/no-require-imports -- loaded late on purpose */

const load = {
  bundle: () => require('../virtcontainers/bundle/bundle') as typeof import('../virtcontainers/bundle/bundle'),
  shape: () => require('../virtcontainers/bundle/shape') as typeof import('../virtcontainers/bundle/shape'),
  json: () => require('../virtcontainers/bundle/json') as typeof import('../virtcontainers/bundle/json'),
  config: () => require('../virtcontainers/config/load') as typeof import('../virtcontainers/config/load'),
  annotations: () => require('../virtcontainers/config/annotations') as typeof import('../virtcontainers/config/annotations'),
  factory: () => require('../factory/create') as typeof import('../factory/create'),
  sandbox: () => require('../virtcontainers/sandbox/sandbox') as typeof import('../virtcontainers/sandbox/sandbox'),
};

/** Starts shim-monitor; `http` is loaded now. */
export function startManagement(...args: Parameters<typeof import('./management/server').startManagement>): () => void {
  const { startManagement: run } = require('./management/server') as typeof import('./management/server');
  return run(...args);
}

/** Loads in steps what a Create will need, so that calls in between are answered. */
export function prefetch(): void {
  const steps: (() => unknown)[] = [load.bundle, load.config, load.annotations, load.sandbox];
  const next = (): void => {
    const step = steps.shift();
    if (step !== undefined) {
      step();
      setImmediate(next);
    }
  };
  setImmediate(next);
}

/** The real backend. */
export function createBackend(logger: Logger): Backend {
  /** What a sandbox's configuration was before its annotations: what the factory's VMs are made from. */
  const bases = new WeakMap<RuntimeConfig, RuntimeConfig>();
  const factoryFor = (config: RuntimeConfig): VmFactory | undefined => {
    const { enableTemplate, vmCacheNumber } = config.factory;
    return enableTemplate || vmCacheNumber > 0 ? load.factory().createFactory(bases.get(config) ?? config, logger) : undefined;
  };
  return {
    readBundle: (path) => load.bundle().readBundle(path),
    loadConfig: async (configPath, bundle) => {
      const options = { env: process.env, ...(configPath === undefined ? {} : { configPath }) };
      const base = load.config().loadConfig(options);
      const config = await load.annotations().applyAnnotations(base, bundle.spec.annotations);
      bases.set(config, base);
      if (config.runtime.enableDebug) {
        logger.setLevel('debug');
      }
      for (const warning of config.warnings) {
        logger.warn('configuration', { file: config.path, warning });
      }
      return config;
    },
    createSandbox: (request) => load.sandbox().createSandbox({ ...request, factory: factoryFor(request.config) }),
    encodeStats: (stats) => (require('./task/stats') as typeof import('./task/stats')).metricsOf(stats),
    parseProcess: (json) => load.shape().checkProcessShape(parseJson(json, 'process'), 'exec'),
    parseResources: (json) => {
      const resources = parseJson(json, 'resources') as OciResources;
      return load.shape().checkShape({ linux: { resources } }, 'of the update').linux?.resources ?? {};
    },
  };
}

function parseJson(json: string, what: string): unknown {
  try {
    return load.json().parseExactJson(json);
  } catch (reason) {
    throw new KataError('InvalidArgument', `read ${what}: not valid JSON`, { cause: reason });
  }
}
