/**
 * Frees what a dead shim left, from disk alone (docs/persistence-and-delete.md). Idempotent, parallel-safe, harmless to
 * a sandbox whose shim lives.
 */
import { closeSync, openSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { isProcessAlive } from '../../base/child';
import { sleep } from '../../base/deadline';
import { describeError, errnoOf, KataError } from '../../base/errors';
import { checkAbsolute, checkId } from '../../base/ids';
import type { Logger } from '../../base/log';
import { flock } from '../../base/syscalls';
import { removeCgroups } from '../cgroup/cgroup';
import { mountPointsBelow } from '../fs-share/mounts';
import { sharePaths } from '../fs-share/paths';
import { removeShareFolders } from '../fs-share/share';
import type { OwnState } from '../persist/document';
import { SandboxStore } from '../persist/store';
import { DEFAULT_DEPS, type SandboxDeps } from './deps';
import type { CleanupRequest, CleanupResult } from './types';

const LOCK_TIMEOUT_MS = 800;
const LOCK_PAUSE_MS = 10;

/** Holds the lock of a sandbox's state folder while `work` runs. Without a folder, or without getting the lock in time, it runs all the same. */
async function withLock<T>(folder: string, logger: Logger, work: () => Promise<T>): Promise<T> {
  let fd: number;
  try {
    fd = openSync(folder, 'r');
  } catch (reason) {
    if (errnoOf(reason) === 'ENOENT') {
      return work();
    }
    throw KataError.from(reason, `open the state folder ${folder}`, { hint: 'look at what stands in its place' });
  }
  try {
    const deadline = Date.now() + LOCK_TIMEOUT_MS;
    while (!flock(fd, 'try-exclusive')) {
      if (Date.now() > deadline) {
        logger.warn('somebody holds the lock of the sandbox for long; going on without', { folder });
        break;
      }
      await sleep(LOCK_PAUSE_MS);
    }
    return await work();
  } finally {
    closeSync(fd);
  }
}

/** A broken document counts as none: then the well-known folders are all there is to go by. */
function loadOrWarn(store: SandboxStore, logger: Logger): OwnState | undefined {
  try {
    return store.load();
  } catch (reason) {
    logger.warn('state not readable', { error: describeError(reason) });
    return undefined;
  }
}

function ownerAlive(own: OwnState | undefined): boolean {
  return own !== undefined && isProcessAlive(own.shim.pid, own.shim.startTime);
}

async function attempt(logger: Logger, what: string, work: () => Promise<void> | void): Promise<void> {
  try {
    await work();
  } catch (reason) {
    logger.warn(`cleanup: ${what} failed`, { error: describeError(reason) });
  }
}

/** Frees VM, mounts, share and cgroups of a sandbox whose owner is dead. Never throws; goes on over each failure. */
async function freeSandbox(sandboxId: string, own: OwnState | undefined, logger: Logger, deps: SandboxDeps): Promise<void> {
  const vm = own?.vm;
  if (vm !== undefined) {
    await attempt(logger, 'virtual machine', async () => {
      await (await deps.driverFor(vm.type)).cleanup(vm);
    });
  }
  const paths = sharePaths(deps.roots.share, sandboxId);
  await attempt(logger, 'share', () => {
    for (const point of mountPointsBelow(paths.root)) {
      deps.mounts.unmountAll(point);
    }
    removeShareFolders(paths);
  });
  for (const container of Object.values(own?.containers ?? {})) {
    await attempt(logger, 'root file system', () => {
      unmountRootfs(container.rootfs, deps);
    });
  }
  const cgroups = (own?.cgroups ?? []).filter((folder) => folder.startsWith(`${deps.roots.cgroup}/`));
  await attempt(logger, 'cgroups', () => removeCgroups(cgroups));
  await attempt(logger, 'VM folder', () => {
    rmSync(join(deps.roots.vm, sandboxId), { recursive: true, force: true });
  });
}

function unmountRootfs(rootfs: string, deps: SandboxDeps): void {
  if (rootfs !== '') {
    deps.mounts.unmountAll(checkAbsolute(rootfs, 'root file system'));
  }
}

/** For a new sandbox under the id of an old one: AlreadyExists if the old one's owner lives, else it is cleared away. */
export async function clearDeadSandbox(store: SandboxStore, sandboxId: string, logger: Logger, deps: SandboxDeps): Promise<void> {
  await withLock(store.folder, logger, async () => {
    const own = loadOrWarn(store, logger);
    if (ownerAlive(own)) {
      throw new KataError('AlreadyExists', `create sandbox "${sandboxId}": it exists already, with shim ${String(own?.shim.pid)}`);
    }
    await freeSandbox(sandboxId, own, logger, deps);
    store.remove();
  });
}

/** Frees the dead sandbox if that is still to be done, and forgets one container; the folder goes with the last record. */
async function forget(store: SandboxStore, request: CleanupRequest, own: OwnState | undefined, deps: SandboxDeps): Promise<void> {
  if (own?.freed !== true) {
    await freeSandbox(request.sandboxId, own, request.logger, deps);
  }
  const containers = Object.fromEntries(Object.entries(own?.containers ?? {}).filter(([id]) => id !== request.containerId));
  if (own === undefined || Object.keys(containers).length === 0) {
    store.remove();
    return;
  }
  // The exits of its other containers are still to be asked for.
  store.save({
    id: request.sandboxId,
    state: 'stopped',
    hypervisorType: own.vm?.type ?? 'qemu',
    agentUrl: '',
    netns: '',
    sandboxCgroup: '',
    overheadCgroup: '',
    own: { shim: own.shim, vm: undefined, cgroups: [], containers, freed: true },
  });
}

/** See `CleanupRequest`. InvalidArgument for ids that are none; anything else that fails is logged and gone over. */
export async function cleanupContainer(request: CleanupRequest, deps: SandboxDeps = DEFAULT_DEPS): Promise<CleanupResult> {
  checkId(request.containerId, 'container');
  const store = new SandboxStore(deps.roots.state, request.sandboxId);
  return withLock(store.folder, request.logger, async () => {
    const own = loadOrWarn(store, request.logger);
    const container = own?.containers[request.containerId];
    if (!ownerAlive(own)) {
      await attempt(request.logger, 'sandbox', () => forget(store, request, own, deps));
    }
    await attempt(request.logger, 'root file system', () => {
      deps.mounts.unmountAll(join(checkAbsolute(request.bundle, 'bundle'), 'rootfs'));
    });
    const exit = container?.exit;
    const at = new Date(exit?.at ?? '');
    return {
      pid: own?.vm?.processes[0]?.pid ?? 0,
      exit: exit === undefined || Number.isNaN(at.getTime()) ? undefined : { status: exit.status, at },
    };
  });
}
