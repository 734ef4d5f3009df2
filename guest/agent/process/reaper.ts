import { peekEndedChild, reapChild } from '../../../base/syscalls';

/** Statuses of unknown orphans that are kept: a process may end before its pid file is read. */
const MAX_EARLY = 512;
/** How long to leave a zombie of libuv's to libuv before looking again, in milliseconds. */
const RETRY_MS = 2;

type OnEnd = (status: number) => void;

/**
 * Collects the ends of all orphans that this process adopts (PID 1 or subreaper), and leaves the children that Node
 * started to libuv. Looks without reaping first, so that nobody's status is stolen.
 */
export class Reaper {
  private readonly own = new Set<number>();
  private readonly awaited = new Map<number, OnEnd>();
  private readonly early = new Map<number, number>();
  private retry: NodeJS.Timeout | undefined;

  /** Starts collecting. */
  start(): void {
    process.on('SIGCHLD', () => this.reap());
    this.reap();
  }

  /** Tells that libuv reaps this pid; call right after spawn, in the same tick. */
  addOwn(pid: number): void {
    this.own.add(pid);
    this.early.delete(pid);
  }

  /** Tells that libuv has reaped this pid. */
  removeOwn(pid: number): void {
    this.own.delete(pid);
    this.reap();
  }

  /** Calls back once with the exit status (128 + signal for a death by signal), at once if it has ended already. */
  watch(pid: number, onEnd: OnEnd): void {
    const status = this.early.get(pid);
    if (status === undefined) {
      this.awaited.set(pid, onEnd);
      this.reap();
      return;
    }
    this.early.delete(pid);
    onEnd(status);
  }

  private reap(): void {
    for (let pid = peekEndedChild(); pid > 0; pid = peekEndedChild()) {
      if (this.own.has(pid)) {
        this.retry ??= setTimeout(() => {
          this.retry = undefined;
          this.reap();
        }, RETRY_MS);
        return;
      }
      const ended = reapChild(pid);
      if (ended === undefined) {
        return;
      }
      this.deliver(pid, ended.status);
    }
  }

  private deliver(pid: number, status: number): void {
    const onEnd = this.awaited.get(pid);
    if (onEnd !== undefined) {
      this.awaited.delete(pid);
      onEnd(status);
      return;
    }
    this.early.set(pid, status);
    if (this.early.size > MAX_EARLY) {
      const oldest = this.early.keys().next();
      if (oldest.done !== true) {
        this.early.delete(oldest.value);
      }
    }
  }
}

/** The one reaper of the agent. */
export const reaper = new Reaper();
