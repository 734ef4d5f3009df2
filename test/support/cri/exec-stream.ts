/** Streaming exec as `kubectl exec -i` does it: a WebSocket (RFC 6455) to the URL that the CRI gave, one byte of channel per message. */
import { randomBytes } from 'node:crypto';
import { request } from 'node:http';
import type { Duplex } from 'node:stream';

const CHANNELS = 'v4.channel.k8s.io';
const STATUS_CHANNEL = 3;
const RESIZE_CHANNEL = 4;
const BINARY = 2;
const CLOSE = 8;
const PING = 9;
const PONG = 10;

/** A client must mask. */
function frame(opcode: number, payload: Buffer): Buffer {
  const mask = randomBytes(4);
  const length = payload.length < 126 ? Buffer.from([0x80 | payload.length]) : Buffer.from([0x80 | 126, payload.length >> 8, payload.length & 255]);
  const masked = Buffer.from(payload.map((byte, index) => byte ^ (mask[index % 4] ?? 0)));
  return Buffer.concat([Buffer.from([0x80 | opcode]), length, mask, masked]);
}

async function upgrade(url: string): Promise<readonly [Duplex, Buffer]> {
  return new Promise((resolve, reject) => {
    const asked = request(url.replace(/^ws/, 'http'), {
      headers: { connection: 'Upgrade', upgrade: 'websocket', 'sec-websocket-version': '13', 'sec-websocket-key': randomBytes(16).toString('base64'), 'sec-websocket-protocol': CHANNELS },
    });
    asked.once('upgrade', (_, socket, head) => resolve([socket, head]));
    asked.once('response', (response) => reject(new Error(`no upgrade: HTTP ${String(response.statusCode)}`)));
    asked.once('error', reject);
    asked.end();
  });
}

export class ExecStream {
  private readonly texts = new Map<number, string>();
  private pending: Buffer;
  /** Resolves when the other side has ended. */
  readonly ended: Promise<void>;

  private constructor(
    private readonly socket: Duplex,
    head: Buffer,
  ) {
    this.pending = head;
    this.ended = new Promise((resolve) => {
      socket.once('close', () => resolve());
      socket.once('error', () => resolve());
    });
    socket.on('data', (chunk: Buffer) => {
      this.pending = Buffer.concat([this.pending, chunk]);
      this.takeFrames();
    });
    this.takeFrames();
  }

  static async open(url: string): Promise<ExecStream> {
    return new ExecStream(...(await upgrade(url)));
  }

  private takeFrames(): void {
    for (;;) {
      const [first = 0, second = 0] = this.pending;
      const small = second & 127;
      const start = small < 126 ? 2 : small === 126 ? 4 : 10;
      if (this.pending.length < start) {
        return;
      }
      const length = small < 126 ? small : small === 126 ? this.pending.readUInt16BE(2) : Number(this.pending.readBigUInt64BE(2));
      if (this.pending.length < start + length) {
        return;
      }
      const payload = this.pending.subarray(start, start + length);
      this.pending = this.pending.subarray(start + length);
      this.take(first & 15, payload);
    }
  }

  private take(opcode: number, payload: Buffer): void {
    if (opcode === CLOSE) {
      this.socket.end(frame(CLOSE, payload));
    } else if (opcode === PING) {
      this.socket.write(frame(PONG, payload));
    } else if (payload.length > 0) {
      const channel = payload[0] ?? 0;
      this.texts.set(channel, (this.texts.get(channel) ?? '') + payload.subarray(1).toString());
    }
  }

  get stdout(): string {
    return this.texts.get(1) ?? '';
  }

  get stderr(): string {
    return this.texts.get(2) ?? '';
  }

  /** JSON of the end: `{"status":"Success"}`, or a failure with its exit code. */
  get status(): string {
    return this.texts.get(STATUS_CHANNEL) ?? '';
  }

  stdin(text: string): void {
    this.socket.write(frame(BINARY, Buffer.concat([Buffer.from([0]), Buffer.from(text)])));
  }

  resize(width: number, height: number): void {
    this.socket.write(frame(BINARY, Buffer.concat([Buffer.from([RESIZE_CHANNEL]), Buffer.from(JSON.stringify({ Width: width, Height: height }))])));
  }
}
