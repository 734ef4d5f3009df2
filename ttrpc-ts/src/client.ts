import type { Duplex } from 'node:stream';
import { ClientStreamEnd, type ClientSeat, type ClientStream, type FrameSink } from './client-stream';
import { Connection, DEFAULT_MAX_QUEUED_BYTES } from './connection';
import { decodeResponse, encodeRequestFrame, setStreamId } from './envelope';
import { closedError, oversizeError, textOf, toTtrpcError, TtrpcError } from './errors';
import { Flag, FrameType, MAX_MESSAGE_BYTES, type Frame } from './frame';
import { Metadata, type MetadataInit } from './metadata';
import type { Codec, StreamMethod, UnaryMethod } from './service';
import { startTimer } from './timer';

/** The last odd number that fits into a stream id. */
const MAX_STREAM_ID = 0xffff_ffff;
const EMPTY = new Uint8Array(0);

/** Options of a client; all may be left out. */
export interface ClientOptions {
  /** Limit of a message in either direction; the protocol's 4 MiB. */
  readonly maxMessageBytes?: number;
  /** Unsent bytes from which on calls and streams wait before they send more; 4 MiB. */
  readonly maxQueuedBytes?: number;
  /** Called once when the connection is over, with the reason unless it ended in order. */
  readonly onClose?: (error: Error | undefined) => void;
}

/** Options of one call. */
export interface CallOptions {
  /** How long to wait for the answer; also told to the server. None: for ever. */
  readonly timeoutMs?: number;
  readonly metadata?: MetadataInit;
  /** Gives up waiting when it fires; the server is not told (the protocol has no way to). */
  readonly signal?: AbortSignal;
}

/** The codecs of a unary call; a `UnaryMethod` is one. */
export interface Codecs<Req, Res> {
  readonly request: Codec<Req>;
  readonly response: Codec<Res>;
}

/** Calls ttrpc services over one connection. */
export class TtrpcClient {
  /** Resolves when the connection is over, with the reason unless it ended in order. Never rejects. */
  readonly closed: Promise<Error | undefined>;
  private readonly connection: Connection;
  private readonly sinks = new Map<number, FrameSink>();
  private readonly waiting = new Set<FrameSink>();
  private readonly maxMessageBytes: number;
  private nextStreamId = 1;
  private closeReason: Error | undefined;

  /** Owns the duplex from here on. */
  constructor(duplex: Duplex, options: ClientOptions = {}) {
    this.maxMessageBytes = options.maxMessageBytes ?? MAX_MESSAGE_BYTES;
    const limits = {
      maxMessageBytes: this.maxMessageBytes,
      maxQueuedBytes: options.maxQueuedBytes ?? DEFAULT_MAX_QUEUED_BYTES,
      stopsReadingWhenFull: false,
    };
    let resolveClosed: (error: Error | undefined) => void;
    this.closed = new Promise((resolve) => {
      resolveClosed = resolve;
    });
    this.connection = new Connection(duplex, limits, {
      onFrame: (frame) => this.sinks.get(frame.streamId)?.onFrame(frame),
      onClose: (error) => {
        this.failAll(error);
        resolveClosed(error);
        options.onClose?.(error);
      },
    });
  }

  /** How many calls and streams are not over yet. */
  get activeCalls(): number {
    return this.sinks.size + this.waiting.size;
  }

  /** Calls a method. Rejects with `TtrpcError` only. */
  call<Req, Res>(
    service: string,
    method: string,
    codecs: Codecs<Req, Res> | UnaryMethod<Req, Res>,
    request: Req,
    options: CallOptions = {},
  ): Promise<Res> {
    return new Promise((resolve, reject) => {
      const frame = this.encode(service, method, () => codecs.request.encode(request), 0, options);
      const call = new UnaryCall(codecs.response, this.maxMessageBytes, resolve, reject);
      const endWatch = watch(options, (error) => {
        this.waiting.delete(call);
        this.sinks.delete(call.streamId);
        call.fail(error);
      });
      call.onSettled = endWatch;
      this.start(frame, call, (streamId) => {
        call.streamId = streamId;
        call.forget = () => this.sinks.delete(streamId);
      });
    });
  }

  /**
   * Opens a stream. `request` is what a method without client streaming is called with; a streaming client gives
   * undefined and sends. Throws `TtrpcError` if the request cannot be sent.
   */
  stream<Req, Res>(
    service: string,
    method: string,
    codecs: StreamMethod<Req, Res>,
    request: Req | undefined,
    options: CallOptions = {},
  ): ClientStream<Req, Res> {
    const flags = codecs.clientStreams ? Flag.RemoteOpen : Flag.RemoteClosed;
    const encode = (): Uint8Array => (request === undefined ? EMPTY : codecs.request.encode(request));
    const frame = this.encode(service, method, encode, flags, options);
    const seat: ClientSeat = {
      connection: this.connection,
      maxMessageBytes: this.maxMessageBytes,
      forget: (streamId) => {
        this.waiting.delete(stream);
        this.sinks.delete(streamId);
      },
    };
    const stream = new ClientStreamEnd(codecs, seat);
    const endWatch = watch(options, (error) => {
      if (error.code === 'DeadlineExceeded') {
        // The server has the same deadline. Telling it would race with its own end of the stream, and data for an
        // ended stream makes Go's ttrpc 1.2.7 panic.
        stream.onClose(error);
      } else {
        stream.cancel(error);
      }
    });
    stream.open(0, endWatch);
    this.start(frame, stream, (streamId) => stream.open(streamId, endWatch));
    return stream;
  }

