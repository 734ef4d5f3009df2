import { closeSync, constants, fstatSync, openSync, readSync } from 'node:fs';
import { Socket } from 'node:net';
import { KataError } from '../base/errors';

const MAX_STDIN_BYTES = 10 * 1024 * 1024;
const WAIT_MS = 1_000;
const POLL_MS = 2;

/**
 * All that is on standard input, which must never hold us: a terminal or /dev/null is not read, and a pipe that stays
 * open without an end counts as ended after a second.
 */
export async function readStdin(): Promise<Uint8Array> {
  let fd: number;
  try {
    const info = fstatSync(0);
    if (info.isSocket()) {
      return await readSocket();
    }
    if (!info.isFIFO() && !info.isFile()) {
      return new Uint8Array(0);
    }
    // Opened anew, so that only our description of the pipe is non-blocking, not the one shared with the caller.
    fd = openSync('/proc/self/fd/0', constants.O_RDONLY | constants.O_NONBLOCK);
  } catch (reason) {
    if (reason instanceof KataError) {
      throw reason;
    }
    return new Uint8Array(0);
  }
  try {
    return await readToEnd(fd);
  } finally {
    closeSync(fd);
  }
}

/** Some callers give a socket instead of a pipe; those cannot be opened anew. */
async function readSocket(): Promise<Uint8Array> {
  const socket = new Socket({ fd: 0, readable: true, writable: false });
  const chunks: Buffer[] = [];
  let length = 0;
  try {
    await new Promise<void>((resolve, reject) => {
      const timer = setTimeout(resolve, WAIT_MS);
      socket.on('data', (chunk: Buffer) => {
        length += chunk.length;
        chunks.push(chunk);
        if (length > MAX_STDIN_BYTES) {
          reject(tooMuch());
        }
      });
      for (const event of ['end', 'error', 'close']) {
        socket.on(event, () => {
          clearTimeout(timer);
          resolve();
        });
      }
    });
    return Buffer.concat(chunks);
  } finally {
    // Its descriptor is closed by this; /dev/null takes the number, so that no other file gets it.
    socket.destroy();
    await new Promise((resolve) => setImmediate(resolve));
    openSync('/dev/null', constants.O_RDONLY);
  }
}

function tooMuch(): KataError {
  return new KataError('ResourceExhausted', `start: more than ${String(MAX_STDIN_BYTES)} bytes on standard input`);
}

async function readToEnd(fd: number): Promise<Uint8Array> {
  const chunks: Buffer[] = [];
  const buffer = Buffer.allocUnsafe(65_536);
  const deadline = Date.now() + WAIT_MS;
  let length = 0;
  for (;;) {
    const count = readSome(fd, buffer);
    if (count === 0 || (count === undefined && Date.now() >= deadline)) {
      return Buffer.concat(chunks);
    }
    if (count === undefined) {
      await new Promise((resolve) => setTimeout(resolve, POLL_MS));
      continue;
    }
    length += count;
    if (length > MAX_STDIN_BYTES) {
      throw tooMuch();
    }
    chunks.push(Buffer.from(buffer.subarray(0, count)));
  }
}

/** Bytes read, 0 at the end, undefined if there is nothing yet. */
function readSome(fd: number, into: Buffer): number | undefined {
  try {
    return readSync(fd, into);
  } catch (reason) {
    return reason instanceof Error && 'code' in reason && reason.code === 'EAGAIN' ? undefined : 0;
  }
}
