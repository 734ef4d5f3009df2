import { TtrpcError } from './errors';
import { Metadata } from './metadata';
import { startTimer } from './timer';

/** What a handler knows about its call beside the request. */
export interface CallContext {
  readonly metadata: Metadata;
  /** Fires when the answer is of no use any more: deadline passed, connection gone, server closed. */
  readonly signal: AbortSignal;
  /** When the caller stops waiting (milliseconds since the epoch); absent when it waits for ever. */
  readonly deadlineMs?: number;
  /** Number of the connection within its server. */
  readonly connectionId: number;
}

/** A stream as its server sees it. */
export interface ServerStream<Req, Res> extends AsyncIterable<Req> {
  /** The next request; `undefined` once the client has closed its half. */
  receive(): Promise<Req | undefined>;
  /**
   * Sends a response; resolves when there is room for more. A method that does not stream responses sends exactly one.
   */
  send(response: Res): Promise<void>;
}

/** What answers with nothing in return, for the deadline of a call. */
type OnDeadline = (error: TtrpcError) => void;

/** One call in progress at a server. Costs no timer without a deadline and no signal unless somebody looks at it. */
export class ServerCall implements CallContext {
  readonly metadata: Metadata;
  readonly deadlineMs?: number;
  private controller: AbortController | undefined;
  private abortReason: TtrpcError | undefined;
  private stopTimer: (() => void) | undefined;

  constructor(
    readonly connectionId: number,
    readonly streamId: number,
    metadata: Metadata | undefined,
    timeoutNano: bigint,
    onDeadline: OnDeadline,
  ) {
    this.metadata = metadata ?? new Metadata();
    if (timeoutNano > 0n) {
      const timeoutMs = Number(timeoutNano) / 1e6;
      this.deadlineMs = Date.now() + timeoutMs;
      this.stopTimer = startTimer(timeoutMs, () => onDeadline(deadlineError()));
    }
  }

  get signal(): AbortSignal {
    if (this.controller === undefined) {
      this.controller = new AbortController();
      if (this.abortReason !== undefined) {
        this.controller.abort(this.abortReason);
      }
    }
    return this.controller.signal;
  }

  /** Tells the handler to stop. */
  abort(reason: TtrpcError): void {
    this.settle();
    if (this.abortReason === undefined) {
      this.abortReason = reason;
      this.controller?.abort(reason);
    }
  }

  /** Frees the timer: the call is answered. */
  settle(): void {
    this.stopTimer?.();
    this.stopTimer = undefined;
  }
}

/** The error for a call whose time is up. */
export function deadlineError(): TtrpcError {
  return new TtrpcError('DeadlineExceeded', 'context deadline exceeded');
}
