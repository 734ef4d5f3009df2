/**
 * Where a template's files lie. Best is a tmpfs of its own, so that a template can never fill /run; it must be seen by
 * every shim, and a shim has its own mount namespace: the mount is made in that of process 1, from where it comes to us.
 * Where that cannot be, the files lie in the folder itself.
 */
import { readlinkSync, statfsSync, statSync } from 'node:fs';
import { dirname } from 'node:path';
import { run } from '../../base/child';
import { mount, MS, unmount } from '../../base/syscalls';

const TMPFS_MAGIC = 0x01021994;
const COMMAND_TIMEOUT_MS = 5000;

export interface TemplateMounts {
  /** Mounts a tmpfs where all can see it; false where that is impossible: nothing is mounted then. */
  mount(target: string, sizeMiB: number): Promise<boolean>;
  /** Takes it off; nothing mounted: fine. */
  unmount(target: string): Promise<void>;
  isMounted(target: string): boolean;
}

/** Extra room for device state (upstream's figures). */
export function slackMiB(arch: string = process.arch): number {
  return arch === 'arm64' ? 300 : 8;
}

/** True if this folder is the root of a mount. */
export function isMountPoint(path: string): boolean {
  const [own, parent] = [statSync(path, { throwIfNoEntry: false }), statSync(dirname(path), { throwIfNoEntry: false })];
  return own !== undefined && parent !== undefined && own.dev !== parent.dev;
}

export function isTmpfs(path: string): boolean {
  return statfsSync(path).type === TMPFS_MAGIC;
}

/** `ours`: this process is where everybody looks; `reach`: process 1 is, and we can get there; `none`. */
function hostNamespace(isolated: boolean): 'ours' | 'reach' | 'none' {
  try {
    return readlinkSync('/proc/1/ns/mnt') === readlinkSync('/proc/self/ns/mnt') ? 'ours' : 'reach';
  } catch {
    return isolated ? 'none' : 'ours'; // Process 1 is not ours to look at.
  }
}

async function inHost(args: readonly string[]): Promise<void> {
  await run('nsenter', ['--mount=/proc/1/ns/mnt', '--', ...args], { timeoutMs: COMMAND_TIMEOUT_MS, stdout: 'ignore' });
}

/** @param isolated this process may be in a mount namespace of its own, as shims are */
export function hostTemplateMounts(isolated: boolean): TemplateMounts {
  return {
    async mount(target, sizeMiB) {
      const options = `size=${String(sizeMiB)}M,mode=0700`;
      const where = hostNamespace(isolated);
      if (where === 'none') {
        return false;
      }
      if (where === 'ours') {
        mount('tmpfs', target, 'tmpfs', MS.NOSUID | MS.NODEV, options);
        return true;
      }
      try {
        await inHost(['mount', '-t', 'tmpfs', '-o', `nosuid,nodev,${options}`, 'tmpfs', target]);
      } catch {
        return false;
      }
      if (isMountPoint(target)) {
        return true;
      }
      // It does not come to us: nor would it to other shims that run already.
      await inHost(['umount', '-l', target]);
      return false;
    },

    async unmount(target) {
      if (!isMountPoint(target)) {
        return;
      }
      if (hostNamespace(isolated) === 'reach') {
        await inHost(['umount', '-l', target]).catch(() => undefined);
      }
      unmount(target);
    },

    isMounted: isMountPoint,
  };
}