  /** Ends the connection; what is pending fails with Unavailable. */
  close(): void {
    void this.connection.close();
  }

  private encode(
    service: string,
    method: string,
    encodePayload: () => Uint8Array,
    flags: number,
    options: CallOptions,
  ): Buffer {
    const { timeoutMs, metadata, signal } = options;
    if (this.connection.isClosed) {
      throw closedError(this.closeReason);
    }
    if (signal?.aborted === true) {
      throw abortError(signal);
    }
    if (timeoutMs !== undefined && !(timeoutMs > 0)) {
      throw deadlineError(timeoutMs);
    }
    let payload: Uint8Array;
    try {
      payload = encodePayload();
    } catch (error) {
      throw new TtrpcError('InvalidArgument', `marshal request error: ${textOf(error)}`, { cause: error });
    }
    const timeoutNano = timeoutMs === undefined ? 0n : toNano(timeoutMs);
    const sent = metadata === undefined ? undefined : Metadata.from(metadata);
    return encodeRequestFrame({ service, method, payload, timeoutNano, metadata: sent }, flags, this.maxMessageBytes);
  }

  /** Sends a request frame once there is room; ids are given out in the order of sending. */
  private start(frame: Buffer, sink: FrameSink, onStarted: (streamId: number) => void): void {
    this.waiting.add(sink);
    this.connection.whenWritable(() => {
      if (!this.waiting.has(sink) || this.connection.isClosed) {
        return;
      }
      this.waiting.delete(sink);
      if (this.nextStreamId > MAX_STREAM_ID) {
        sink.onClose(new TtrpcError('Unavailable', 'stream ids of this connection are used up'));
        return;
      }
      const streamId = this.nextStreamId;
      this.nextStreamId += 2;
      setStreamId(frame, streamId);
      this.sinks.set(streamId, sink);
      onStarted(streamId);
      this.connection.send(frame);
    });
  }

  private failAll(error: Error | undefined): void {
    this.closeReason = error;
    const sinks = [...this.sinks.values(), ...this.waiting];
    this.sinks.clear();
    this.waiting.clear();
    for (const sink of sinks) {
      sink.onClose(closedError(error));
    }
  }
}

/** A unary call that waits for its answer. */
class UnaryCall<Res> implements FrameSink {
  streamId = 0;
  onSettled: (() => void) | undefined;
  forget: (() => void) | undefined;

  constructor(
    private readonly codec: Codec<Res>,
    private readonly maxMessageBytes: number,
    private readonly resolve: (response: Res) => void,
    private readonly reject: (error: TtrpcError) => void,
  ) {}

  onFrame(frame: Frame): void {
    this.forget?.();
    this.onSettled?.();
    try {
      this.resolve(this.read(frame));
    } catch (error) {
      this.reject(toTtrpcError(error, 'Internal'));
    }
  }

  onClose(error: TtrpcError): void {
    this.fail(error);
  }

  fail(error: TtrpcError): void {
    this.onSettled?.();
    this.reject(error);
  }

  private read(frame: Frame): Res {
    if (frame.rejectedBytes > 0) {
      throw oversizeError(frame.rejectedBytes, this.maxMessageBytes);
    }
    if (frame.type !== FrameType.Response) {
      throw new TtrpcError('Internal', `protocol error: frame of type ${frame.type} answers a unary call`);
    }
    let response;
    try {
      response = decodeResponse(frame.payload);
      if (response.error === undefined) {
        return this.codec.decode(response.payload);
      }
    } catch (error) {
      throw new TtrpcError('Internal', `unmarshal response error: ${textOf(error)}`, { cause: error });
    }
    throw response.error;
  }
}

/** Calls `giveUp` when the time is up or the signal fires; returns what ends both. */
function watch(options: CallOptions, giveUp: (error: TtrpcError) => void): () => void {
  const { timeoutMs, signal } = options;
  const stopTimer = timeoutMs === undefined ? undefined : startTimer(timeoutMs, () => giveUp(deadlineError(timeoutMs)));
  if (signal === undefined) {
    return () => stopTimer?.();
  }
  const onAbort = (): void => giveUp(abortError(signal));
  signal.addEventListener('abort', onAbort, { once: true });
  return () => {
    stopTimer?.();
    signal.removeEventListener('abort', onAbort);
  };
}

/** Milliseconds as nanoseconds of an int64; at least one, so that it never reads as "no timeout". */
function toNano(timeoutMs: number): bigint {
  const nano = Math.max(1, Math.round(timeoutMs * 1e6));
  return Number.isFinite(nano) ? BigInt.asIntN(64, clampInt64(BigInt(nano))) : MAX_INT64;
}

const MAX_INT64 = (1n << 63n) - 1n;

function clampInt64(value: bigint): bigint {
  return value > MAX_INT64 ? MAX_INT64 : value;
}

function deadlineError(timeoutMs: number): TtrpcError {
  return new TtrpcError('DeadlineExceeded', `no answer within ${timeoutMs} ms: context deadline exceeded`);
}

function abortError(signal: AbortSignal): TtrpcError {
  const reason: unknown = signal.reason;
  return reason instanceof TtrpcError ? reason : new TtrpcError('Canceled', 'context canceled', { cause: reason });
}
