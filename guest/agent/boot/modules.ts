import { closeSync, openSync, readFileSync } from 'node:fs';
import type { KernelModule } from '../../../gen/agent/agent';
import { describeError, KataError } from '../../../base/errors';
import { loadModule } from '../../../base/syscalls';
import { log } from '../console-log';
import { mustRun } from '../process/tool';

const LISTS = '/etc/kata-modules.json';
const MODPROBE_TIMEOUT_MS = 30_000;

/** Paths of kernel modules in the order they load in; written by the image builder. */
export interface ModuleLists {
  /** Needed before the agent can be reached. */
  readonly boot: readonly string[];
  /** The rest. */
  readonly later: readonly string[];
}

function stringList(value: unknown): string[] {
  return Array.isArray(value) ? value.filter((item): item is string => typeof item === 'string' && item.startsWith('/')) : [];
}

/** The lists of this image; empty where there are none (a kernel with everything built in). */
export function readModuleLists(path = LISTS): ModuleLists {
  try {
    const parsed: unknown = JSON.parse(readFileSync(path, 'utf8'));
    const lists = typeof parsed === 'object' && parsed !== null ? parsed : {};
    return { boot: stringList(Reflect.get(lists, 'boot')), later: stringList(Reflect.get(lists, 'later')) };
  } catch {
    return { boot: [], later: [] };
  }
}

/** Loads one module; a failure is logged, since a guest without it may do all the same. */
export function loadOne(path: string, parameters = ''): void {
  try {
    const fd = openSync(path, 'r');
    try {
      loadModule(fd, parameters);
    } finally {
      closeSync(fd);
    }
  } catch (reason) {
    log.warn('module not loaded', { path, error: describeError(reason) });
  }
}

/** Loads modules one per turn of the event loop, so that calls are answered in between. */
export async function loadInBackground(paths: readonly string[]): Promise<void> {
  for (const path of paths) {
    loadOne(path);
    await new Promise<void>((resolve) => setImmediate(resolve));
  }
}

/** Loads modules that the host names, with their dependencies. */
export async function loadNamedModules(modules: readonly KernelModule[]): Promise<void> {
  for (const { name, parameters } of modules) {
    if (!/^[a-zA-Z0-9_-]{1,64}$/.test(name)) {
      throw new KataError('InvalidArgument', `load module ${JSON.stringify(name.slice(0, 80))}: not a valid name`);
    }
    await mustRun('modprobe', [name, ...parameters], { timeoutMs: MODPROBE_TIMEOUT_MS });
  }
}
