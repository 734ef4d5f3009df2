import type { Duplex } from 'node:stream';
import { codecFromTsProto, TtrpcClient, TtrpcError, type TsProtoMessage } from 'ttrpc-ts';
import { KataError } from '../base/errors';
import type { ConnectOptions } from './types';
import { wireCodeOf, wireTextOf } from './wire-error';

/** Time-out of a call to the agent unless said otherwise, in milliseconds. */
export const DEFAULT_TIMEOUT_MS = 60_000;

/** What is used of a method of a generated service definition. */
export interface WireMethod<Req, Res> {
  readonly name: string;
  readonly requestType: TsProtoMessage<Req>;
  readonly responseType: TsProtoMessage<Res>;
}

/** How to call. */
export interface CallLimits {
  /** `'none'`: until the answer, the signal or the end of the connection. Default: 60 s, or the client's own default. */
  readonly timeoutMs?: number | 'none';
  readonly signal?: AbortSignal | undefined;
  /** Configuration key that sets the time-out, named in the error. */
  readonly timeoutKey?: string;
}

/** Request names that are not the method's plus `Request`. Upstream's metrics are labelled with request names. */
const REQUEST_NAMES: Readonly<Record<string, string>> = {
  Version: 'CheckRequest',
  WriteStdin: 'WriteStreamRequest',
  ReadStdout: 'ReadStreamRequest',
  ReadStderr: 'ReadStreamRequest',
  GetGuestDetails: 'GuestDetailsRequest',
  GetVolumeStats: 'VolumeStatsRequest',
};

/**
 * One agent's connection: errors, time-outs, latency and death in one place. Calls are multiplexed. Once the connection
 * has ended every pending and later call fails at once with the same reason.
 */
export class AgentChannel {
  /** Resolves with the reason when the connection has ended. Never rejects. */
  readonly closed: Promise<KataError>;
  private ended: KataError | undefined;
  private readonly client: TtrpcClient;
  private readonly resolveClosed: (reason: KataError) => void;

  /** Owns the connected duplex from here on. `url` names it in errors. */
  constructor(
    duplex: Duplex,
    readonly url: string,
    private readonly options: Pick<ConnectOptions, 'sandboxId' | 'onCall' | 'defaultTimeoutMs'>,
  ) {
    let resolveClosed: (reason: KataError) => void = () => undefined;
    this.closed = new Promise((resolve) => {
      resolveClosed = resolve;
    });
    this.resolveClosed = resolveClosed;
    this.client = new TtrpcClient(duplex, { onClose: (cause) => this.end(this.connectionLost(cause)) });
  }

  /** Calls a method of the service with this full name. Rejects with KataError only. */
  async call<Req, Res>(service: string, method: WireMethod<Req, Res>, request: Req, limits: CallLimits = {}): Promise<Res> {
    if (this.ended !== undefined) {
      throw this.ended;
    }
    const wanted = limits.timeoutMs ?? this.options.defaultTimeoutMs ?? DEFAULT_TIMEOUT_MS;
    const startedMs = performance.now();
    let ok = false;
    const codecs = { request: codecFromTsProto(method.requestType), response: codecFromTsProto(method.responseType) };
    try {
      const response = await this.client.call(service, method.name, codecs, request, {
        ...(wanted === 'none' ? {} : { timeoutMs: wanted }),
        ...(limits.signal === undefined ? {} : { signal: limits.signal }),
      });
      ok = true;
      return response;
    } catch (reason) {
      throw this.explain(reason, method.name, wanted, limits);
    } finally {
      this.options.onCall?.(REQUEST_NAMES[method.name] ?? `${method.name}Request`, performance.now() - startedMs, ok);
    }
  }

  /** Declares the agent dead: pending and later calls fail with Unavailable and the reason. The first end counts. */
  markDead(reason: KataError): void {
    const text = `agent of sandbox "${this.options.sandboxId}" is dead: ${reason.message}`;
    this.end(new KataError('Unavailable', text, { cause: reason }));
    this.client.close();
  }

  /** Ends the connection in order. */
  close(): void {
    this.end(new KataError('Unavailable', `agent of sandbox "${this.options.sandboxId}": the connection was closed by us`));
    this.client.close();
  }

  private end(reason: KataError): void {
    if (this.ended === undefined) {
      this.ended = reason;
      this.resolveClosed(reason);
    }
  }

  private connectionLost(cause: Error | undefined): KataError {
    const why = cause === undefined ? '' : `: ${cause.message}`;
    const text = `agent of sandbox "${this.options.sandboxId}": connection to ${this.url} ended${why}`;
    return new KataError('Unavailable', text, { cause });
  }

  private explain(reason: unknown, method: string, timeoutMs: number | 'none', limits: CallLimits): KataError {
    const code = wireCodeOf(reason);
    if (this.ended !== undefined && code === 'Unavailable') {
      return this.ended;
    }
    const asked = `agent call ${method} of sandbox "${this.options.sandboxId}"`;
    const aborted: unknown = limits.signal?.aborted === true ? limits.signal.reason : undefined;
    if (aborted instanceof KataError) {
      return new KataError(aborted.code, `${asked}: ${aborted.message}`, { cause: aborted });
    }
    if (code === 'DeadlineExceeded' && reason instanceof TtrpcError && timeoutMs !== 'none') {
      const key = limits.timeoutKey === undefined ? '' : ` (${limits.timeoutKey})`;
      return new KataError(code, `${asked}: no answer within ${timeoutMs} ms${key}`, { cause: reason });
    }
    return new KataError(code, `${asked}: ${wireTextOf(reason)}`, { cause: reason });
  }
}
