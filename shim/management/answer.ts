/** What endpoints answer, and how errors become HTTP. */
import type { IncomingMessage } from 'node:http';
import { describeError, KataError, type ErrorCode } from '../../base/errors';
import type { Logger } from '../../base/log';
import type { Sandbox } from '../../virtcontainers/sandbox/types';
import type { ShimFigures } from './figures';

export interface ManagementOptions {
  readonly sandbox: Sandbox;
  /** The sandbox's bundle: `monitor_address` is written there. */
  readonly bundle: string;
  readonly figures: ShimFigures;
  readonly logger: Logger;
  /** Where sandboxes keep their state. */
  readonly stateRoot?: string;
  /** Where direct-assigned volumes are noted. */
  readonly directVolumes?: string;
}

export interface Answer {
  readonly status: number;
  readonly body: string | Uint8Array;
  readonly type?: string;
  readonly headers?: Readonly<Record<string, string>>;
}

export interface Asked {
  readonly options: ManagementOptions;
  readonly query: URLSearchParams;
  /** Empty for GET. */
  readonly body: Buffer;
}

export type Endpoint = (asked: Asked) => Promise<Answer> | Answer;

/** Handlers by method; anything else is answered with `otherwise` (upstream: 501 where it tells methods apart). */
export interface Route {
  readonly methods: Readonly<Record<string, Endpoint>>;
  readonly otherwise: number;
}

const STATUS_OF: Readonly<Partial<Record<ErrorCode, number>>> = {
  InvalidArgument: 400,
  NotFound: 404,
  AlreadyExists: 409,
  FailedPrecondition: 409,
  OutOfRange: 400,
  ResourceExhausted: 413,
  Unimplemented: 501,
  Unavailable: 503,
  DeadlineExceeded: 504,
  Canceled: 503,
};

/** 4xx for what the caller did wrong, 503 for a guest that is gone, 504 for one that does not answer. */
export function errorAnswer(reason: unknown): Answer {
  const code = reason instanceof KataError ? reason.code : 'Unknown';
  return { status: STATUS_OF[code] ?? 500, body: `${describeError(reason)}\n` };
}

/** Unavailable once the guest is known to be gone: then nothing is asked of its agent. */
export function requireGuest(sandbox: Sandbox): void {
  if (sandbox.state === 'stopped' || sandbox.state === 'stopping' || sandbox.state === 'invalid') {
    throw new KataError('Unavailable', `sandbox "${sandbox.id}" is ${sandbox.state}: its guest is gone`);
  }
}

export const MAX_BODY_BYTES = 4 * 1024 * 1024;

/** The body, at most 4 MiB: ResourceExhausted beyond, as soon as that is known. `goAhead` is called if it may come. */
export async function readBody(request: IncomingMessage, goAhead: () => void): Promise<Buffer> {
  const tooLarge = (): KataError => new KataError('ResourceExhausted', `the body is larger than ${String(MAX_BODY_BYTES)} bytes`);
  if (Number(request.headers['content-length'] ?? 0) > MAX_BODY_BYTES) {
    throw tooLarge();
  }
  goAhead();
  return new Promise((resolve, reject) => {
    const parts: Buffer[] = [];
    let length = 0;
    request.on('data', (chunk: Buffer) => {
      length += chunk.length;
      if (length > MAX_BODY_BYTES) {
        request.pause();
        request.removeAllListeners('data');
        reject(tooLarge());
      } else {
        parts.push(chunk);
      }
    });
    request.on('end', () => resolve(Buffer.concat(parts)));
    request.on('error', (reason) => reject(KataError.from(reason, 'read the body')));
    request.on('close', () => reject(new KataError('Canceled', 'read the body: the client has gone')));
  });
}
