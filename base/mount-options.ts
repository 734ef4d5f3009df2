/** The words of fstab-style mount options that are flags of mount(2), as mount(8) lists them. */
import { MS } from './syscalls';

const SET: Readonly<Record<string, number>> = {
  ro: MS.RDONLY, nosuid: MS.NOSUID, nodev: MS.NODEV, noexec: MS.NOEXEC, sync: MS.SYNCHRONOUS, remount: MS.REMOUNT, mand: MS.MANDLOCK,
  dirsync: MS.DIRSYNC, noatime: MS.NOATIME, nodiratime: MS.NODIRATIME, bind: MS.BIND, rbind: MS.BIND | MS.REC, relatime: MS.RELATIME,
  strictatime: MS.STRICTATIME, lazytime: MS.LAZYTIME, silent: MS.SILENT,
};

const CLEAR: Readonly<Record<string, number>> = {
  rw: MS.RDONLY, suid: MS.NOSUID, dev: MS.NODEV, exec: MS.NOEXEC, async: MS.SYNCHRONOUS, nomand: MS.MANDLOCK, atime: MS.NOATIME,
  diratime: MS.NODIRATIME, norelatime: MS.RELATIME, nostrictatime: MS.STRICTATIME, nolazytime: MS.LAZYTIME, loud: MS.SILENT, defaults: 0,
};

const PROPAGATION: Readonly<Record<string, number>> = {
  private: MS.PRIVATE, rprivate: MS.PRIVATE | MS.REC, slave: MS.SLAVE, rslave: MS.SLAVE | MS.REC, shared: MS.SHARED,
  rshared: MS.SHARED | MS.REC, unbindable: MS.UNBINDABLE, runbindable: MS.UNBINDABLE | MS.REC,
};

export interface MountWords {
  readonly flags: number;
  /** Change of propagation, made by a second call; 0: none. The last word wins. */
  readonly propagation: number;
  /** The words that are no flags, in their order: the file system's own, or a tool's. */
  readonly rest: readonly string[];
}

/** Sorts words of options (none with a comma between words); a later flag undoes an earlier one. */
export function sortMountWords(words: readonly string[]): MountWords {
  let flags = 0;
  let propagation = 0;
  const rest: string[] = [];
  for (const word of words) {
    const set = SET[word];
    const clear = CLEAR[word];
    const change = PROPAGATION[word];
    if (set !== undefined) {
      flags |= set;
    } else if (clear !== undefined) {
      flags &= ~clear;
    } else if (change !== undefined) {
      propagation = change;
    } else {
      rest.push(word);
    }
  }
  return { flags, propagation, rest };
}
