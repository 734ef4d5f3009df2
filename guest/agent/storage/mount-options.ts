import { MS } from '../../../base/syscalls';

const SET: Readonly<Record<string, number>> = {
  ro: MS.RDONLY, nosuid: MS.NOSUID, nodev: MS.NODEV, noexec: MS.NOEXEC, sync: MS.SYNCHRONOUS, remount: MS.REMOUNT, mand: MS.MANDLOCK,
  dirsync: MS.DIRSYNC, noatime: MS.NOATIME, nodiratime: MS.NODIRATIME, bind: MS.BIND, rbind: MS.BIND | MS.REC, relatime: MS.RELATIME,
  strictatime: MS.STRICTATIME, lazytime: MS.LAZYTIME, silent: MS.SILENT,
};

const CLEAR: Readonly<Record<string, number>> = {
  rw: MS.RDONLY, suid: MS.NOSUID, dev: MS.NODEV, exec: MS.NOEXEC, async: MS.SYNCHRONOUS, nomand: MS.MANDLOCK, atime: MS.NOATIME,
  diratime: MS.NODIRATIME, norelatime: MS.RELATIME, nostrictatime: MS.STRICTATIME, nolazytime: MS.LAZYTIME, loud: MS.SILENT,
};

const PROPAGATION: Readonly<Record<string, number>> = {
  private: MS.PRIVATE, rprivate: MS.PRIVATE | MS.REC, shared: MS.SHARED, rshared: MS.SHARED | MS.REC,
  slave: MS.SLAVE, rslave: MS.SLAVE | MS.REC, unbindable: MS.UNBINDABLE, runbindable: MS.UNBINDABLE | MS.REC,
};

/** Mount options sorted by who takes them. */
export interface MountOptions {
  readonly flags: number;
  /** Propagation, set by a second call; 0 for none. */
  readonly propagation: number;
  /** What is left for the file system itself. */
  readonly data: string;
  /** `fsgid=<gid>`: group of the root folder, ours, not the file system's. */
  readonly groupId: number | undefined;
}

/** Sorts options; words of tools (`defaults`, `_netdev`, `x-...`) are dropped. */
export function parseMountOptions(options: readonly string[]): MountOptions {
  let flags = 0;
  let propagation = 0;
  let groupId: number | undefined;
  const data: string[] = [];
  for (const option of options.flatMap((words) => words.split(',')).filter((word) => word !== '')) {
    const set = SET[option];
    const clear = CLEAR[option];
    const spread = PROPAGATION[option];
    const group = /^fsgid=(\d+)$/.exec(option)?.[1];
    if (set !== undefined) {
      flags |= set;
    } else if (clear !== undefined) {
      flags &= ~clear;
    } else if (spread !== undefined) {
      propagation |= spread;
    } else if (group !== undefined) {
      groupId = Number(group);
    } else if (!/^(?:defaults|_netdev|nofail|auto|noauto|user|users|nouser|x-.*)$/.test(option)) {
      data.push(option);
    }
  }
  return { flags, propagation, data: data.join(','), groupId };
}
