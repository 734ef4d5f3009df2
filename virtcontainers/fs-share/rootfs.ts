/** The root file system of a container on the host (shim-behaviour 4.1). */
import { existsSync, mkdirSync, realpathSync, statSync } from 'node:fs';
import { isAbsolute, join } from 'node:path';
import { errnoOf, KataError } from '../../base/errors';
import { joinBelow } from '../../base/ids';
import type { UndoStack } from '../../base/undo';
import type { ContainerRequest, RootfsMount } from '../container/types';
import type { Mounts } from './mounts';

/** What a container's root file system is: a folder of the host, or a block device for the VM. */
export type Rootfs =
  | { readonly kind: 'folder'; readonly path: string; /** '' if we mounted nothing. */ readonly mounted: string }
  | { readonly kind: 'block'; readonly device: string; readonly fsType: string; readonly options: readonly string[]; readonly readOnly: boolean };

function isBlockDevice(path: string): boolean {
  try {
    return statSync(path).isBlockDevice();
  } catch {
    return false;
  }
}

/** The single block device that holds the root file system, if it is one. */
function blockRootfs(mounts: readonly RootfsMount[]): Rootfs | undefined {
  const [only] = mounts;
  if (only === undefined || mounts.length !== 1 || only.target !== '' || only.options.some((option) => option === 'bind' || option === 'rbind')) {
    return undefined;
  }
  if (!isBlockDevice(only.source)) {
    return undefined;
  }
  const options = only.options.filter((option) => option !== 'loop' && option !== 'rw');
  return { kind: 'block', device: realpathSync(only.source), fsType: only.type, options, readOnly: options.includes('ro') };
}

/** Finds or mounts the root file system. `blockCapable`: block devices go to the VM unmounted. */
export function prepareRootfs(undo: UndoStack, request: ContainerRequest, blockCapable: boolean, mounts: Mounts): Rootfs {
  const block = blockCapable ? blockRootfs(request.rootfs) : undefined;
  if (block !== undefined) {
    return block;
  }
  const root = request.spec.root?.path ?? 'rootfs';
  if (request.rootfs.length === 0) {
    const path = isAbsolute(root) ? root : join(request.bundle, root);
    if (!existsSync(path)) {
      throw new KataError('NotFound', `create container "${request.id}": root file system ${path}: no such file or directory`);
    }
    return { kind: 'folder', path: realpathSync(path), mounted: '' };
  }
  const target = join(request.bundle, 'rootfs');
  mkdirSync(target, { recursive: true, mode: 0o711 });
  undo.push(`root file system ${target}`, () => {
    mounts.unmountAll(target);
  });
  for (const one of request.rootfs) {
    const at = joinBelow(target, one.target, 'root file system mount');
    try {
      mounts.mount(one.type, one.source, at, one.options);
    } catch (reason) {
      const missing = errnoOf(reason) === 'ENOENT' ? ': no such file or directory' : '';
      throw KataError.from(reason, `create container "${request.id}": root file system ${one.type} ${one.source}${missing}`);
    }
  }
  return { kind: 'folder', path: target, mounted: target };
}
