import { watch, type FSWatcher } from 'node:fs';
import { join } from 'node:path';
import type { Container } from '../container/container';
import { isUnified } from './cgroup';

/** v1 has no file that can be watched without an event descriptor: it is looked at. */
const POLL_MS = 1000;
const MAX_QUEUED = 256;

type Waiter = (containerId: string) => void;

interface Watched {
  seen: bigint;
  watcher: FSWatcher | undefined;
}

/** Tells which containers had a process killed for want of memory, one answer per kill that was noticed. */
export class OomWatcher {
  private readonly watched = new Map<Container, Watched>();
  private readonly queue: string[] = [];
  private readonly waiters: Waiter[] = [];
  private timer: NodeJS.Timeout | undefined;

  /** Watches a container until `remove`. */
  add(container: Container): void {
    const entry: Watched = { seen: killsOf(container), watcher: undefined };
    this.watched.set(container, entry);
    container.init.onEnd = () => this.look(container);
    if (isUnified()) {
      try {
        entry.watcher = watch(join(container.cgroup.folder('memory'), 'memory.events'), () => this.look(container));
        entry.watcher.on('error', () => undefined);
        entry.watcher.unref();
        return;
      } catch {
        // No memory controller, or no inotify left: looked at like v1.
      }
    }
    this.timer ??= setInterval(() => {
      for (const each of this.watched.keys()) {
        this.look(each);
      }
    }, POLL_MS).unref();
  }

  remove(container: Container): void {
    this.look(container);
    this.watched.get(container)?.watcher?.close();
    this.watched.delete(container);
    if (this.watched.size === 0) {
      clearInterval(this.timer);
      this.timer = undefined;
    }
  }

  /** The id of the next container with a kill; waits for one. Resolves with an empty id when the signal fires. */
  next(signal: AbortSignal): Promise<string> {
    const queued = this.queue.shift();
    if (queued !== undefined) {
      return Promise.resolve(queued);
    }
    return new Promise((resolve) => {
      const waiter: Waiter = (id) => {
        signal.removeEventListener('abort', onAbort);
        resolve(id);
      };
      const onAbort = (): void => {
        const at = this.waiters.indexOf(waiter);
        if (at >= 0) {
          this.waiters.splice(at, 1);
        }
        resolve('');
      };
      signal.addEventListener('abort', onAbort, { once: true });
      this.waiters.push(waiter);
    });
  }

  private look(container: Container): void {
    const entry = this.watched.get(container);
    const now = killsOf(container);
    if (entry === undefined || now <= entry.seen) {
      return;
    }
    entry.seen = now;
    const waiter = this.waiters.shift();
    if (waiter !== undefined) {
      waiter(container.id);
    } else if (this.queue.length < MAX_QUEUED) {
      this.queue.push(container.id);
    }
  }
}

/** How many processes of the container were killed so far. */
function killsOf(container: Container): bigint {
  const text = container.cgroup.read('memory', isUnified() ? 'memory.events' : 'memory.oom_control') ?? '';
  const count = /^oom_kill (\d+)$/m.exec(text)?.[1];
  return BigInt(count ?? 0);
}
