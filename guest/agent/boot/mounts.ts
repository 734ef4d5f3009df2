import { closeSync, existsSync, mkdirSync, openSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { describeError, errnoOf } from '../../../base/errors';
import { mount, MS } from '../../../base/syscalls';
import { log } from '../console-log';

const { NOSUID, NODEV, NOEXEC } = MS;

interface BootMount {
  readonly source: string;
  readonly target: string;
  readonly type: string;
  readonly flags: number;
  readonly data?: string;
}

/** Needed to find the channel and to read the kernel command line. */
const ESSENTIAL: readonly BootMount[] = [
  { source: 'proc', target: '/proc', type: 'proc', flags: NOSUID | NODEV | NOEXEC },
  { source: 'sysfs', target: '/sys', type: 'sysfs', flags: NOSUID | NODEV | NOEXEC },
  { source: 'devtmpfs', target: '/dev', type: 'devtmpfs', flags: NOSUID, data: 'mode=0755' },
  { source: 'tmpfs', target: '/run', type: 'tmpfs', flags: NOSUID | NODEV, data: 'mode=0755' },
];

/** Needed by the first container. */
const REST: readonly BootMount[] = [
  { source: 'devpts', target: '/dev/pts', type: 'devpts', flags: NOSUID | NOEXEC, data: 'gid=5,mode=620,ptmxmode=666' },
  { source: 'tmpfs', target: '/dev/shm', type: 'tmpfs', flags: NOSUID | NODEV, data: 'mode=1777' },
  { source: 'tmpfs', target: '/tmp', type: 'tmpfs', flags: NOSUID | NODEV, data: 'mode=1777' },
  { source: 'cgroup2', target: '/sys/fs/cgroup', type: 'cgroup2', flags: NOSUID | NODEV | NOEXEC },
];

const LINKS: readonly (readonly [string, string])[] = [
  ['/proc/self/fd', '/dev/fd'],
  ['/proc/self/fd/0', '/dev/stdin'],
  ['/proc/self/fd/1', '/dev/stdout'],
  ['/proc/self/fd/2', '/dev/stderr'],
];

/** Mounts one; what is mounted already (by a shell before us, by the kernel) stays. */
function mountOne({ source, target, type, flags, data }: BootMount): void {
  try {
    mkdirSync(target, { recursive: true });
    mount(source, target, type, flags, data);
  } catch (reason) {
    if (errnoOf(reason) !== 'EBUSY') {
      log.warn('boot mount failed', { target, error: describeError(reason) });
    }
  }
}

function isMounted(target: string): boolean {
  try {
    return readFileSync('/proc/mounts', 'latin1').split('\n').some((line) => line.split(' ')[1] === target);
  } catch {
    return false;
  }
}

function mountMissing(mounts: readonly BootMount[]): void {
  for (const each of mounts) {
    if (!isMounted(each.target)) {
      mountOne(each);
    }
  }
}

/** Mounts what the agent needs to be reached. */
export function mountEssentials(): void {
  mountMissing(ESSENTIAL);
}

/** Mounts the rest, and hands all cgroup controllers on to the containers' groups. */
export function mountRest(): void {
  mountMissing(REST);
  for (const [target, path] of LINKS) {
    if (!existsSync(path)) {
      symlinkSync(target, path);
    }
  }
  enableControllers();
}

function enableControllers(): void {
  try {
    const controllers = readFileSync('/sys/fs/cgroup/cgroup.controllers', 'latin1').trim().split(' ').filter((name) => name !== '');
    for (const name of controllers) {
      try {
        writeFileSync('/sys/fs/cgroup/cgroup.subtree_control', `+${name}`);
      } catch (reason) {
        log.debug('controller not enabled', { name, error: describeError(reason) });
      }
    }
  } catch (reason) {
    log.warn('no unified cgroup hierarchy', { error: describeError(reason) });
  }
}

/** Gives PID 1 standard descriptors on the console where the kernel opened none. */
export function openConsole(): void {
  for (const path of ['/dev/console', '/dev/null']) {
    try {
      const fd = openSync(path, 'r+');
      if (fd > 2) {
        closeSync(fd);
        return;
      }
    } catch {
      // The next one.
    }
  }
}
