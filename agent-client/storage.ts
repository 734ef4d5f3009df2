/** Builders of the storages that an agent mounts for a sandbox or a container. Paths are the guest's. */
import { KataError } from '../base/errors';
import type { AgentStorage } from './types';

/** Tag of the shared folder. */
export const SHARE_TAG = 'kataShared';
/** Where the guest has the shared folder. */
export const GUEST_SHARE_DIR = '/run/kata-containers/shared/containers/';
/** Folder of the guest for what belongs to the sandbox. */
export const GUEST_SANDBOX_DIR = '/run/kata-containers/sandbox';
/** The /dev/shm of the sandbox. */
export const GUEST_SHM_PATH = `${GUEST_SANDBOX_DIR}/shm`;
/** Folder for tmpfs and huge page volumes. */
export const GUEST_EPHEMERAL_DIR = `${GUEST_SANDBOX_DIR}/ephemeral`;
/** Folder for block volumes. */
export const GUEST_STORAGE_DIR = `${GUEST_SANDBOX_DIR}/storage`;
/** Folder for watched config maps and secrets. */
export const GUEST_WATCHABLE_DIR = '/run/kata-containers/shared/containers/watchable';

/** The shared folder over virtio-fs; `dax` maps the host's page cache into the guest. */
export function virtioFsStorage(options: { readonly dax: boolean }): AgentStorage {
  return {
    driver: 'virtio-fs',
    source: SHARE_TAG,
    fstype: 'virtiofs',
    options: options.dax ? ['dax'] : [],
    mountPoint: GUEST_SHARE_DIR,
  };
}

/** The shared folder over 9p. `cache` is `mmap` unless only the guest writes (`loose`). */
export function ninePStorage(options: { readonly msizeBytes: number; readonly cache?: 'mmap' | 'loose' | 'none' }): AgentStorage {
  return {
    driver: '9p',
    source: SHARE_TAG,
    fstype: '9p',
    options: [`trans=virtio,version=9p2000.L,cache=${options.cache ?? 'mmap'}`, 'nodev', `msize=${options.msizeBytes}`],
    mountPoint: GUEST_SHARE_DIR,
  };
}

/** The sandbox's /dev/shm. */
export function shmStorage(sizeBytes: number): AgentStorage {
  return {
    driver: 'ephemeral',
    source: 'shm',
    fstype: 'tmpfs',
    options: ['noexec', 'nosuid', 'nodev', 'mode=1777', `size=${sizeBytes}`],
    mountPoint: GUEST_SHM_PATH,
  };
}

/** A memory-backed emptyDir. `name` is the last part of its host path; `gid` 0 means no group. */
export function ephemeralStorage(name: string, gid = 0): AgentStorage {
  return {
    driver: 'ephemeral',
    source: 'tmpfs',
    fstype: 'tmpfs',
    options: groupOption(gid),
    mountPoint: `${GUEST_EPHEMERAL_DIR}/${checkName(name)}`,
  };
}

/** An emptyDir on huge pages. */
export function hugetlbfsStorage(name: string, pageSizeBytes: number, sizeBytes: number | bigint): AgentStorage {
  return {
    driver: 'ephemeral',
    source: 'nodev',
    fstype: 'hugetlbfs',
    options: [`pagesize=${pageSizeBytes},size=${sizeBytes}`],
    mountPoint: `${GUEST_EPHEMERAL_DIR}/${checkName(name)}`,
  };
}

/** An emptyDir on the guest's disk: a folder beside the sandbox container's root file system. */
export function localStorage(sandboxId: string, name: string, gid = 0): AgentStorage {
  return {
    driver: 'local',
    source: 'local',
    fstype: 'local',
    options: ['mode=0777', ...groupOption(gid)],
    mountPoint: `${GUEST_SHARE_DIR}${checkName(sandboxId)}/rootfs/local/${checkName(name)}`,
  };
}

