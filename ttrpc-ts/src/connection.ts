import type { Duplex } from 'node:stream';
import { FrameDecoder, type Frame } from './frame';
import { startTimer } from './timer';

/** Bytes that may wait for a peer that does not read, unless told otherwise. */
export const DEFAULT_MAX_QUEUED_BYTES = 4 << 20;

/** How long the last bytes of a connection that is being closed may take, in milliseconds. */
const CLOSE_TIMEOUT_MS = 1000;

/** Limits of one connection. */
export interface ConnectionLimits {
  readonly maxMessageBytes: number;
  /** From so many unsent bytes on the connection counts as full. */
  readonly maxQueuedBytes: number;
  /** Whether nothing is read while the connection is full (servers: the peer pays for not reading its answers). */
  readonly stopsReadingWhenFull: boolean;
}

/** Who owns a connection. */
export interface ConnectionOwner {
  onFrame(frame: Frame): void;
  /** Called once, with the reason unless the end was an orderly one. */
  onClose(error: Error | undefined): void;
}

/**
 * Frames over a duplex: decoding, one buffer per frame, all frames of a tick in one system call, back-pressure both
 * ways. Owns the duplex from construction on and destroys it at the end.
 */
export class Connection {
  private readonly decoder: FrameDecoder;
  private readonly maxQueuedBytes: number;
  private readonly writers: (() => void)[] = [];
  private isCorked = false;
  private isPumping = false;
  private isFull = false;
  private holds = 0;
  private isOver = false;

  constructor(
    private readonly duplex: Duplex,
    private readonly limits: ConnectionLimits,
    private readonly owner: ConnectionOwner,
  ) {
    this.decoder = new FrameDecoder(limits.maxMessageBytes);
    this.maxQueuedBytes = Math.max(limits.maxQueuedBytes, duplex.writableHighWaterMark);
    duplex.on('error', this.onError);
    duplex.on('end', this.onEnd);
    duplex.on('close', this.onEnd);
    duplex.on('drain', this.onDrain);
    duplex.on('data', this.onData);
    if (duplex.destroyed) {
      process.nextTick(this.onEnd);
    }
  }

  /** Whether the connection has ended, or is being ended by us. */
  get isClosed(): boolean {
    return this.isOver;
  }

  /** Queues one whole frame. Frames go out in the order of these calls; after the end they are dropped. */
  send(frame: Uint8Array): void {
    if (this.isOver) {
      return;
    }
    if (!this.isCorked) {
      this.isCorked = true;
      this.duplex.cork();
      process.nextTick(this.uncork);
    }
    const hasRoom = this.duplex.write(frame);
    if (!hasRoom && !this.isFull && this.duplex.writableLength >= this.maxQueuedBytes) {
      this.isFull = true;
      if (this.limits.stopsReadingWhenFull) {
        this.hold();
      }
    }
  }

  /**
   * Runs `write` at once, or, when the connection is full, as soon as the peer has read. In order. Also runs when the
   * connection ends (see `isClosed`), so that nobody waits for ever.
   */
  whenWritable(write: () => void): void {
    if (this.isOver || (!this.isFull && this.writers.length === 0)) {
      write();
    } else {
      this.writers.push(write);
    }
  }

  /** Stops handing out frames until as many `release` calls have come. */
  hold(): void {
    this.holds++;
    if (this.holds === 1) {
      this.duplex.pause();
    }
  }

  /** Ends one `hold`. */
  release(): void {
    this.holds--;
    if (this.holds === 0 && !this.isOver) {
      // Not from within the caller: it may be in the middle of taking a message.
      process.nextTick(this.resume);
    }
  }

  /**
   * Ends the connection in order: what is queued is sent (for at most a second), then the duplex is destroyed.
   * Resolves when the duplex is closed.
   */
  close(): Promise<void> {
    this.uncork();
    this.finish(undefined);
    const { duplex } = this;
    return new Promise((resolve) => {
      if (duplex.closed) {
        resolve();
        return;
      }
      const stopTimer = startTimer(CLOSE_TIMEOUT_MS, () => duplex.destroy());
      duplex.once('close', () => {
        stopTimer();
        resolve();
      });
      duplex.end(() => duplex.destroy());
    });
  }

  private readonly onData = (chunk: Uint8Array): void => {
    this.decoder.push(chunk);
    this.pump();
  };

  private pump(): void {
    if (this.isPumping) {
      return;
    }
    this.isPumping = true;
    try {
      while (this.holds === 0 && !this.isOver) {
        const frame = this.decoder.next();
        if (frame === undefined) {
          return;
        }
        this.owner.onFrame(frame);
      }
      this.decoder.retain();
    } finally {
      this.isPumping = false;
    }
  }

  private readonly resume = (): void => {
    if (this.holds === 0 && !this.isOver) {
      this.pump();
      if (!this.isHeld()) {
        this.duplex.resume();
      }
    }
  };

  /** A call, since the compiler takes `holds` to be unchanged by `pump`. */
  private isHeld(): boolean {
    return this.holds > 0;
  }

  private readonly uncork = (): void => {
    if (this.isCorked) {
      this.isCorked = false;
      this.duplex.uncork();
    }
  };

  private readonly onDrain = (): void => {
    if (!this.isFull) {
      return;
    }
    this.isFull = false;
    this.runWriters();
    if (this.limits.stopsReadingWhenFull) {
      this.release();
    }
  };

  private runWriters(): void {
    while (!this.isFull) {
      const write = this.writers.shift();
      if (write === undefined) {
        return;
      }
      write();
    }
  }

  private readonly onError = (error: Error): void => {
    this.finish(error);
    this.duplex.destroy();
  };

  private readonly onEnd = (): void => {
    this.finish(this.decoder.isMidFrame ? new Error('peer went away in the middle of a message') : undefined);
    this.duplex.destroy();
  };

  private finish(error: Error | undefined): void {
    if (this.isOver) {
      return;
    }
    this.isOver = true;
    this.duplex.off('data', this.onData);
    this.duplex.off('drain', this.onDrain);
    this.isFull = false;
    this.runWriters();
    this.owner.onClose(error);
  }
}
