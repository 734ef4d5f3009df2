import { closeSync } from 'node:fs';
import { Socket } from 'node:net';
import { errnoName, readRaw, setNonblocking } from '../../../base/syscalls';

/** How long a stream outlives its process where others still hold it open, in milliseconds. */
export const DRAIN_GRACE_MS = 500;
const DRAIN_POLL_MS = 5;
const CHUNK_BYTES = 64 * 1024;
/** What is still delivered of a stream that a grandchild fills without end, after the grace. */
const MAX_AFTER_GRACE_BYTES = 1024 * 1024;
/** The most that one answer carries, however much is wanted: it is held in memory twice. */
const MAX_BATCH_BYTES = 1024 * 1024;
const EMPTY = Buffer.alloc(0);

/** Where an answer is put together; used within one turn of the event loop only. */
let batch: Buffer | undefined;

interface Reader {
  readonly maxBytes: number;
  readonly give: (bytes: Buffer) => void;
}

/**
 * What a stream is read from. Ownership of `fd` goes to the stream.
 * - `adopt` makes the socket that reads while the process lives; for a pipe the socket owns `fd` itself, for a pty it
 *   has a descriptor of its own.
 * - `onLastRead` is told once when the process has ended and the buffer was empty: a pty lets go of its slave here.
 */
export interface OutputSource {
  readonly fd: number;
  readonly isSharedWithSocket: boolean;
  adopt(onread: { buffer: Buffer; callback(bytes: number): boolean }): Socket;
  onLastRead?(): void;
}

/**
 * Output of a process, read on demand: nothing is read ahead beyond one chunk, so a slow reader slows the process
 * down. While the process lives the event loop waits for data; once it has ended, what is left is taken by
 * non-blocking reads, since libuv drops the tail of a pty, and since a grandchild may hold the pipe open for ever.
 */
export class OutputStream {
  private readonly readers: Reader[] = [];
  private held: Buffer = EMPTY;
  private isEnded = false;
  private isDraining = false;
  private graceEndsMs = 0;
  private leftAfterGrace = MAX_AFTER_GRACE_BYTES;
  private drainTimer: NodeJS.Timeout | undefined;
  private scratch: Buffer | undefined;
  private socket: Socket | undefined;
  private isClosed = false;
  private saidLastRead = false;
  private sawEnd = false;
  /** Told once, when a reader got the end of the stream. */
  onEndSeen: (() => void) | undefined;

  constructor(private readonly source: OutputSource) {}

  /** The stream of a pipe's read end, which it owns from here on. */
  static ofPipe(fd: number): OutputStream {
    setNonblocking(fd);
    return new OutputStream({
      fd,
      isSharedWithSocket: true,
      adopt: (onread) => new Socket({ fd, readable: true, writable: false, manualStart: true, onread } as ConstructorParameters<typeof Socket>[0]),
    });
  }

  /** The next bytes, at most `maxBytes`; no bytes at the end of the stream. Calls are served in order. */
  read(maxBytes: number, signal?: AbortSignal): Promise<Buffer> {
    return new Promise((resolve) => {
      const reader: Reader = {
        maxBytes: Math.max(1, maxBytes),
        give: (bytes) => {
          signal?.removeEventListener('abort', onAbort);
          resolve(bytes);
        },
      };
      const onAbort = (): void => {
        const at = this.readers.indexOf(reader);
        if (at >= 0) {
          this.readers.splice(at, 1);
          resolve(EMPTY);
        }
      };
      if (signal?.aborted === true) {
        resolve(EMPTY);
        return;
      }
      signal?.addEventListener('abort', onAbort, { once: true });
      this.readers.push(reader);
      this.serve();
    });
  }

  /** Tells that the process has ended: what is left is drained, for at most the grace where others hold the stream. */
  processEnded(): void {
    if (!this.isDraining) {
      this.isDraining = true;
      this.graceEndsMs = performance.now() + DRAIN_GRACE_MS;
      this.socket?.pause();
      this.serve();
    }
  }

  /** Gives everything back; who still reads gets the end. */
  close(): void {
    this.isEnded = true;
    this.held = EMPTY;
    this.release();
    this.serve();
  }

