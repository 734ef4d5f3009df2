/** Mounting and unmounting on the host. The one implementation does it; tests use a recording one. */
import { closeSync, existsSync, mkdirSync, openSync, readFileSync, realpathSync, statSync } from 'node:fs';
import { dirname } from 'node:path';
import { KataError } from '../../base/errors';
import { attachMount, copyMountOf, mount, MS, unmount, UMOUNT } from '../../base/syscalls';
import { fitOverlayData, parseMountOptions } from './mount-options';

export interface Mounts {
  /** A mount with containerd's semantics; `target` exists. */
  mount(type: string, source: string, target: string, options: readonly string[]): void;
  /** Binds a file or folder with all that is mounted under it; makes `target` to match. `readOnly` holds for the bind itself. */
  bind(source: string, target: string, how: { readonly readOnly: boolean; readonly recursive: boolean }): void;
  /** Puts a copy of a shared mount of another process's mount namespace on `target`: what is mounted below one appears in both. */
  joinMount(pid: number, path: string, target: string): void;
  /** Changes propagation of a mount point. */
  propagate(target: string, how: 'shared' | 'slave' | 'private'): void;
  /** Makes a bind mount read-only. */
  remountReadOnly(target: string): void;
  /** Takes off everything that is stacked on `target`; lazily, so that busy ones go when their users do. Nothing there: fine. */
  unmountAll(target: string): void;
}

/** A deep stack on one mount point is a mistake somewhere: never loop on it for ever. */
const MAX_STACK = 64;

function makeTarget(source: string, target: string): void {
  if (statSync(source).isDirectory()) {
    mkdirSync(target, { recursive: true, mode: 0o755 });
    return;
  }
  mkdirSync(dirname(target), { recursive: true, mode: 0o755 });
  if (!existsSync(target)) {
    closeSync(openSync(target, 'wx', 0o644));
  }
}

/** Runs mount(2) from inside a folder; synchronous, so nobody else sees the change. */
function within(cwd: string | undefined, work: () => void): void {
  if (cwd === undefined) {
    work();
    return;
  }
  const home = process.cwd();
  process.chdir(cwd);
  try {
    work();
  } finally {
    process.chdir(home);
  }
}

export const HOST_MOUNTS: Mounts = {
  mount(type, source, target, options) {
    const { flags, propagation, data } = parseMountOptions(options);
    const isBind = (flags & MS.BIND) !== 0;
    const fitted = type === 'overlay' ? fitOverlayData(data) : { data: data.join(','), cwd: undefined };
    if (!isBind && (type === '' || type.includes('/'))) {
      throw new KataError('Unimplemented', `mount ${source} on ${target}: unknown kind "${type}"`);
    }
    if (options.includes('loop')) {
      throw new KataError('Unimplemented', `mount ${source} on ${target}: loop devices are not supported`, { hint: 'use a snapshotter that gives block devices or folders' });
    }
    within(fitted.cwd, () => {
      mount(source, target, isBind ? '' : type, isBind ? flags & (MS.BIND | MS.REC) : flags, isBind ? '' : fitted.data);
      const rest = flags & ~(MS.BIND | MS.REC);
      if (isBind && rest !== 0) {
        mount('', target, '', MS.REMOUNT | MS.BIND | rest);
      }
      if (propagation !== 0) {
        mount('', target, '', propagation);
      }
    });
  },

  bind(source, target, { readOnly, recursive }) {
    const real = realpathSync(source);
    makeTarget(real, target);
    mount(real, target, '', MS.BIND | (recursive ? MS.REC : 0));
    if (readOnly) {
      this.remountReadOnly(target);
    }
  },

  joinMount(pid, path, target) {
    const fd = copyMountOf(pid, path);
    try {
      attachMount(fd, target);
    } finally {
      closeSync(fd);
    }
  },

  propagate(target, how) {
    mount('', target, '', { shared: MS.SHARED, slave: MS.SLAVE, private: MS.PRIVATE }[how]);
  },

  remountReadOnly(target) {
    mount('', target, '', MS.REMOUNT | MS.BIND | MS.RDONLY);
  },

  unmountAll(target) {
    for (let i = 0; i < MAX_STACK && unmount(target, UMOUNT.DETACH | UMOUNT.NOFOLLOW); i++) {
      // Each turn takes one off.
    }
  },
};

/** Mount points at or below `folder`, deepest first. */
export function mountPointsBelow(folder: string, mountinfo = readFileSync('/proc/self/mountinfo', 'utf8')): string[] {
  return mountinfo
    .split('\n')
    .map((line) => (line.split(' ')[4] ?? '').replace(/\\([0-7]{3})/g, (_, octal: string) => String.fromCharCode(parseInt(octal, 8))))
    .filter((point) => point === folder || point.startsWith(`${folder}/`))
    .reverse();
}
