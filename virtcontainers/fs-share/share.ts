/**
 * The folder that a sandbox shares with its guest. With a share (virtio-fs, 9p) files are bind-mounted into it; without
 * one (`shared_fs = "none"`) they are copied through the agent. Host layout: virtcontainers-behaviour 1.6 and 1.8.
 */
import { existsSync, lstatSync, mkdirSync, readdirSync, rmdirSync, rmSync, statSync } from 'node:fs';
import { basename, join } from 'node:path';
import { GUEST_SHARE_DIR } from '../../agent-client/storage';
import { KataError } from '../../base/errors';
import type { UndoStack } from '../../base/undo';
import { uniqueHex } from '../device/serial';
import type { Mounts } from './mounts';
import type { SharePaths } from './paths';

/** A file or folder to copy into the guest before the container is created there. */
export interface PendingCopy {
  readonly hostPath: string;
  readonly guestPath: string;
}

export interface SharedFile {
  readonly guestPath: string;
  readonly copy: PendingCopy | undefined;
}

export class FsShare {
  constructor(
    readonly paths: SharePaths,
    /** False: `shared_fs = "none"`. */
    readonly enabled: boolean,
    private readonly mounts: Mounts,
  ) {}

  /** Makes the folders, and `shared` as a read-only view of `mounts` that follows later mounts. */
  prepare(undo: UndoStack, sandboxBindMounts: readonly string[]): void {
    undo.push(`share folder ${this.paths.root}`, () => {
      this.removeFolders();
    });
    mkdirSync(this.paths.root, { recursive: true, mode: 0o750 });
    mkdirSync(this.paths.shared, { recursive: true, mode: 0o700 });
    mkdirSync(this.paths.mounts, { recursive: true, mode: 0o750 });
    if (!this.enabled) {
      return;
    }
    // In our own mount namespace /run does not propagate: `mounts` becomes a propagating mount point of its own.
    this.take(undo, this.paths.mounts, () => {
      this.mounts.bind(this.paths.mounts, this.paths.mounts, { readOnly: false, recursive: false });
      this.mounts.propagate(this.paths.mounts, 'private');
      this.mounts.propagate(this.paths.mounts, 'shared');
    });
    this.take(undo, this.paths.shared, () => {
      this.mounts.bind(this.paths.mounts, this.paths.shared, { readOnly: false, recursive: false });
      this.mounts.propagate(this.paths.shared, 'slave');
      this.mounts.remountReadOnly(this.paths.shared);
    });
    this.bindForSandbox(undo, sandboxBindMounts);
  }

  /** From here on what is mounted for the guest goes into the share that a VM of a factory has already. Before the first container. */
  moveInto(undo: UndoStack, share: { readonly pid: number; readonly path: string }, sandboxBindMounts: readonly string[]): void {
    this.take(undo, this.paths.mounts, () => {
      this.mounts.joinMount(share.pid, share.path, this.paths.mounts);
    });
    this.bindForSandbox(undo, sandboxBindMounts);
  }

  private bindForSandbox(undo: UndoStack, sandboxBindMounts: readonly string[]): void {
    for (const source of sandboxBindMounts) {
      this.bindInto(undo, source, join('sandbox-mounts', basename(source)), true);
    }
  }

  /** Shows a container's root file system to the guest; returns its path there. Only with a share. */
  shareRootfs(undo: UndoStack, containerId: string, rootfs: string): string {
    const name = join(containerId, 'rootfs');
    undo.push(`share of container ${containerId}`, () => {
      removeEmpty(join(this.paths.mounts, containerId));
    });
    this.bindInto(undo, rootfs, name, false);
    return `${GUEST_SHARE_DIR}${name}`;
  }

  /** The folder on which the guest mounts a root file system of its own; returns its path there. In a share, which is read-only in the guest, we make it. */
  placeForRootfs(undo: UndoStack, containerId: string): string {
    if (this.enabled) {
      const place = join(this.paths.mounts, containerId);
      undo.push(`share of container ${containerId}`, () => {
        removeEmpty(place);
      });
      mkdirSync(place, { recursive: true, mode: 0o755 });
    }
    return `${GUEST_SHARE_DIR}${containerId}`;
  }

  /** Shows a file or folder of the host to the guest. Undefined without a share for what cannot be copied (a socket, a device). */
  shareFile(undo: UndoStack, containerId: string, source: string, destination: string, readOnly: boolean): SharedFile | undefined {
    if (!existsSync(source)) {
      throw new KataError('NotFound', `mount ${source} on ${destination} in container "${containerId}": no such file or directory`);
    }
    const name = `${containerId}-${uniqueHex()}-${basename(destination)}`;
    const guestPath = `${GUEST_SHARE_DIR}${name}`;
    if (this.enabled) {
      this.bindInto(undo, source, name, readOnly);
      return { guestPath, copy: undefined };
    }
    const kind = statSync(source);
    return kind.isFile() || kind.isDirectory() ? { guestPath, copy: { hostPath: source, guestPath } } : undefined;
  }

  /** A read-only bind is staged: a remount in place would not reach those who already see `shared`. */
  private bindInto(undo: UndoStack, source: string, name: string, readOnly: boolean): void {
    const target = join(this.paths.mounts, name);
    undo.push(`share of ${source}`, () => {
      this.mounts.unmountAll(target);
      removeEmpty(target);
    });
    if (!readOnly) {
      this.mounts.bind(source, target, { readOnly: false, recursive: true });
      return;
    }
    const stage = join(this.paths.private, name);
    this.mounts.bind(source, stage, { readOnly: true, recursive: true });
    try {
      this.mounts.bind(stage, target, { readOnly: true, recursive: true });
    } finally {
      this.mounts.unmountAll(stage);
      removeEmpty(stage);
    }
  }

  private take(undo: UndoStack, target: string, work: () => void): void {
    undo.push(`mount ${target}`, () => {
      this.mounts.unmountAll(target);
    });
    work();
  }

  private removeFolders(): void {
    removeShareFolders(this.paths);
  }
}

/** Removes a target of ours if it is an empty file or an empty folder; anything else is not ours to remove. */
export function removeEmpty(path: string): void {
  try {
    const kind = lstatSync(path);
    if (kind.isDirectory()) {
      rmdirSync(path);
    } else if (kind.isFile() && kind.size === 0) {
      rmSync(path);
    }
  } catch {
    // Gone, or in use by a mount that ends later; the cleanup of the sandbox looks again.
  }
}

/** Removes what is left of the share folders, never following into a mount: only empty files and folders go. */
export function removeShareFolders(paths: SharePaths): void {
  const sweep = (folder: string): void => {
    try {
      for (const entry of readdirSync(folder, { withFileTypes: true })) {
        const path = join(folder, entry.name);
        if (entry.isDirectory()) {
          sweep(path);
        }
        removeEmpty(path);
      }
    } catch {
      return;
    }
  };
  sweep(paths.root);
  removeEmpty(paths.root);
}
