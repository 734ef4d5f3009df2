import { sortMountWords } from '../../../base/mount-options';

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
  const { flags, propagation, rest } = sortMountWords(options.flatMap((words) => words.split(',')).filter((word) => word !== ''));
  let groupId: number | undefined;
  const data: string[] = [];
  for (const option of rest) {
    const group = /^fsgid=(\d+)$/.exec(option)?.[1];
    if (group !== undefined) {
      groupId = Number(group);
    } else if (!/^(?:_netdev|nofail|auto|noauto|user|users|nouser|x-.*)$/.test(option)) {
      data.push(option);
    }
  }
  return { flags, propagation, data: data.join(','), groupId };
}
