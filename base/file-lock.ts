/** A lock between processes that ends with its holder, however that ends. */
import { closeSync, fstatSync, mkdirSync, openSync, rmSync, statSync } from 'node:fs';
import { dirname } from 'node:path';
import { sleep } from './deadline';
import { errnoOf, KataError } from './errors';
import { flock } from './syscalls';

const FIRST_POLL_MS = 1;
const MAX_POLL_MS = 25;

export interface LockOptions {
  readonly timeoutMs: number;
  readonly signal?: AbortSignal;
}

export class FileLock {
  private constructor(
    private readonly path: string,
    private fd: number | undefined,
  ) {}

  /** The lock if nobody holds it against us; its folder is made. */
  static tryTake(path: string, mode: 'shared' | 'exclusive'): FileLock | undefined {
    for (;;) {
      let fd: number;
      try {
        fd = openSync(path, 'a', 0o600);
      } catch (reason) {
        if (errnoOf(reason) === 'ENOENT') {
          mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
          continue;
        }
        throw KataError.from(reason, `open lock ${path}`);
      }
      if (!flock(fd, mode === 'shared' ? 'try-shared' : 'try-exclusive')) {
        closeSync(fd);
        return undefined;
      }
      // Whoever removed the file held its lock: ours would guard nothing.
      if (statSync(path, { throwIfNoEntry: false })?.ino === fstatSync(fd).ino) {
        return new FileLock(path, fd);
      }
      closeSync(fd);
    }
  }

  /** Waits for the lock. DeadlineExceeded, or the signal's reason. */
  static async take(path: string, mode: 'shared' | 'exclusive', options: LockOptions): Promise<FileLock> {
    const end = performance.now() + options.timeoutMs;
    for (let delayMs = FIRST_POLL_MS; ; delayMs = Math.min(2 * delayMs, MAX_POLL_MS)) {
      const lock = FileLock.tryTake(path, mode);
      if (lock !== undefined) {
        return lock;
      }
      if (performance.now() > end) {
        throw new KataError('DeadlineExceeded', `lock ${path}: still held by others after ${String(options.timeoutMs)} ms`);
      }
      await sleep(delayMs, options.signal);
    }
  }

  /** As `release`, and its file goes away. For an exclusive lock; who waits for it makes the file anew. */
  remove(): void {
    if (this.fd !== undefined) {
      rmSync(this.path, { force: true });
      this.release();
    }
  }

  /** Idempotent. */
  release(): void {
    const { fd } = this;
    this.fd = undefined;
    if (fd !== undefined) {
      closeSync(fd);
    }
  }
}
