import { closeSync, mkdirSync, openSync, readFileSync } from 'node:fs';
import { mount, MS, unmount } from '../../../base/syscalls';

/** Where the guest has the host's share. */
export const GUEST_SHARE = '/run/kata-containers/shared/containers';
/** All that the agent keeps in the guest. */
export const GUEST_RUN = '/run/kata-containers';

/**
 * Gives a mock's private mount namespace the paths of a guest: a fresh tmpfs on /run/kata-containers, in it the host's
 * share. The share is held by descriptor first, since it lies below that very path on the host; the bind mount stays
 * in the host's propagation group, so what the host mounts into the share later appears.
 */
export function prepareMock(sharePath: string | undefined): void {
  const share = sharePath === undefined ? undefined : openSync(sharePath, 'r');
  mkdirSync(GUEST_RUN, { recursive: true });
  mount('tmpfs', GUEST_RUN, 'tmpfs', MS.NOSUID | MS.NODEV, 'mode=0755');
  mkdirSync(GUEST_SHARE, { recursive: true });
  if (share !== undefined) {
    mount(`/proc/self/fd/${String(share)}`, GUEST_SHARE, '', MS.BIND | MS.REC);
    closeSync(share);
  }
  hideHybridCgroup();
}

/**
 * crun refuses hosts that have a v2 hierarchy with controllers beside the v1 ones: shows this namespace the v1
 * hierarchies only, on a tmpfs of its own.
 */
function hideHybridCgroup(): void {
  const mounts = readFileSync('/proc/self/mountinfo', 'utf8')
    .split('\n')
    .flatMap((line) => {
      const [before = '', after = ''] = line.split(' - ');
      const path = before.split(' ')[4] ?? '';
      const type = after.split(' ')[0] ?? '';
      return path.startsWith('/sys/fs/cgroup/') && ['cgroup', 'cgroup2'].includes(type) ? [{ path, type }] : [];
    });
  const legacy = mounts.filter(({ type }) => type === 'cgroup');
  if (legacy.length === 0 || legacy.length === mounts.length) {
    return;
  }
  const held = legacy.map(({ path }) => ({ path, fd: openSync(path, 'r') }));
  mount('tmpfs', '/sys/fs/cgroup', 'tmpfs', MS.NOSUID | MS.NODEV | MS.NOEXEC, 'mode=0755');
  for (const { path, fd } of held) {
    mkdirSync(path, { recursive: true });
    mount(`/proc/self/fd/${String(fd)}`, path, '', MS.BIND);
    closeSync(fd);
  }
}

/** Unmounts what the mock's sandbox has; the namespace itself goes with its last process. */
export function leaveMock(): void {
  unmount(GUEST_RUN);
}
