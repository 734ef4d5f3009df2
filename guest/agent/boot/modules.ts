import { closeSync, openSync, readdirSync, readFileSync } from 'node:fs';
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
  /** By virtio device id (decimal): what drives that device, and what uses it. Absent in older images. */
  readonly byVirtioId: ReadonlyMap<string, readonly string[]> | undefined;
}

function stringList(value: unknown): string[] {
  return Array.isArray(value) ? value.filter((item): item is string => typeof item === 'string' && item.startsWith('/')) : [];
}

/** The lists of this image; empty where there are none (a kernel with everything built in). */
export function readModuleLists(path = LISTS): ModuleLists {
  try {
    const parsed: unknown = JSON.parse(readFileSync(path, 'utf8'));
    const lists = typeof parsed === 'object' && parsed !== null ? parsed : {};
    return { boot: stringList(Reflect.get(lists, 'boot')), later: stringList(Reflect.get(lists, 'later')), byVirtioId: idMap(Reflect.get(lists, 'byVirtioId')) };
  } catch {
    return { boot: [], later: [], byVirtioId: undefined };
  }
}

function idMap(value: unknown): ReadonlyMap<string, readonly string[]> | undefined {
  return typeof value === 'object' && value !== null ? new Map(Object.entries(value).map(([id, paths]) => [id, stringList(paths)])) : undefined;
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

/** Ids (decimal) of the virtio devices that the guest has now. */
export function virtioDevices(root = '/sys/bus/virtio/devices'): string[] {
  try {
    return [...new Set(readdirSync(root).map((name) => String(Number(readFileSync(`${root}/${name}/device`, 'latin1').trim()))))];
  } catch {
    return [];
  }
}

/**
 * Loads the guest's modules when something needs them, each once, in the order of the lists, one per turn of the event
 * loop, so that calls are answered in between. Under emulation all of them cost as much as half a boot (SCSI and ext4
 * alone 0.5 s), and most containers need only what drives their share.
 */
export class GuestModules {
  private readonly seen = new Set<string>();
  private tail: Promise<void> = Promise.resolve();

  constructor(
    private readonly lists: ModuleLists,
    private readonly load: (path: string) => void = loadOne,
  ) {}

  /** What the channel needs, at once. */
  loadBoot(): void {
    this.lists.boot.forEach((path) => {
      this.loadOnce(path);
    });
  }

  /** What these virtio devices (decimal ids) need; an image that does not tell has all loaded. */
  async forDevices(ids: readonly string[]): Promise<void> {
    const { byVirtioId } = this.lists;
    await (byVirtioId === undefined ? this.all() : this.inTurns(ids.flatMap((id) => byVirtioId.get(id) ?? [])));
  }

  /** All that a container or a hot-plugged device may use. */
  async all(): Promise<void> {
    await this.inTurns(this.lists.later);
  }

  /** Callers at the same time wait for each other: a module must not be used half loaded. */
  private async inTurns(paths: readonly string[]): Promise<void> {
    this.tail = this.tail.then(async () => {
      for (const path of paths.filter((one) => !this.seen.has(one))) {
        this.loadOnce(path);
        await new Promise<void>((resolve) => setImmediate(resolve));
      }
    });
    await this.tail;
  }

  private loadOnce(path: string): void {
    if (!this.seen.has(path)) {
      this.seen.add(path);
      this.load(path);
    }
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