/** A small config map or secret that the agent watches and copies, since the share tells nobody of changes. */
export function watchableStorage(sharedPath: string, options: readonly string[]): AgentStorage {
  const name = sharedPath.slice(sharedPath.lastIndexOf('/') + 1);
  return {
    driver: 'watchable-bind',
    source: sharedPath,
    fstype: 'bind',
    options,
    mountPoint: `${GUEST_WATCHABLE_DIR}/${checkName(name)}`,
  };
}

/** How the guest finds a block device. */
export type BlockAddress =
  | { readonly kind: 'pci'; readonly path: string }
  | { readonly kind: 'scsi'; readonly target: number; readonly lun: number }
  | { readonly kind: 'mmio'; readonly device: string }
  | { readonly kind: 'nvdimm'; readonly device: string };

/** Driver and source of a block device: `blk` by PCI path, `scsi` as `target:lun`, `mmioblk` and `nvdimm` by node. */
export function blockSource(address: BlockAddress): { readonly driver: string; readonly source: string } {
  switch (address.kind) {
    case 'pci':
      return { driver: 'blk', source: address.path };
    case 'scsi':
      return { driver: 'scsi', source: `${address.target}:${address.lun}` };
    case 'mmio':
      return { driver: 'mmioblk', source: address.device };
    case 'nvdimm':
      return { driver: 'nvdimm', source: address.device };
  }
}

/** A block device with a file system on it. */
export interface BlockStorage {
  readonly address: BlockAddress;
  readonly fstype: string;
  readonly options?: readonly string[];
  readonly driverOptions?: readonly string[];
  readonly mountPoint: string;
  readonly fsGroup?: NonNullable<AgentStorage['fsGroup']>;
}

/** Mounts a block device. */
export function blockStorage({ address, fstype, options, driverOptions, mountPoint, fsGroup }: BlockStorage): AgentStorage {
  return {
    ...blockSource(address),
    fstype,
    options: options ?? [],
    mountPoint,
    ...(driverOptions === undefined ? {} : { driverOptions }),
    ...(fsGroup === undefined ? {} : { fsGroup }),
  };
}

/** Where a block volume is mounted: named after its source, so that no two meet and no name escapes the folder. */
export function blockMountPoint(address: BlockAddress): string {
  return `${GUEST_STORAGE_DIR}/${Buffer.from(blockSource(address).source).toString('base64url')}`;
}

/** Folders that the guest puts over each other; `layers` from top to bottom. */
export interface OverlayStorage {
  readonly layers: readonly string[];
  readonly upperDir?: string;
  readonly workDir?: string;
  readonly mountPoint: string;
  /** Folders of the guest to make first. */
  readonly createDirectories?: readonly string[];
}

/** An overlay made in the guest. */
export function overlayStorage({ layers, upperDir, workDir, mountPoint, createDirectories }: OverlayStorage): AgentStorage {
  if (layers.length === 0 || layers.some((layer) => /[:,\\]/.test(layer))) {
    throw new KataError('InvalidArgument', `overlay on ${mountPoint}: no layers, or one with ":", "," or "\\" in its path`);
  }
  return {
    driver: 'overlayfs',
    driverOptions: (createDirectories ?? []).map((path) => `io.katacontainers.volume.overlayfs.create_directory=${path}`),
    source: 'overlay',
    fstype: 'overlay',
    options: [
      `lowerdir=${layers.join(':')}`,
      ...(upperDir === undefined ? [] : [`upperdir=${upperDir}`]),
      ...(workDir === undefined ? [] : [`workdir=${workDir}`]),
    ],
    mountPoint,
  };
}

function groupOption(gid: number): string[] {
  return gid === 0 ? [] : [`fsgid=${gid}`];
}

/** One path component, or InvalidArgument: names come from mounts of the client. */
function checkName(name: string): string {
  if (name === '' || name === '.' || name === '..' || name.includes('/') || name.includes('\0')) {
    throw new KataError('InvalidArgument', `storage name ${JSON.stringify(name)}: no single path component`);
  }
  return name;
}
