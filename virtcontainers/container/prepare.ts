/** The host's half of creating a container: all that needs neither VM nor agent, so that it runs while the VM boots. */
import { GUEST_SHARE_DIR } from '../../agent-client/storage';
import type { UndoStack } from '../../base/undo';
import { planMounts, type PlannedMounts } from '../fs-share/container-mounts';
import type { Mounts } from '../fs-share/mounts';
import { prepareRootfs, type Rootfs } from '../fs-share/rootfs';
import type { FsShare, PendingCopy } from '../fs-share/share';
import type { ContainerRequest } from './types';

export interface PrepareContext {
  readonly sandboxId: string;
  readonly share: FsShare;
  readonly mounts: Mounts;
  readonly shmSizeBytes: number;
  readonly disableGuestEmptyDir: boolean;
  /** Block devices may go to the VM. */
  readonly blockCapable: boolean;
}

export interface PreparedContainer {
  readonly rootfs: Rootfs;
  readonly guestRootPath: string;
  readonly planned: PlannedMounts;
  readonly copies: readonly PendingCopy[];
}

/** Mounts and shares the root file system and the mounts of the spec. What it acquires is on `undo`. */
export function prepareContainer(undo: UndoStack, context: PrepareContext, request: ContainerRequest): PreparedContainer {
  const rootfs = prepareRootfs(undo, request, context.blockCapable, context.mounts);
  const copies: PendingCopy[] = [];
  let guestRootPath: string;
  if (rootfs.kind === 'block') {
    guestRootPath = context.share.placeForRootfs(undo, request.id);
  } else {
    if (context.share.enabled) {
      guestRootPath = context.share.shareRootfs(undo, request.id, rootfs.path);
    } else {
      guestRootPath = `${GUEST_SHARE_DIR}${request.id}/rootfs`;
      copies.push({ hostPath: rootfs.path, guestPath: guestRootPath });
    }
  }
  const planned = planMounts(undo, { ...context, containerId: request.id }, request.spec);
  return { rootfs, guestRootPath, planned, copies: [...copies, ...planned.copies] };
}
