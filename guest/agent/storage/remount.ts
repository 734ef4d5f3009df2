import { readFileSync, statSync } from 'node:fs';
import type { Storage } from '../../../gen/agent/agent';
import { KataError } from '../../../base/errors';
import { checkAbsolute } from '../../../base/ids';
import { mount, MS, unmount } from '../../../base/syscalls';
import { parseMountOptions } from './mount-options';

const EPHEMERAL_ROOT = '/run/kata-containers/sandbox/';
const SHARE_ROOT = '/run/kata-containers/shared/containers/';

/** Gives memory-backed mounts new options (their size), in place. */
export function remountEphemeral(storages: readonly Storage[]): void {
  for (const storage of storages) {
    const target = checkAbsolute(storage.mountPoint, 'mount point');
    if (storage.driver !== 'ephemeral' || !target.startsWith(EPHEMERAL_ROOT)) {
      throw new KataError('InvalidArgument', `update ephemeral mount ${target}: not an ephemeral mount of the sandbox`);
    }
    const { flags, data } = parseMountOptions(storage.options);
    mount(storage.source, target, storage.fstype === '' ? 'tmpfs' : storage.fstype, flags | MS.REMOUNT, data);
  }
}

/** Unmounts what lies in the share and whose host side is gone. */
export function removeStaleShareMounts(): void {
  const targets = readFileSync('/proc/self/mountinfo', 'utf8')
    .split('\n')
    .map((line) => line.split(' ')[4] ?? '')
    .filter((path) => path.startsWith(SHARE_ROOT));
  for (const target of targets.reverse()) {
    try {
      statSync(target);
    } catch {
      unmount(target);
    }
  }
}
