import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { killProcess } from '../../../base/syscalls';

const ROOT = '/sys/fs/cgroup';
/** Any hierarchy that all containers are in, for looking at processes. */
const V1_PROCESS_HIERARCHIES = ['pids', 'devices', 'memory', 'systemd'];
const MAX_KILL_ROUNDS = 10;

let unified: boolean | undefined;

/** True if the guest has the unified hierarchy (cgroup v2) only. */
export function isUnified(): boolean {
  unified ??= existsSync(join(ROOT, 'cgroup.controllers'));
  return unified;
}

/** The text of a cgroup file, trimmed; undefined if it is not there. */
export function readText(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8').trim();
  } catch {
    return undefined;
  }
}

/** The cgroup of one container, on v1 in all its hierarchies. `path` is below the roots and starts with a slash. */
export class Cgroup {
  constructor(readonly path: string) {}

  /** The folder of a controller; on v2 the one folder. */
  folder(controller: string): string {
    return isUnified() ? join(ROOT, this.path) : join(ROOT, controller, this.path);
  }

  /** A file of a controller, trimmed; undefined if it is not there. */
  read(controller: string, file: string): string | undefined {
    return readText(join(this.folder(controller), file));
  }

  /** All processes, those of nested groups included, as the agent's pid namespace numbers them. */
  processes(): number[] {
    const folder = this.processFolder();
    return folder === undefined ? [] : processesBelow(folder);
  }

  /** Kills every process. Repeats while new ones appear. */
  killAll(): number {
    let count = 0;
    const file = join(ROOT, this.path, 'cgroup.kill');
    if (isUnified() && existsSync(file)) {
      count = this.processes().length;
      try {
        writeFileSync(file, '1');
        return count;
      } catch {
        // An older kernel, or the group is going: one by one.
      }
    }
    const seen = new Set<number>();
    for (let round = 0; round < MAX_KILL_ROUNDS; round++) {
      const fresh = this.processes().filter((pid) => pid > 0 && !seen.has(pid));
      if (fresh.length === 0) {
        break;
      }
      for (const pid of fresh) {
        seen.add(pid);
        count += killProcess(pid, 9) === undefined ? 1 : 0;
      }
    }
    return count;
  }

  /** Sends a signal to every process; returns how many there were. */
  signalAll(signal: number): number {
    if (signal === 9) {
      return this.killAll();
    }
    return this.processes().filter((pid) => pid > 0 && killProcess(pid, signal) === undefined).length;
  }

  private processFolder(): string | undefined {
    return (isUnified() ? [''] : V1_PROCESS_HIERARCHIES).map((name) => join(ROOT, name, this.path)).find((folder) => existsSync(folder));
  }
}

function processesBelow(folder: string): number[] {
  const own = (readText(join(folder, 'cgroup.procs')) ?? '').split('\n').map(Number).filter((pid) => pid > 0);
  let nested: string[] = [];
  try {
    nested = readdirSync(folder, { withFileTypes: true }).filter((entry) => entry.isDirectory()).map((entry) => entry.name);
  } catch {
    // Gone meanwhile.
  }
  return [...own, ...nested.flatMap((name) => processesBelow(join(folder, name)))];
}
