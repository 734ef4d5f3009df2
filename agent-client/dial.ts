import { closeSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { abortError, sleep, timeoutSignal } from '../base/deadline';
import { KataError } from '../base/errors';
import { streamFromFd } from '../base/fd-stream';
import { encodePreamble, NONCE_BYTES, PreambleScanner } from '../base/serial-preamble';
import { errnoError, pollOnce, socketError, vsockConnect } from '../base/syscalls';
import type { AgentEndpoint } from './endpoint';

/** How long a VMM may take to answer CONNECT of hybrid vsock, in milliseconds. */
const HANDSHAKE_TIMEOUT_MS = 10_000;
const MAX_HANDSHAKE_BYTES = 128;

/** The serial preamble is sent again at growing intervals: the guest may not have had its port open. */
const PREAMBLE_FIRST_DELAY_MS = 100;
const PREAMBLE_MAX_DELAY_MS = 5_000;

const POLL_OUT = 4;
const CONNECT_POLL_MAX_MS = 10;

/**
 * One attempt to reach the agent, handshake included. Resolves with a paused socket that the caller owns (attach, then
 * `resume`). Ends at once with the signal's reason when it fires; the attempt itself has no other limit.
 */
export async function dialOnce(endpoint: AgentEndpoint, signal: AbortSignal): Promise<Socket> {
  switch (endpoint.kind) {
    case 'vsock':
      return dialVsock(endpoint.cid, endpoint.port, signal);
    case 'unix':
      return dialUnix(endpoint.path, signal);
    case 'hvsock':
      return withSocket(await dialUnix(endpoint.path, signal), async (socket) => {
        await connectPort(socket, endpoint.port, signal);
      });
    case 'serial':
      return withSocket(await dialUnix(endpoint.path, signal), async (socket) => {
        await synchronize(socket, signal);
      });
  }
}

async function withSocket(socket: Socket, handshake: (socket: Socket) => Promise<void>): Promise<Socket> {
  try {
    await handshake(socket);
    return socket;
  } catch (reason) {
    socket.destroy();
    throw reason;
  }
}

async function dialUnix(path: string, signal: AbortSignal): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = connect({ path });
    const settle = (): void => {
      signal.removeEventListener('abort', onAbort);
      socket.off('connect', onConnect);
      socket.off('error', onError);
      // Until somebody else listens: an error is followed by `close`, and that is what counts.
      socket.on('error', () => undefined);
    };
    const onConnect = (): void => {
      settle();
      socket.pause();
      resolve(socket);
    };
    const onError = (error: Error): void => {
      settle();
      reject(KataError.from(error, error.message));
    };
    const onAbort = (): void => {
      settle();
      socket.destroy();
      reject(abortError(signal, `connect to ${path}`));
    };
    socket.on('connect', onConnect);
    socket.on('error', onError);
    if (signal.aborted) {
      onAbort();
    } else {
      signal.addEventListener('abort', onAbort, { once: true });
    }
  });
}

async function dialVsock(cid: number, port: number, signal: AbortSignal): Promise<Socket> {
  const fd = vsockConnect(cid, port);
  try {
    for (let delayMs = 1; pollOnce(fd, POLL_OUT) === 0; delayMs = Math.min(2 * delayMs, CONNECT_POLL_MAX_MS)) {
      await sleep(delayMs, signal);
    }
    const failure = socketError(fd);
    if (failure < 0) {
      const error = errnoError(failure, `connect vsock ${cid}:${port}`);
      throw KataError.from(error, error.message);
    }
  } catch (reason) {
    closeSync(fd);
    throw reason;
  }
  const socket = streamFromFd(fd);
  socket.on('error', () => undefined);
  return socket;
}

/** Hands what comes to `take` until it gives a result; then the socket is paused. Bytes beyond it are `take`'s to unshift. */
async function receive<T>(socket: Socket, signal: AbortSignal, take: (chunk: Buffer) => T | undefined): Promise<T> {
  return new Promise((resolve, reject) => {
    const settle = (): void => {
      signal.removeEventListener('abort', onAbort);
      socket.off('data', onData);
      socket.off('close', onClose);
      socket.pause();
    };
    const onData = (chunk: Buffer): void => {
      try {
        const result = take(chunk);
        if (result !== undefined) {
          settle();
          resolve(result);
        }
      } catch (reason) {
        settle();
        reject(KataError.from(reason, reason instanceof Error ? reason.message : String(reason)));
      }
    };
    const onClose = (): void => {
      settle();
      reject(new KataError('Unavailable', 'the connection was closed in the handshake'));
    };
    const onAbort = (): void => {
      settle();
      reject(abortError(signal, 'handshake'));
    };
    socket.on('data', onData);
    socket.on('close', onClose);
    if (signal.aborted) {
      onAbort();
    } else if (socket.destroyed) {
      onClose();
    } else {
      signal.addEventListener('abort', onAbort, { once: true });
      socket.resume();
    }
  });
}

/** Hybrid vsock: the VMM connects us to a port of the guest. */
async function connectPort(socket: Socket, port: number, parent: AbortSignal): Promise<void> {
  const late = (): KataError => new KataError('DeadlineExceeded', `no answer to CONNECT ${port} within ${HANDSHAKE_TIMEOUT_MS} ms`);
  const deadline = timeoutSignal(HANDSHAKE_TIMEOUT_MS, late, parent);
  let held = Buffer.alloc(0);
  try {
    socket.write(`CONNECT ${port}\n`);
    const { line, rest } = await receive(socket, deadline.signal, (chunk) => {
      held = Buffer.concat([held, chunk]);
      const end = held.indexOf('\n');
      if (end > MAX_HANDSHAKE_BYTES || (end < 0 && held.length > MAX_HANDSHAKE_BYTES)) {
        throw new KataError('DataLoss', `the answer to CONNECT ${port} is longer than ${MAX_HANDSHAKE_BYTES} bytes`);
      }
      return end < 0 ? undefined : { line: held.toString('latin1', 0, end), rest: held.subarray(end + 1) };
    });
    if (!line.includes('OK')) {
      throw new KataError('Unavailable', `CONNECT ${port} was answered with ${JSON.stringify(line)}`);
    }
    if (rest.length > 0) {
      socket.unshift(rest);
    }
  } finally {
    deadline.dispose();
  }
}

/**
 * Serial port: brings both sides into step (base/serial-preamble.ts). Each try has its own nonce, and only the echo of
 * the newest counts: nothing of the handshake can come after it. The guest speaks next only when it is asked something.
 */
async function synchronize(socket: Socket, signal: AbortSignal): Promise<void> {
  const { randomBytes } = await import('node:crypto');
  const scanner = new PreambleScanner('guest');
  let delayMs = PREAMBLE_FIRST_DELAY_MS;
  let nonce = Buffer.alloc(0);
  let timer: NodeJS.Timeout | undefined;
  const send = (): void => {
    nonce = randomBytes(NONCE_BYTES);
    socket.write(encodePreamble('host', nonce));
    timer = setTimeout(send, delayMs);
    delayMs = Math.min(2 * delayMs, PREAMBLE_MAX_DELAY_MS);
  };
  send();
  try {
    await receive(socket, signal, (chunk) =>
      scanner.push(chunk).some((event) => event.kind === 'preamble' && event.nonce.equals(nonce)) ? true : undefined,
    );
  } finally {
    clearTimeout(timer);
  }
}
