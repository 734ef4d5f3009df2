/**
 * What becomes of each mount of a container's spec (virtcontainers-behaviour 5.5, 7.3-7.6): shared, a storage of the
 * guest, a block device, left as it is, or dropped.
 */
import { mkdirSync, readdirSync, statSync, statfsSync, type Stats } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { ephemeralStorage, GUEST_SHM_PATH, GUEST_STORAGE_DIR, hugetlbfsStorage, localStorage, watchableStorage } from '../../agent-client/storage';
import type { AgentStorage } from '../../agent-client/types';
import { KataError } from '../../base/errors';
import type { OciInteger, OciMount, OciSpec } from '../../base/oci-spec';
import type { UndoStack } from '../../base/undo';
import { claimVolume, DIRECT_VOLUMES_ROOT, findVolume, fsGroupOf, type MountInfo } from '../volume/direct-volume';
import type { FsShare, PendingCopy } from './share';

export interface MountContext {
  readonly containerId: string;
  readonly sandboxId: string;
  readonly share: FsShare;
  /** Bytes of the sandbox's /dev/shm; 0: each container has its own. */
  readonly shmSizeBytes: number;
  readonly disableGuestEmptyDir: boolean;
  /** The VM takes block devices. */
  readonly blockCapable: boolean;
  /** Where direct-assigned volumes are noted; default upstream's folder. */
  readonly directVolumes?: string;
}

/** A volume on a block device: attached to the VM, then mounted by the guest at `guestPath`. */
export interface BlockVolume {
  readonly device: string;
  readonly guestPath: string;
  readonly fsType: string;
  readonly options: readonly string[];
  readonly readOnly: boolean;
  readonly fsGroup?: NonNullable<AgentStorage['fsGroup']>;
}

export interface PlannedMounts {
  /** The mounts of the spec for the guest. */
  readonly mounts: readonly OciMount[];
  readonly storages: readonly AgentStorage[];
  readonly copies: readonly PendingCopy[];
  readonly volumes: readonly BlockVolume[];
}

const TMPFS = 0x01021994;
const HUGETLBFS = 0x958458f6;
const WATCHABLE_MAX_FILES = 8;
const OWN_SHM_OPTIONS = ['noexec', 'nosuid', 'nodev', 'mode=1777', 'size=67108864'];

const isBind = (mount: OciMount): boolean => mount.type === 'bind' || (mount.options ?? []).some((option) => option === 'bind' || option === 'rbind');
const isUnder = (path: string, folder: string): boolean => path === folder || path.startsWith(`${folder}/`);
const isReadOnly = (mount: OciMount): boolean => (mount.options ?? []).includes('ro');

function statOrUndefined(path: string): Stats | undefined {
  try {
    return statSync(path);
  } catch {
    return undefined;
  }
}

/** The kind of Kubernetes volume by its path (`.../kubernetes.io~empty-dir/<name>`), else ''. */
function volumeKind(source: string): string {
  const parent = basename(dirname(source));
  return parent.startsWith('kubernetes.io~') ? parent.slice('kubernetes.io~'.length) : '';
}

function fileSystemOf(path: string): number {
  try {
    return statfsSync(path).type;
  } catch {
    return 0;
  }
}

function filesBelow(folder: string, limit: number): number {
  let count = 0;
  const pending = [folder];
  for (let at = pending.pop(); at !== undefined && count <= limit; at = pending.pop()) {
    for (const entry of readdirSync(at, { withFileTypes: true })) {
      if (entry.isDirectory()) {
        pending.push(join(at, entry.name));
      } else if (entry.isFile()) {
        count++;
      }
    }
  }
  return count;
}

class Planner {
  readonly mounts: OciMount[] = [];
  readonly storages: AgentStorage[] = [];
  readonly copies: PendingCopy[] = [];
  readonly volumes: BlockVolume[] = [];

  constructor(
    private readonly undo: UndoStack,
    private readonly context: MountContext,
    private readonly spec: OciSpec,
  ) {}

  plan(mount: OciMount): void {
    const source = mount.source ?? '';
    if (mount.destination === '/dev/shm') {
      this.mounts.push(this.shm());
    } else if (!isBind(mount) || isUnder(source, '/proc') || isUnder(source, '/sys') || this.isGuestDevice(mount, source)) {
      this.mounts.push(mount);
    } else if (volumeKind(source) === 'empty-dir' && this.emptyDir(mount, source)) {
      return;
    } else if (this.context.blockCapable && this.directVolume(mount, source)) {
      return;
    } else if (this.context.blockCapable && statOrUndefined(source)?.isBlockDevice() === true) {
      this.blockVolume(mount, source);
    } else {
      this.shared(mount, source);
    }
  }

  private shm(): OciMount {
    return this.context.shmSizeBytes > 0
      ? { destination: '/dev/shm', type: 'bind', source: GUEST_SHM_PATH, options: ['rbind'] }
      : { destination: '/dev/shm', type: 'tmpfs', source: 'shm', options: OWN_SHM_OPTIONS };
  }

