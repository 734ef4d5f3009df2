import { mkdtempSync, rmSync } from 'node:fs';
import { connect, createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { encodeRequestFrame, setStreamId, type RequestEnvelope } from '../envelope';
import { FrameDecoder, MAX_MESSAGE_BYTES, type Frame } from '../frame';

/** A path for a socket in a folder that goes away with the test. */
export function socketPath(t: TestContext): string {
  const folder = mkdtempSync(join(tmpdir(), 'ttrpc-'));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  return join(folder, 's');
}

/** Connects to a socket. */
export function dial(path: string): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = connect(path);
    socket.once('error', reject);
    socket.once('connect', () => {
      socket.off('error', reject);
      resolve(socket);
    });
  });
}

/** Two connected sockets; both end with the test. */
export async function socketPair(t: TestContext): Promise<[Socket, Socket]> {
  const path = socketPath(t);
  const listener = createServer({ allowHalfOpen: true });
  const accepted = new Promise<Socket>((resolve) => listener.once('connection', resolve));
  await new Promise<void>((resolve) => listener.listen(path, resolve));
  const [left, right] = await Promise.all([dial(path), accepted]);
  listener.close();
  t.after(() => {
    left.destroy();
    right.destroy();
  });
  return [left, right];
}

/** Two connected TCP sockets on the loopback: only these can be reset. */
export async function tcpPair(): Promise<[Socket, Socket]> {
  const listener = createServer();
  const accepted = new Promise<Socket>((resolve) => listener.once('connection', resolve));
  await new Promise<void>((resolve) => listener.listen(0, '127.0.0.1', resolve));
  const address = listener.address();
  if (address === null || typeof address === 'string') {
    throw new Error('not a TCP listener');
  }
  const socket = connect(address.port, '127.0.0.1');
  await new Promise((resolve) => socket.once('connect', resolve));
  listener.close();
  return [socket, await accepted];
}

/** A request frame of any stream id. */
export function requestFrame(streamId: number, request: Partial<RequestEnvelope>, flags = 0): Buffer {
  const none = { service: '', method: '', payload: new Uint8Array(0), timeoutNano: 0n, metadata: undefined };
  const frame = encodeRequestFrame({ ...none, ...request }, flags, MAX_MESSAGE_BYTES);
  setStreamId(frame, streamId);
  return frame;
}

/** A peer that speaks plain frames, right or wrong ones. */
export class RawPeer {
  private readonly frames: Frame[] = [];
  private readonly waiters: ((frame: Frame | undefined) => void)[] = [];
  /** Whether the other side has ended the connection. */
  isEnded = false;

  constructor(
    readonly socket: Socket,
    maxMessageBytes = MAX_MESSAGE_BYTES,
  ) {
    const decoder = new FrameDecoder(maxMessageBytes);
    socket.on('error', () => undefined);
    socket.on('data', (chunk: Buffer) => {
      decoder.push(chunk);
      for (let frame = decoder.next(); frame !== undefined; frame = decoder.next()) {
        const waiter = this.waiters.shift();
        if (waiter === undefined) {
          this.frames.push(frame);
        } else {
          waiter(frame);
        }
      }
    });
    socket.on('close', () => {
      this.isEnded = true;
      this.waiters.splice(0).forEach((waiter) => waiter(undefined));
    });
  }

  /** Sends bytes as they are. */
  send(...chunks: Uint8Array[]): void {
    this.socket.write(Buffer.concat(chunks));
  }

  /** The next frame that comes; throws when the connection ends. */
  async next(): Promise<Frame> {
    const frame =
      this.frames.shift() ?? (await new Promise<Frame | undefined>((resolve) => this.waiters.push(resolve)));
    if (frame === undefined) {
      throw new Error('connection ended');
    }
    return frame;
  }
}
