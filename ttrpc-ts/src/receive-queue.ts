import { TtrpcError } from './errors';
import { startTimer } from './timer';

/** Messages of one stream that may wait for the application. */
const WINDOW_MESSAGES = 64;
/** Bytes of one stream that may wait for the application (one message of the largest size always fits). */
const WINDOW_BYTES = 4 << 20;
/** How long a full window may hold up the connection before its stream is failed, in milliseconds. */
const WINDOW_TIMEOUT_MS = 1000;

/** What the queue does to its connection and its stream. */
export interface ReceiveQueueOwner {
  /** The window is full: read nothing more. */
  hold(): void;
  /** There is room again. */
  release(): void;
  /** The application did not take anything for too long: fail this stream, so that the others go on. */
  onOverflow(error: TtrpcError): void;
}

interface Waiter {
  resolve(item: Uint8Array | undefined): void;
  reject(error: TtrpcError): void;
}

/**
 * Messages of a stream on their way to the application. The protocol has no flow control, so a full window stops the
 * whole connection for at most a second; then the stream fails with ResourceExhausted.
 */
export class ReceiveQueue {
  private items: Uint8Array[] = [];
  private bytes = 0;
  private readonly waiters: Waiter[] = [];
  private ending: { readonly error: TtrpcError | undefined } | undefined;
  private stopTimer: (() => void) | undefined;

  constructor(private readonly owner: ReceiveQueueOwner) {}

  /** Whether no more messages can come. */
  get isEnded(): boolean {
    return this.ending !== undefined;
  }

  /** Hands in a message; dropped after the end. */
  push(item: Uint8Array): void {
    if (this.ending !== undefined) {
      return;
    }
    const waiter = this.waiters.shift();
    if (waiter !== undefined) {
      waiter.resolve(item);
      return;
    }
    this.items.push(item);
    this.bytes += item.length;
    if (this.stopTimer === undefined && (this.items.length >= WINDOW_MESSAGES || this.bytes >= WINDOW_BYTES)) {
      this.owner.hold();
      this.stopTimer = startTimer(WINDOW_TIMEOUT_MS, () => {
        const text = `stream is full: ${this.items.length} messages (${this.bytes} bytes) were not taken within 1 s`;
        this.owner.onOverflow(new TtrpcError('ResourceExhausted', text));
      });
    }
  }

  /** Ends the queue. Without error, what waits can still be taken; with one, it is dropped. */
  end(error?: TtrpcError): void {
    if (this.ending !== undefined) {
      return;
    }
    this.ending = { error };
    if (error !== undefined) {
      this.items = [];
      this.bytes = 0;
    }
    this.reopen();
    for (const waiter of this.waiters.splice(0)) {
      if (error === undefined) {
        waiter.resolve(undefined);
      } else {
        waiter.reject(error);
      }
    }
  }

  /** The next message; `undefined` after an orderly end; rejects after a failure. */
  take(): Promise<Uint8Array | undefined> {
    const item = this.items.shift();
    if (item !== undefined) {
      this.bytes -= item.length;
      if (this.items.length <= WINDOW_MESSAGES / 2 && this.bytes <= WINDOW_BYTES / 2) {
        this.reopen();
      }
      return Promise.resolve(item);
    }
    if (this.ending !== undefined) {
      return this.ending.error === undefined ? Promise.resolve(undefined) : Promise.reject(this.ending.error);
    }
    return new Promise((resolve, reject) => {
      this.waiters.push({ resolve, reject });
    });
  }

  private reopen(): void {
    if (this.stopTimer !== undefined) {
      this.stopTimer();
      this.stopTimer = undefined;
      this.owner.release();
    }
  }
}
