import type { Socket } from 'node:net';
import { abortError, sleep, timeoutSignal } from '../base/deadline';
import { describeError, errnoOf, KataError } from '../base/errors';
import { agentClientOver } from './agent-client';
import { AgentChannel } from './channel';
import { dialOnce } from './dial';
import { parseAgentUrl, type AgentEndpoint } from './endpoint';
import type { AgentClient, ConnectOptions } from './types';

/** Pause between attempts, in milliseconds. */
const FIRST_DELAY_MS = 1;
const MAX_DELAY_MS = 50;

/** Errors of the system that no waiting mends. */
const PERMANENT: ReadonlySet<string> = new Set(['EACCES', 'EPERM', 'EAFNOSUPPORT', 'ENAMETOOLONG', 'ENOTSOCK', 'EMFILE']);

/**
 * Connects to the agent at `url` (see endpoint.ts), trying until it answers, the time is up (DeadlineExceeded), the
 * signal fires (its reason), or waiting cannot help. Says nothing about the agent's health: call `check`. The caller
 * owns the client and ends it with `close` or `markDead`.
 */
export async function connectAgent(url: string, options: ConnectOptions): Promise<AgentClient> {
  const socket = await dialAgent(parseAgentUrl(url), url, options);
  const channel = new AgentChannel(socket, url, options);
  socket.resume();
  return agentClientOver(channel);
}

/** The connected, paused socket to the agent, handshake done; the caller owns it. */
export async function dialAgent(endpoint: AgentEndpoint, url: string, options: ConnectOptions): Promise<Socket> {
  const what = `connect to the agent of sandbox "${options.sandboxId}" at ${url}`;
  let last: unknown;
  const late = (): KataError => {
    const why = last === undefined ? '' : `; last: ${describeError(last)}`;
    const text = `${what}: no connection within ${options.timeoutMs} ms (dial_timeout)${why}`;
    return new KataError('DeadlineExceeded', text, { cause: last, ...hintFor(last) });
  };
  const deadline = timeoutSignal(options.timeoutMs, late, options.signal);
  const { signal } = deadline;
  try {
    for (let delayMs = FIRST_DELAY_MS; ; delayMs = Math.min(2 * delayMs, MAX_DELAY_MS)) {
      try {
        return await dialOnce(endpoint, signal);
      } catch (reason) {
        if (signal.aborted) {
          throw abortError(signal, what);
        }
        if (PERMANENT.has(errnoOf(reason) ?? '')) {
          throw KataError.from(reason, `${what}: ${describeError(reason)}`, hintFor(reason));
        }
        last = reason;
      }
      await sleep(delayMs, signal);
    }
  } finally {
    deadline.dispose();
  }
}

function hintFor(reason: unknown): { readonly hint?: string } {
  switch (errnoOf(reason)) {
    case 'ENODEV':
    case 'EAFNOSUPPORT':
      return { hint: 'is vhost_vsock loaded and /dev/vhost-vsock there?' };
    default:
      return {};
  }
}