  /** /dev itself and what is no plain file below it are the guest's own. */
  private isGuestDevice(mount: OciMount, source: string): boolean {
    if (mount.destination === '/dev') {
      return true;
    }
    return isUnder(mount.destination, '/dev') && statOrUndefined(source)?.isFile() !== true;
  }

  /** A Kubernetes emptyDir lives in the guest; true if this one does. */
  private emptyDir(mount: OciMount, source: string): boolean {
    const name = basename(source);
    const gid = statOrUndefined(source)?.gid ?? 0;
    const fileSystem = fileSystemOf(source);
    let storage: AgentStorage;
    if (fileSystem === TMPFS) {
      storage = ephemeralStorage(name, gid);
    } else if (fileSystem === HUGETLBFS) {
      const pageSize = statfsSync(source).bsize;
      storage = hugetlbfsStorage(name, pageSize, this.hugepageLimit(pageSize));
    } else if (!this.context.disableGuestEmptyDir) {
      storage = localStorage(this.context.sandboxId, name, gid);
    } else {
      return false;
    }
    this.storages.push(storage);
    this.mounts.push({ ...mount, type: 'bind', source: storage.mountPoint });
    return true;
  }

  private hugepageLimit(pageSizeBytes: number): OciInteger {
    const mebibytes = pageSizeBytes / (1024 * 1024);
    const names = mebibytes >= 1024 ? [`${mebibytes / 1024}GB`, `${mebibytes / 1024}Gi`] : [`${mebibytes}MB`, `${mebibytes}Mi`];
    return this.spec.linux?.resources?.hugepageLimits?.find((entry) => names.includes(entry.pageSize))?.limit ?? 0;
  }

  /** A volume that `kata-runtime direct-volume add` made known: its device goes to the VM, not its folder. True if it is one. */
  private directVolume(mount: OciMount, source: string): boolean {
    const root = this.context.directVolumes ?? DIRECT_VOLUMES_ROOT;
    const info: MountInfo | undefined = findVolume(root, source);
    if (info === undefined) {
      return false;
    }
    if (statOrUndefined(info.device) === undefined) {
      throw new KataError('NotFound', `direct volume ${source}: its device ${JSON.stringify(info.device)} does not exist`, { hint: 'correct it with kata-runtime direct-volume add' });
    }
    claimVolume(root, source, this.context.sandboxId);
    const guestPath = `${GUEST_STORAGE_DIR}/${Buffer.from(source).toString('base64url')}`;
    const fsGroup = fsGroupOf(info);
    this.volumes.push({ device: info.device, guestPath, fsType: info.fstype, options: info.options, readOnly: info.options.includes('ro'), ...(fsGroup === undefined ? {} : { fsGroup }) });
    this.mounts.push({ ...mount, type: 'bind', source: guestPath });
    return true;
  }

  private blockVolume(mount: OciMount, source: string): void {
    const guestPath = `${GUEST_STORAGE_DIR}/${Buffer.from(source).toString('base64url')}`;
    this.volumes.push({ device: source, guestPath, fsType: mount.type === 'bind' ? '' : (mount.type ?? ''), options: mount.options ?? [], readOnly: isReadOnly(mount) });
    this.mounts.push({ ...mount, source: guestPath });
  }

  private shared(mount: OciMount, source: string): void {
    const { share, containerId } = this.context;
    const file = share.shareFile(this.undo, containerId, source, mount.destination, isReadOnly(mount));
    if (file === undefined) {
      return;
    }
    if (file.copy !== undefined) {
      this.copies.push(file.copy);
    }
    this.mounts.push({ ...mount, type: 'bind', source: this.watched(mount, source, file.guestPath) });
  }

  /** Small configuration folders are watched by the guest, because the share tells it of no change. */
  private watched(mount: OciMount, source: string, guestPath: string): string {
    const { share } = this.context;
    if (!share.enabled || !['configmap', 'secret'].includes(volumeKind(source)) || statOrUndefined(source)?.isDirectory() !== true) {
      return guestPath;
    }
    const count = filesBelow(source, WATCHABLE_MAX_FILES);
    if (count === 0 || count > WATCHABLE_MAX_FILES) {
      return guestPath;
    }
    mkdirSync(join(share.paths.mounts, 'watchable'), { recursive: true, mode: 0o750 });
    const storage = watchableStorage(guestPath, mount.options ?? []);
    this.storages.push(storage);
    return storage.mountPoint;
  }
}

/** Plans and, on the host's side, carries out all mounts of a spec. What it acquires is on `undo`. */
export function planMounts(undo: UndoStack, context: MountContext, spec: OciSpec): PlannedMounts {
  const planner = new Planner(undo, context, spec);
  for (const mount of spec.mounts ?? []) {
    planner.plan(mount);
  }
  return planner;
}
