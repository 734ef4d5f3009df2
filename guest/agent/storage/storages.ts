import { chmodSync, chownSync, existsSync, mkdirSync, statSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import type { Storage } from '../../../gen/agent/agent';
import { sleep } from '../../../base/deadline';
import { errnoOf, KataError } from '../../../base/errors';
import { checkAbsolute } from '../../../base/ids';
import { mount, MS, unmount } from '../../../base/syscalls';
import type { UndoStack } from '../../../base/undo';
import { parseMountOptions } from './mount-options';

/** Storage drivers that this agent knows, as it tells the host. */
export const STORAGE_DRIVERS = [
  'blk', '9p', 'virtio-fs', 'ephemeral', 'overlayfs', 'mmioblk', 'local', 'scsi', 'nvdimm', 'watchable-bind', 'bind',
] as const;

/** What the storages need to know of the agent. */
export interface StorageSettings {
  /** Mock: where the share is mounted, in place of a mount from the VMM. */
  readonly mockSharePath: string | undefined;
  readonly hotplugTimeoutMs: number;
}

interface Entry {
  references: number;
  readonly release: () => void;
}

/** The mounts that the host asked for, by mount point. Containers may name the same one: it goes with the last. */
export class Storages {
  private readonly entries = new Map<string, Entry>();

  constructor(private readonly settings: StorageSettings) {}

  /** Mounts all in order; each is given back through `undo`. */
  async addAll(storages: readonly Storage[], undo: UndoStack): Promise<void> {
    for (const storage of storages) {
      await this.add(storage, undo);
    }
  }

  /** Unmounts everything, whoever uses it. */
  releaseAll(): void {
    for (const entry of [...this.entries.values()].reverse()) {
      entry.release();
    }
    this.entries.clear();
  }

  private async add(storage: Storage, undo: UndoStack): Promise<void> {
    const target = checkAbsolute(storage.mountPoint, `storage ${storage.driver}: mount point`).replace(/(.)\/+$/, '$1');
    const known = this.entries.get(target);
    if (known !== undefined) {
      known.references++;
    } else {
      try {
        this.entries.set(target, { references: 1, release: await this.attach(storage, target) });
      } catch (reason) {
        throw KataError.from(reason, `mount storage ${storage.driver} "${storage.source}" on ${target}: ${reason instanceof Error ? reason.message : ''}`);
      }
    }
    undo.push(`storage ${target}`, () => this.drop(target));
  }

  private drop(target: string): void {
    const entry = this.entries.get(target);
    if (entry !== undefined && --entry.references === 0) {
      this.entries.delete(target);
      entry.release();
    }
  }

  /** Mounts one storage; returns how to undo it. */
  private async attach(storage: Storage, target: string): Promise<() => void> {
    switch (storage.driver) {
      case 'virtio-fs':
      case '9p':
        return this.attachShare(storage, target);
      case 'ephemeral':
        return attachEphemeral(storage, target);
      case 'local':
        return attachLocal(storage, target);
      case 'bind':
        return attachBind(storage, target);
      case 'overlayfs':
        return attachOverlay(storage, target);
      case 'watchable-bind': {
        const { attachWatchable } = await import('./watchable');
        return attachWatchable(checkAbsolute(storage.source, 'source'), target);
      }
      case 'blk':
      case 'mmioblk':
      case 'scsi':
      case 'nvdimm': {
        const { blockDeviceOf } = await import('./block-device');
        const device = await blockDeviceOf(storage.driver, storage.source, this.settings.hotplugTimeoutMs);
        return mountStorage({ ...storage, source: device }, target);
      }
      default:
        throw new KataError('InvalidArgument', `storage driver "${storage.driver}" is not known`);
    }
  }

  private async attachShare(storage: Storage, target: string): Promise<() => void> {
    const { mockSharePath } = this.settings;
    if (mockSharePath === undefined) {
      return storage.driver === 'virtio-fs' ? this.mountVirtioFs(storage, target) : mountStorage(storage, target);
    }
    if (target === mockSharePath) {
      return () => undefined;
    }
    makeFolder(target);
    mount(mockSharePath, target, '', MS.BIND | MS.REC);
    return () => unmountQuietly(target);
  }

  /** In a clone the device comes when the guest runs already. */
  private async mountVirtioFs(storage: Storage, target: string): Promise<() => void> {
    const until = performance.now() + this.settings.hotplugTimeoutMs;
    for (;;) {
      try {
        return mountStorage(storage, target);
      } catch (reason) {
        if (!NO_TAG.has(errnoOf(reason) ?? '') || performance.now() > until) {
          throw reason;
        }
        await sleep(RETRY_MS);
      }
    }
  }
}

/** What mount(2) says while the device is not there yet. */
const NO_TAG: ReadonlySet<string> = new Set(['EINVAL', 'ENOENT', 'ENODEV']);
const RETRY_MS = 10;

function makeFolder(path: string, mode = 0o755): void {
  mkdirSync(path, { recursive: true, mode });
}

/** A mount point: a folder, or for the bind mount of a file a file. */
function makeTarget(source: string, target: string, isBind: boolean): void {
  if (existsSync(target)) {
    return;
  }
  if (isBind && existsSync(source) && !statSync(source).isDirectory()) {
    makeFolder(dirname(target));
    writeFileSync(target, '');
  } else {
    makeFolder(target);
  }
}

function unmountQuietly(target: string): void {
  unmount(target);
}

/** Mounts by the storage's own file system and options, then gives the root its group. */
export function mountStorage(storage: Storage, target: string): () => void {
  const { flags, propagation, data, groupId } = parseMountOptions(storage.options);
  makeTarget(storage.source, target, (flags & MS.BIND) !== 0);
  mount(storage.source, target, storage.fstype, flags, data);
  if ((flags & MS.BIND) !== 0 && (flags & ~(MS.BIND | MS.REC)) !== 0) {
    mount('', target, '', flags | MS.REMOUNT);
  }
  if (propagation !== 0) {
    mount('', target, '', propagation);
  }
  giveGroup(storage, target, groupId);
  return () => unmountQuietly(target);
}

function giveGroup(storage: Storage, target: string, fromOption: number | undefined): void {
  const group = storage.fsGroup?.groupId ?? fromOption;
  if (group === undefined) {
    return;
  }
  const { uid, mode } = statSync(target);
  chownSync(target, uid, group);
  chmodSync(target, (mode & 0o7777) | 0o2060);
}

function attachEphemeral(storage: Storage, target: string): () => void {
  if (storage.fstype === 'hugetlbfs') {
    reserveHugePages(storage.options);
    return mountStorage({ ...storage, source: 'nodev' }, target);
  }
  return mountStorage({ ...storage, fstype: storage.fstype === '' ? 'tmpfs' : storage.fstype }, target);
}

/** Reserves the pages that a hugetlbfs of this size needs. */
function reserveHugePages(options: readonly string[]): void {
  const value = (name: string): number => {
    const text = options.flatMap((words) => words.split(',')).find((word) => word.startsWith(`${name}=`))?.slice(name.length + 1) ?? '';
    const match = /^(\d+)([KMG]?)/i.exec(text);
    return match === null ? 0 : Number(match[1]) * ({ '': 1, K: 1024, M: 1024 ** 2, G: 1024 ** 3 }[(match[2] ?? '').toUpperCase()] ?? 1);
  };
  const pageSize = value('pagesize');
  if (pageSize <= 0) {
    throw new KataError('InvalidArgument', 'hugetlbfs: the option pagesize is missing');
  }
  const file = `/sys/kernel/mm/hugepages/hugepages-${String(pageSize / 1024)}kB/nr_hugepages`;
  writeFileSync(file, String(Math.ceil(value('size') / pageSize)));
}

function attachLocal(storage: Storage, target: string): () => void {
  const words = storage.options.flatMap((option) => option.split(','));
  const mode = /^mode=([0-7]{3,4})$/.exec(words.find((word) => word.startsWith('mode=')) ?? '')?.[1];
  makeFolder(target);
  if (mode !== undefined) {
    chmodSync(target, parseInt(mode, 8));
  }
  giveGroup(storage, target, parseMountOptions(storage.options).groupId);
  return () => undefined;
}

function attachBind(storage: Storage, target: string): () => void {
  const source = checkAbsolute(storage.source, 'source');
  const options = storage.options.some((option) => ['bind', 'rbind'].includes(option)) ? storage.options : ['rbind', ...storage.options];
  return mountStorage({ ...storage, source, fstype: '', options }, target);
}

const CREATE_FOLDER = 'io.katacontainers.volume.overlayfs.create_directory=';

function attachOverlay(storage: Storage, target: string): () => void {
  for (const option of storage.driverOptions.filter((word) => word.startsWith(CREATE_FOLDER))) {
    makeFolder(checkAbsolute(option.slice(CREATE_FOLDER.length), 'overlay folder'));
  }
  return mountStorage({ ...storage, fstype: 'overlay', source: storage.source === '' ? 'overlay' : storage.source }, target);
}
