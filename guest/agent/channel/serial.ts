import { Duplex } from 'node:stream';
import { encodePreamble, PreambleScanner } from '../../../base/serial-preamble';

/** A connection whose requests are not taken while this much waits is cut off: the host is out of bounds. */
const MAX_WAITING_BYTES = 32 * 1024 * 1024;

/** Writes to the port; calls back once it took the bytes. */
export type PortWriter = (bytes: Uint8Array, done: (error?: Error | null) => void) => void;

/** One connection of the host over the port: what lies between two preambles. */
class SerialConnection extends Duplex {
  constructor(private readonly send: PortWriter) {
    super({ allowHalfOpen: false, emitClose: true });
    this.on('error', () => undefined);
  }

  /** Bytes from the host. */
  feed(bytes: Buffer): void {
    if (this.destroyed) {
      return;
    }
    this.push(bytes);
    if (this.readableLength > MAX_WAITING_BYTES) {
      this.destroy();
    }
  }

  override _read(): void {
    // The port is always read, so that a host that goes away is noticed.
  }

  override _write(chunk: Buffer, _encoding: string, done: (error?: Error | null) => void): void {
    this.send(chunk, done);
  }

  override _destroy(error: Error | null, done: (error?: Error | null) => void): void {
    done(error);
  }
}

/**
 * Turns a port without connection boundaries into connections: each preamble of the host ends the one before, is
 * echoed, and begins a new one. Bytes before the first preamble are dropped.
 */
export class SerialChannel {
  private readonly scanner = new PreambleScanner('host');
  private current: SerialConnection | undefined;
  private writer: PortWriter | undefined;

  /** `onConnection` takes each connection over. */
  constructor(private readonly onConnection: (connection: Duplex) => void) {}

  /** The host is there: bytes can be written through `writer`, from now on those of an open connection too. */
  attach(writer: PortWriter): void {
    this.writer = writer;
  }

  /** The host went away; it begins with a preamble when it is back. */
  detach(): void {
    this.writer = undefined;
    this.drop();
  }

  /** Bytes of the port. */
  feed(chunk: Buffer): void {
    for (const event of this.scanner.push(chunk)) {
      if (event.kind === 'data') {
        this.current?.feed(Buffer.from(event.bytes));
      } else {
        this.begin(event.nonce);
      }
    }
  }

  private begin(nonce: Buffer): void {
    this.drop();
    const { writer } = this;
    if (writer === undefined) {
      return;
    }
    writer(encodePreamble('guest', nonce), () => undefined);
    const connection = new SerialConnection((bytes, done) => {
      if (this.current === connection && this.writer !== undefined) {
        this.writer(bytes, done);
      } else {
        done(new Error('the host began a new connection'));
      }
    });
    this.current = connection;
    this.onConnection(connection);
  }

  private drop(): void {
    const old = this.current;
    this.current = undefined;
    old?.destroy();
  }
}
