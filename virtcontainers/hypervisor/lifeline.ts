/**
 * The lifeline of a VM that may change owners: a fifo in its folder. Whoever holds it open for writing owns the VM;
 * beside the VMM a shell waits for its end, and when the last holder is gone, however it went, the shell removes the
 * folder and kills the VMM. The kernel ends the shell with the VMM.
 */
import { closeSync, constants, existsSync, openSync, watch, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { isProcessAlive, type ChildExit } from '../../base/child';
import { defer } from '../../base/deadline';
import { errnoOf, KataError } from '../../base/errors';
import { killProcess, mknod } from '../../base/syscalls';
import type { VmState } from './types';

const FIFO = 0o010000;
const POLL_MS = 500;
const SIGNALS: Readonly<Record<'SIGKILL' | 'SIGTERM', number>> = { SIGKILL: 9, SIGTERM: 15 };

/** The VMM runs in place of the shell that starts it, so it has the pid that we know. `$0` fifo, `$1` folder. */
const SCRIPT =
  'fifo=$0; folder=$1; shift; ' +
  'setpriv --pdeathsig KILL sh -c \'read -r x; rm -rf -- "$0"; kill -KILL "$PPID"\' "$folder" <"$fifo" >/dev/null 2>&1 & exec "$@"';

function fifoOf(directory: string): string {
  return join(directory, 'lifeline');
}

function takenOf(directory: string): string {
  return join(directory, 'taken');
}

/** Makes and holds the lifeline of a VM that we are about to start. The caller owns the descriptor. */
export function makeLifeline(directory: string): number {
  mknod(fifoOf(directory), FIFO | 0o600, 0, 0);
  return openSync(fifoOf(directory), constants.O_RDWR | constants.O_NONBLOCK);
}

/**
 * The VMM in a mount namespace of its own, where `$0` is a file system that can be shared with the next owner: what that
 * mounts below its copy, the VMM sees. It goes with the VMM.
 */
const SHARE_SCRIPT = 'mount -t tmpfs -o nosuid,nodev,size=16M,mode=0750 tmpfs "$0" && mount --make-shared "$0" && exec "$@"';

/**
 * The command that starts a VMM which ends with its last holder.
 * @param share an empty folder that is to become the VM's share; its owner comes later (`copyMountOf`)
 */
export function lifelineCommand(directory: string, file: string, args: readonly string[], share?: string): [string, string[]] {
  const program = [file, ...args];
  const inside = share === undefined ? program : ['unshare', '--mount', '--propagation', 'slave', '--', '/bin/sh', '-c', SHARE_SCRIPT, share, ...program];
  return ['/bin/sh', ['-c', SCRIPT, fifoOf(directory), directory, ...inside]];
}

/** Becomes a holder, and says so. NotFound if the VM has ended meanwhile. The caller owns the descriptor. */
export function takeLifeline(directory: string): number {
  let fd: number;
  try {
    fd = openSync(fifoOf(directory), constants.O_WRONLY | constants.O_NONBLOCK);
  } catch (reason) {
    const gone = ['ENOENT', 'ENXIO'].includes(errnoOf(reason) ?? '');
    throw gone ? new KataError('NotFound', `take the VM in ${directory} over: it has ended`, { cause: reason }) : KataError.from(reason, `take the VM in ${directory} over`);
  }
  try {
    writeFileSync(takenOf(directory), '', { mode: 0o600 });
  } catch (reason) {
    closeSync(fd);
    throw KataError.from(reason, `take the VM in ${directory} over`);
  }
  return fd;
}

/** True once somebody has taken the VM over, false if nobody does in time. */
export async function waitTaken(directory: string, timeoutMs: number): Promise<boolean> {
  const taken = defer<boolean>();
  const look = (): void => {
    if (existsSync(takenOf(directory))) {
      taken.resolve(true);
    }
  };
  const timer = setTimeout(() => { taken.resolve(existsSync(takenOf(directory))); }, timeoutMs);
  try {
    const watcher = watch(directory, look);
    watcher.on('error', () => { taken.resolve(false); });
    try {
      look();
      return await taken.promise;
    } finally {
      watcher.close();
    }
  } catch {
    return existsSync(takenOf(directory));
  } finally {
    clearTimeout(timer);
  }
}

/** A process that is not our child, as a VM sees its own: how it ended is not known, only that. */
export class AdoptedProcess {
  readonly pid: number;
  readonly exited: Promise<ChildExit>;
  readonly stderr = '';
  private ended: ChildExit | undefined;
  private readonly end = defer<ChildExit>();
  private readonly timer: NodeJS.Timeout;

  constructor(private readonly entry: VmState['processes'][number]) {
    this.pid = entry.pid;
    this.exited = this.end.promise;
    this.timer = setInterval(() => { this.look(); }, POLL_MS).unref();
  }

  get exit(): ChildExit | undefined {
    return this.ended;
  }

  /** Looks whether it still runs; called when something hints at its end. */
  look(): void {
    if (this.ended === undefined && !isProcessAlive(this.entry.pid, this.entry.startTime)) {
      clearInterval(this.timer);
      this.ended = { code: null, signal: null };
      this.end.resolve(this.ended);
    }
  }

  kill(signal: 'SIGKILL' | 'SIGTERM' = 'SIGKILL'): boolean {
    this.look();
    if (this.ended !== undefined) {
      return false;
    }
    killProcess(this.pid, SIGNALS[signal]);
    const again = setInterval(() => {
      this.look();
      if (this.ended !== undefined) {
        clearInterval(again);
      }
    }, 2);
    return true;
  }
}
