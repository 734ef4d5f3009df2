/** The guest's console: read all the time, kept within bounds, so that a flood neither fills the disk nor stops the guest. */
import { closeSync, ftruncateSync, openSync, writeSync } from 'node:fs';
import type { Socket } from 'node:net';

const MAX_FILE_BYTES = 1024 * 1024;
const TAIL_BYTES = 16 * 1024;

export class ConsoleLog {
  private tailBytes = Buffer.alloc(0);
  private position = 0;
  private fd: number | undefined;
  private socket: Socket | undefined;

  constructor(readonly path: string) {}

  /** Reads the stream into the file until it ends or `close`. */
  attach(socket: Socket): void {
    this.fd ??= openSync(this.path, 'w', 0o600);
    this.socket = socket;
    socket.on('error', () => undefined);
    socket.on('data', (chunk: Buffer) => { this.append(chunk); });
  }

  /** The last 16 KiB. */
  get tail(): string {
    return this.tailBytes.toString('utf8');
  }

  /** The tail stays readable. */
  close(): void {
    this.socket?.destroy();
    if (this.fd !== undefined) {
      closeSync(this.fd);
      this.fd = undefined;
    }
  }

  /** At the bound the file starts again with the tail of what was there. */
  private append(chunk: Buffer): void {
    this.tailBytes = Buffer.from(Buffer.concat([this.tailBytes, chunk.subarray(-TAIL_BYTES)]).subarray(-TAIL_BYTES));
    if (this.fd === undefined) {
      return;
    }
    try {
      let bytes = chunk;
      if (this.position + chunk.length > MAX_FILE_BYTES) {
        ftruncateSync(this.fd, 0);
        this.position = 0;
        bytes = this.tailBytes;
      }
      this.position += writeSync(this.fd, bytes, 0, bytes.length, this.position);
    } catch {
      // A full disk costs the file, never the guest; the tail is in memory.
    }
  }
}
