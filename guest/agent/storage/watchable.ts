import { chmodSync, chownSync, lstatSync, mkdirSync, readdirSync, readFileSync, readlinkSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describeError } from '../../../base/errors';
import { mount, MS, unmount } from '../../../base/syscalls';
import { log } from '../console-log';

/** A share sends no file notifications, so small folders (config maps, secrets) are copied and looked at. */
const POLL_MS = 2000;
const MAX_FILES = 16;
const MAX_BYTES = 1024 * 1024;

/** What a folder holds: relative path to a mark that changes with the content. */
type Listing = Map<string, string>;

function walk(root: string, at: string, into: Listing, budget: { files: number; bytes: number }): boolean {
  for (const name of readdirSync(join(root, at))) {
    const path = at === '' ? name : `${at}/${name}`;
    const stat = lstatSync(join(root, path));
    if (stat.isSymbolicLink()) {
      into.set(path, `link ${readlinkSync(join(root, path))}`);
    } else if (stat.isDirectory()) {
      into.set(path, `folder ${String(stat.mode)}`);
      if (!walk(root, path, into, budget)) {
        return false;
      }
    } else {
      budget.files++;
      budget.bytes += stat.size;
      into.set(path, `file ${String(stat.size)} ${String(stat.mtimeMs)} ${String(stat.mode)}`);
    }
    if (budget.files > MAX_FILES || budget.bytes > MAX_BYTES || into.size > 4 * MAX_FILES) {
      return false;
    }
  }
  return true;
}

function list(root: string): Listing | undefined {
  const listing: Listing = new Map();
  return walk(root, '', listing, { files: 0, bytes: 0 }) ? listing : undefined;
}

function copyEntry(source: string, target: string): void {
  const stat = lstatSync(source);
  if (stat.isSymbolicLink()) {
    rmSync(target, { force: true, recursive: true });
    symlinkSync(readlinkSync(source), target);
    return;
  }
  if (stat.isDirectory()) {
    mkdirSync(target, { recursive: true });
  } else {
    writeFileSync(target, readFileSync(source));
  }
  chownSync(target, stat.uid, stat.gid);
  chmodSync(target, stat.mode & 0o7777);
}

/** Brings `target` up to date; returns what it now holds. */
function synchronise(source: string, target: string, before: Listing): Listing {
  const now = list(source);
  if (now === undefined) {
    return before;
  }
  for (const [path, mark] of now) {
    if (before.get(path) !== mark) {
      copyEntry(join(source, path), join(target, path));
    }
  }
  for (const path of before.keys()) {
    if (!now.has(path)) {
      rmSync(join(target, path), { recursive: true, force: true });
    }
  }
  return now;
}

/** Makes `target` follow the folder `source`, by copies where it is small, else by a plain bind mount. */
export function attachWatchable(source: string, target: string): () => void {
  const isFolder = statSync(source).isDirectory();
  if (!isFolder || list(source) === undefined) {
    if (isFolder) {
      mkdirSync(target, { recursive: true });
    } else {
      mkdirSync(join(target, '..'), { recursive: true });
      writeFileSync(target, '');
    }
    mount(source, target, '', MS.BIND | MS.REC);
    return () => void unmount(target);
  }
  mkdirSync(target, { recursive: true });
  mount('watchable', target, 'tmpfs', MS.NOSUID | MS.NODEV, 'mode=0755');
  let held = synchronise(source, target, new Map());
  const timer = setInterval(() => {
    try {
      held = synchronise(source, target, held);
    } catch (reason) {
      log.debug(describeError(reason), { watchable: target });
    }
  }, POLL_MS);
  timer.unref();
  return () => {
    clearInterval(timer);
    unmount(target);
  };
}
