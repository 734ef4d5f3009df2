/** Where the input of a process comes from on the host. */
import { close, closeSync, constants, fstatSync, openSync, read } from 'node:fs';
import { Socket } from 'node:net';
import { defer } from '../../base/deadline';
import { KataError } from '../../base/errors';
import { unreadBytes } from './sink';

/** Gives bytes in order; `undefined` at the end. One read at a time; the bytes are valid until the next read. */
export interface InputSource {
  read(): Promise<Uint8Array | undefined>;
  /** The client will write no more: what lies there is still given, then the end. Idempotent. */
  finish(): void;
  /** Gives everything back; a pending read ends. Idempotent. */
  close(): void;
}

const BUFFER_BYTES = 65_536;
const IDLE_POLL_MS = 20;
/** So often in a row must a finished FIFO be empty; a client that has closed its end is noticed at once by the end itself. */
const IDLE_POLLS = 2;

/** Reads a FIFO. A writing end of our own is kept until `finish`, so that a client that detaches does not end the input. */
export class FifoSource implements InputSource {
  private readonly socket: Socket;
  private writeFd: number | undefined;
  private chunk: Uint8Array | undefined;
  private pending: ((bytes: Uint8Array | undefined) => void) | undefined;
  private hasEnded = false;
  private idlePolls = 0;
  private timer: NodeJS.Timeout | undefined;

  /** Takes ownership of `fd`, a reading end. */
  constructor(
    private readonly fd: number,
    path: string,
  ) {
    this.writeFd = openSync(path, constants.O_WRONLY | constants.O_NONBLOCK);
    const buffer = Buffer.allocUnsafeSlow(BUFFER_BYTES);
    // One buffer for everything (Node's types know `onread` for connect only, its documentation for both).
    const onread = {
      buffer,
      callback: (length: number): boolean => {
        this.offer(buffer.subarray(0, length));
        return false;
      },
    };
    const options = { fd, readable: true, writable: false, onread };
    this.socket = new Socket(options);
    this.socket.on('end', () => {
      this.end();
    });
    this.socket.on('close', () => {
      this.end();
    });
    this.socket.on('error', () => {
      this.end();
    });
  }

  async read(): Promise<Uint8Array | undefined> {
    if (this.chunk !== undefined) {
      const chunk = this.chunk;
      this.chunk = undefined;
      return chunk;
    }
    if (this.hasEnded) {
      return undefined;
    }
    const next = defer<Uint8Array | undefined>();
    this.pending = (bytes) => {
      next.resolve(bytes);
    };
    this.socket.resume();
    return next.promise;
  }

  finish(): void {
    if (this.writeFd !== undefined) {
      closeSync(this.writeFd);
      this.writeFd = undefined;
      this.pollIdle();
    }
  }

  close(): void {
    clearTimeout(this.timer);
    if (this.writeFd !== undefined) {
      closeSync(this.writeFd);
      this.writeFd = undefined;
    }
    this.socket.destroy();
    this.end();
  }

  private offer(bytes: Uint8Array): void {
    this.idlePolls = 0;
    this.socket.pause();
    const pending = this.pending;
    this.pending = undefined;
    if (pending === undefined) {
      this.chunk = bytes;
    } else {
      pending(bytes);
    }
  }

  private end(): void {
    this.hasEnded = true;
    clearTimeout(this.timer);
    const pending = this.pending;
    this.pending = undefined;
    pending?.(undefined);
  }

  /** The client said that it is done but may keep its end open: the input ends once it is empty and wanted. */
  private pollIdle(): void {
    if (this.hasEnded) {
      return;
    }
    const isIdle = this.pending !== undefined && this.chunk === undefined && unreadBytes(this.fd) === 0;
    this.idlePolls = isIdle ? this.idlePolls + 1 : 0;
    if (this.idlePolls > IDLE_POLLS) {
      this.end();
      this.socket.destroy();
      return;
    }
    this.timer = setTimeout(() => {
      this.pollIdle();
    }, IDLE_POLL_MS);
    this.timer.unref();
  }
}

/** Reads a regular file or a device to its end. Owns the descriptor. */
export class FileSource implements InputSource {
  private readonly buffer = Buffer.allocUnsafeSlow(BUFFER_BYTES);
  private isClosed = false;

  constructor(private readonly fd: number) {}

  async read(): Promise<Uint8Array | undefined> {
    if (this.isClosed) {
      return undefined;
    }
    return new Promise((resolve) => {
      read(this.fd, this.buffer, 0, this.buffer.length, null, (error, count) => {
        resolve(error !== null || count === 0 ? undefined : this.buffer.subarray(0, count));
      });
    });
  }

  finish(): void {
    // A file has its own end.
  }

  close(): void {
    if (!this.isClosed) {
      this.isClosed = true;
      close(this.fd, () => undefined);
    }
  }
}

/** Opens the stdin path of a process without ever blocking. */
export function openSource(path: string): InputSource {
  let fd: number | undefined;
  try {
    fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
    return fstatSync(fd).isFIFO() ? new FifoSource(fd, path) : new FileSource(fd);
  } catch (reason) {
    if (fd !== undefined) {
      closeSync(fd);
    }
    throw KataError.from(reason, `open stdin ${path}`);
  }
}
