/** What `kata-runtime factory init` and `destroy` do. */
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { describeError, isCode, KataError } from '../base/errors';
import type { Logger } from '../base/log';
import type { RuntimeConfig } from '../virtcontainers/config/types';
import { CacheFactory } from './cache/cache';
import { baseConfigOf, hostDeps } from './create';
import { DirectFactory } from './direct/direct';
import { callCache } from './grpc-cache/call';
import { RPC } from './grpc-cache/wire';
import { TemplateStore, usersOf } from './template/store';
import { TemplateFactory } from './template/template';
import { hostTemplateMounts } from './template/tmpfs';

const CALL_TIMEOUT_MS = 3000;
const DESTROY_WAIT_MS = 10_000;

function storeOf(config: RuntimeConfig): TemplateStore {
  return new TemplateStore(config.factory.templatePath, hostTemplateMounts(false));
}

/** Makes the template of this configuration. AlreadyExists if it is there; what others left unfinished is replaced. */
export async function initTemplate(config: RuntimeConfig, logger: Logger, signal: AbortSignal): Promise<{ readonly key: string; readonly folder: string }> {
  const store = storeOf(config);
  const template = new TemplateFactory(baseConfigOf(config), store, hostDeps(logger));
  const { folder } = store.files(template.key);
  if (template.isThere) {
    throw new KataError('AlreadyExists', `There is already a VM template in ${folder}`, { hint: 'run kata-runtime factory destroy to have it made anew' });
  }
  rmSync(join(config.factory.templatePath, template.key, 'failed'), { force: true });
  await template.ensure(signal);
  return { key: template.key, folder };
}

export interface ServeOptions {
  readonly logger: Logger;
  /** Ends the server. */
  readonly signal: AbortSignal;
  readonly onListening: (endpoint: string) => void;
}

/** Serves the VM cache until the signal or a Quit; every VM in stock is gone when it returns. */
export async function serveCache(config: RuntimeConfig, options: ServeOptions): Promise<void> {
  const { CacheServer } = await import('./grpc-cache/server');
  const { enableTemplate, vmCacheNumber, vmCacheEndpoint } = config.factory;
  const deps = hostDeps(options.logger);
  const base = baseConfigOf(config);
  await CacheServer.checkEndpoint(vmCacheEndpoint);
  const inner = enableTemplate ? new TemplateFactory(base, storeOf(config), deps) : new DirectFactory(base, deps);
  const cache = new CacheFactory(inner, deps, { count: vmCacheNumber, transferable: true });
  let server;
  try {
    server = await CacheServer.start({ endpoint: vmCacheEndpoint, cache, logger: options.logger });
  } catch (reason) {
    await cache.close();
    throw reason;
  }
  try {
    options.onListening(vmCacheEndpoint);
    await Promise.race([server.quit.promise, new Promise<void>((resolve) => {
      if (options.signal.aborted) {
        resolve();
      }
      options.signal.addEventListener('abort', () => { resolve(); }, { once: true });
    })]);
  } finally {
    await server.stop();
  }
}

export interface DestroyReport {
  /** True: a cache server was told to end. */
  readonly quit: boolean;
  readonly destroyed: readonly { readonly key: string; readonly users: readonly number[] }[];
  readonly problems: readonly string[];
}

async function quitCache(endpoint: string, problems: string[]): Promise<boolean> {
  try {
    await callCache(endpoint, RPC.Quit, {}, { timeoutMs: CALL_TIMEOUT_MS });
    return true;
  } catch (reason) {
    if (isCode(reason, 'Unavailable')) {
      // What a server that was killed could not remove.
      rmSync(endpoint, { force: true });
      rmSync(`${endpoint}.pid`, { force: true });
    } else {
      problems.push(`failed to call gRPC Quit: ${describeError(reason)}`);
    }
    return false;
  }
}

/** Ends the cache server and removes every template below `template_path`. Idempotent: nothing there is fine. */
export async function destroyFactory(config: RuntimeConfig, waitMs = DESTROY_WAIT_MS): Promise<DestroyReport> {
  const problems: string[] = [];
  const quit = config.factory.vmCacheNumber > 0 && (await quitCache(config.factory.vmCacheEndpoint, problems));
  const store = storeOf(config);
  const destroyed: { key: string; users: number[] }[] = [];
  for (const key of store.keys()) {
    const users = usersOf(store.files(key).memory);
    try {
      await store.destroy(key, { timeoutMs: waitMs });
      destroyed.push({ key, users });
    } catch (reason) {
      problems.push(`template ${key}: ${describeError(reason)}`);
    }
  }
  if (problems.length === 0) {
    rmSync(join(store.root, 'counts'), { recursive: true, force: true });
    store.removeRoot();
  }
  return { quit, destroyed, problems };
}
