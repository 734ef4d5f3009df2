/** Where the output of a process goes on the host. */
import { close, closeSync, constants, fstatSync, mkdirSync, openSync, write } from 'node:fs';
import { Socket } from 'node:net';
import { dirname } from 'node:path';
import { defer, withTimeout } from '../../base/deadline';
import { KataError } from '../../base/errors';

/** Takes bytes in order. Who writes waits for the promise: it resolves when there is room for more. Never rejects. */
export interface OutputSink {
  write(bytes: Uint8Array): Promise<void>;
  /** Resolves when everything was handed over, or after `timeoutMs`. */
  flush(timeoutMs: number): Promise<void>;
  /** Gives the descriptor back; what a reader has not fetched yet stays fetchable for a while. Idempotent. */
  close(): void;
}

/** Accepted before a writer is made to wait: the output that a guest's full pipe still holds fits, so its end is always seen. */
const ROOM_BYTES = 1024 * 1024;
const FIONREAD = 0x541b;
/** How long output that lies in a FIFO is kept for a reader that comes back. */
const LINGER_MS = 10_000;

/** Drops everything: the guest's pipe must be emptied all the same. */
export class NullSink implements OutputSink {
  async write(): Promise<void> {
    // Dropped.
  }

  async flush(): Promise<void> {
    // Nothing is held.
  }

  close(): void {
    // Nothing is held.
  }
}

/** Writes to a FIFO or pipe through the event loop. Owns the descriptor. */
export class PipeSink implements OutputSink {
  private readonly socket: Socket;
  private queued = 0;
  private waiting: (() => void)[] = [];
  private isClosed = false;

  constructor(
    private readonly fd: number,
    private readonly lingers: boolean,
    onBroken: (error: Error) => void,
  ) {
    this.socket = new Socket({ fd, readable: false, writable: true });
    this.socket.on('error', (error) => {
      this.isClosed = true;
      this.wake();
      onBroken(error);
    });
  }

  async write(bytes: Uint8Array): Promise<void> {
    if (this.isClosed) {
      return;
    }
    this.queued += bytes.length;
    this.socket.write(bytes, () => {
      this.queued -= bytes.length;
      this.wake();
    });
    while (this.queued > ROOM_BYTES && !this.isEnded()) {
      await this.progress();
    }
  }

  async flush(timeoutMs: number): Promise<void> {
    const deadline = Date.now() + timeoutMs;
    while (this.queued > 0 && !this.isEnded() && Date.now() < deadline) {
      await withTimeout(this.progress(), deadline - Date.now(), () => new KataError('DeadlineExceeded', 'flush')).catch(() => undefined);
    }
  }

  close(): void {
    if (this.isClosed) {
      return;
    }
    this.isClosed = true;
    this.wake();
    if (this.lingers && this.queued === 0) {
      this.closeWhenFetched(Date.now() + LINGER_MS, 1);
    } else {
      this.socket.destroy();
    }
  }

  private isEnded(): boolean {
    return this.isClosed;
  }

  private async progress(): Promise<void> {
    const step = defer<undefined>();
    this.waiting.push(() => {
      step.resolve(undefined);
    });
    await step.promise;
  }

  private wake(): void {
    const waiting = this.waiting;
    this.waiting = [];
    for (const resume of waiting) {
      resume();
    }
  }

  /** A FIFO loses what it holds when its last end is closed: keep ours until a reader has fetched it. */
  private closeWhenFetched(deadline: number, delayMs: number): void {
    if (this.socket.destroyed) {
      return;
    }
    if (unreadBytes(this.fd) === 0 || Date.now() >= deadline) {
      this.socket.destroy();
      return;
    }
    setTimeout(() => {
      this.closeWhenFetched(deadline, Math.min(delayMs * 2, 100));
    }, delayMs).unref();
  }
}

/** Bytes that lie unread in a pipe. */
export function unreadBytes(fd: number): number {
  // Lazy: unit tests of everything else need no native part.
  // eslint-disable-next-line @typescript-eslint/no-require-imports
  const { ioctl } = require('../../base/syscalls') as typeof import('../../base/syscalls');
  const count = Buffer.alloc(4);
  return ioctl(fd, FIONREAD, count) < 0 ? 0 : count.readInt32LE(0);
}

/** Writes to a regular file (or a device that never blocks) through the thread pool. Owns the descriptor. */
export class FileSink implements OutputSink {
  private tail: Promise<void> = Promise.resolve();
  private isClosed = false;

  constructor(
    private readonly fd: number,
    private readonly onBroken: (error: Error) => void,
  ) {}

  async write(bytes: Uint8Array): Promise<void> {
    if (!this.isClosed) {
      this.tail = this.tail.then(() => this.writeAll(bytes));
    }
    await this.tail;
  }

  async flush(timeoutMs: number): Promise<void> {
    await withTimeout(this.tail, timeoutMs, () => new KataError('DeadlineExceeded', 'flush')).catch(() => undefined);
  }

  close(): void {
    if (!this.isClosed) {
      this.isClosed = true;
      void this.tail.then(() => {
        close(this.fd, () => undefined);
      });
    }
  }

  private async writeAll(bytes: Uint8Array): Promise<void> {
    for (let at = 0; at < bytes.length; ) {
      const written = await new Promise<number>((resolve) => {
        write(this.fd, bytes, at, bytes.length - at, null, (error, count) => {
          if (error !== null) {
            this.onBroken(error);
          }
          resolve(error === null ? count : 0);
        });
      });
      if (written === 0) {
        return;
      }
      at += written;
    }
  }
}

/** Opens what lies at a path: FIFOs for both directions so that no reader is needed, everything else for writing. */
export function openPathSink(path: string, what: string, onBroken: (error: Error) => void): OutputSink {
  let fd: number | undefined;
  try {
    fd = openSync(path, constants.O_RDWR | constants.O_NONBLOCK);
    if (fstatSync(fd).isFIFO()) {
      return new PipeSink(fd, true, onBroken);
    }
    return new FileSink(fd, onBroken);
  } catch (reason) {
    if (fd !== undefined) {
      closeSync(fd);
    }
    throw KataError.from(reason, `open ${what} ${path}`);
  }
}

/** Opens a `file://` target: appended to, made with its folders if missing. */
export function openFileSink(path: string, what: string, onBroken: (error: Error) => void): OutputSink {
  try {
    mkdirSync(dirname(path), { recursive: true, mode: 0o755 });
    // Non-blocking, so that a FIFO in this place cannot hold us.
    const { O_WRONLY, O_APPEND, O_CREAT, O_NONBLOCK } = constants;
    return new FileSink(openSync(path, O_WRONLY | O_APPEND | O_CREAT | O_NONBLOCK, 0o644), onBroken);
  } catch (reason) {
    throw KataError.from(reason, `open ${what} ${path}`);
  }
}