  private serve(): void {
    for (;;) {
      const reader = this.readers[0];
      if (reader === undefined) {
        return;
      }
      if (this.held.length > 0) {
        this.readers.shift();
        const bytes = this.held.subarray(0, reader.maxBytes);
        this.held = this.held.subarray(bytes.length);
        reader.give(bytes);
      } else if (this.isEnded) {
        this.readers.shift();
        reader.give(EMPTY);
        this.noteEnd();
      } else if (this.isDraining) {
        if (!this.drain()) {
          return;
        }
      } else {
        this.wait();
        return;
      }
    }
  }

  /** True once a reader got the end of the stream. */
  get isRead(): boolean {
    return this.sawEnd;
  }

  private noteEnd(): void {
    if (!this.sawEnd) {
      this.sawEnd = true;
      this.onEndSeen?.();
    }
  }

  /** Lets the event loop read one chunk. */
  private wait(): void {
    if (this.socket === undefined) {
      const buffer = Buffer.allocUnsafeSlow(CHUNK_BYTES);
      const callback = (bytes: number): boolean => {
        const chunk = bytes === buffer.length ? this.topUp(buffer) : Buffer.from(buffer.subarray(0, bytes));
        this.held = this.held.length > 0 ? Buffer.concat([this.held, chunk]) : chunk;
        this.serve();
        return this.readers.length > 0 && this.held.length === 0 && !this.isDraining;
      };
      this.socket = this.source.adopt({ buffer, callback });
      this.socket.on('end', () => this.atEnd());
      this.socket.on('error', () => this.atEnd());
    }
    this.socket.resume();
  }

  /** A full chunk says that there is more: takes what is there, up to what the reader wants, to save it calls. */
  private topUp(chunk: Buffer): Buffer {
    const wanted = Math.min(this.readers[0]?.maxBytes ?? 0, MAX_BATCH_BYTES);
    if (!this.source.isSharedWithSocket || wanted <= chunk.length) {
      return Buffer.from(chunk);
    }
    batch ??= Buffer.allocUnsafeSlow(MAX_BATCH_BYTES);
    let size = chunk.copy(batch);
    while (size < wanted) {
      const result = readRaw(this.source.fd, batch.subarray(size, wanted));
      if (result <= 0) {
        break;
      }
      size += result;
    }
    return Buffer.from(batch.subarray(0, size));
  }

  private atEnd(): void {
    if (!this.isDraining || this.source.isSharedWithSocket) {
      this.isEnded = true;
      this.release();
    }
    this.serve();
  }

  /** One non-blocking read; false when there is nothing now and a later look is due. */
  private drain(): boolean {
    this.scratch ??= Buffer.allocUnsafeSlow(CHUNK_BYTES);
    const isLate = performance.now() >= this.graceEndsMs;
    const result = isLate && this.leftAfterGrace <= 0 ? 0 : readRaw(this.source.fd, this.scratch);
    if (result > 0) {
      this.held = Buffer.from(this.scratch.subarray(0, result));
      if (isLate) {
        this.leftAfterGrace -= result;
      }
      return true;
    }
    const isEmpty = result < 0 && ['EAGAIN', 'EINTR'].includes(errnoName(result));
    if (isEmpty && !this.saidLastRead) {
      this.saidLastRead = true;
      this.source.onLastRead?.();
      return true;
    }
    if (!isEmpty || isLate) {
      this.isEnded = true;
      this.release();
      return true;
    }
    this.drainTimer ??= setTimeout(() => {
      this.drainTimer = undefined;
      this.serve();
    }, DRAIN_POLL_MS);
    return false;
  }

  private release(): void {
    if (this.isClosed) {
      return;
    }
    this.isClosed = true;
    clearTimeout(this.drainTimer);
    if (this.socket !== undefined) {
      this.socket.destroy();
    }
    if (this.socket === undefined || !this.source.isSharedWithSocket) {
      closeSync(this.source.fd);
    }
    if (!this.saidLastRead) {
      this.saidLastRead = true;
      this.source.onLastRead?.();
    }
  }
}
