import type { Duplex } from 'node:stream';
import { deadlineError, ServerCall } from './call';
import { Connection, type ConnectionLimits } from './connection';
import { decodeRequest, encodeErrorFrame, encodeResultFrame, type RequestEnvelope } from './envelope';
import { closedError, oversizeError, textOf, toTtrpcError, TtrpcError, type Code } from './errors';
import { Flag, FrameType, type Frame } from './frame';
import { ServerStreamEnd } from './server-stream';
import type { StreamHandler, StreamMethod, UnaryHandler, UnaryMethod } from './service';

/** A method with its handler, ready to be called. */
export type Route =
  | { readonly method: UnaryMethod<unknown, unknown>; readonly handler: UnaryHandler<unknown, unknown> }
  | { readonly method: StreamMethod<unknown, unknown>; readonly handler: StreamHandler<unknown, unknown> };

/** What a connection needs of its server. */
export interface ConnectionHost {
  readonly limits: ConnectionLimits;
  /** Throws Unimplemented. */
  route(service: string, method: string): Route;
  /** What a handler's error looks like on the wire. Undefined: `Unknown` with the error's text. */
  mapError?: ((error: unknown) => { readonly code: Code; readonly message: string } | undefined) | undefined;
  onClose(connection: ServerConnection): void;
}

interface ActiveCall {
  readonly call: ServerCall;
  readonly stream?: ServerStreamEnd;
}

/** One client of a server: its calls in progress, and the rules for what it may send. Never ends for a bad request. */
export class ServerConnection {
  private readonly connection: Connection;
  private readonly active = new Map<number, ActiveCall>();
  private lastStreamId = 0;

  constructor(
    readonly id: number,
    duplex: Duplex,
    private readonly host: ConnectionHost,
  ) {
    this.connection = new Connection(duplex, host.limits, {
      onFrame: (frame) => this.onFrame(frame),
      onClose: (error) => this.onClose(error),
    });
  }

  /** How many calls are not answered yet. */
  get activeCalls(): number {
    return this.active.size;
  }

  /** Aborts the calls in progress, sends what is queued and ends the connection; resolves when it is closed. */
  close(): Promise<void> {
    return this.connection.close();
  }

  private onClose(error: Error | undefined): void {
    const reason = closedError(error);
    for (const { call, stream } of this.active.values()) {
      call.abort(reason);
      stream?.requests.end(reason);
    }
    this.active.clear();
    this.host.onClose(this);
  }

  private onFrame(frame: Frame): void {
    if (frame.type !== FrameType.Request && frame.type !== FrameType.Data) {
      return;
    }
    const { streamId } = frame;
    try {
      if (streamId % 2 === 0) {
        throw new TtrpcError('InvalidArgument', 'StreamID must be odd for client initiated streams');
      }
      if (frame.type === FrameType.Data) {
        this.onData(frame);
      } else {
        this.onRequest(frame);
      }
    } catch (error) {
      this.refuse(streamId, toTtrpcError(error, 'Internal'));
    }
  }

  private onRequest(frame: Frame): void {
    const { streamId } = frame;
    if (streamId <= this.lastStreamId) {
      // The call that has this id goes on: what is refused is the second one.
      const text = `StreamID cannot be re-used and must increment: ${streamId} after ${this.lastStreamId}`;
      this.connection.send(this.errorFrame(streamId, new TtrpcError('InvalidArgument', text)));
      return;
    }
    this.lastStreamId = streamId;
    if (frame.rejectedBytes > 0) {
      throw oversizeError(frame.rejectedBytes, this.host.limits.maxMessageBytes);
    }
    const request = this.decode(frame.payload);
    const route = this.host.route(request.service, request.method);
    if (request.timeoutNano < 0n) {
      throw deadlineError();
    }
    const call = new ServerCall(this.id, streamId, request.metadata, request.timeoutNano, (error) => {
      this.refuse(streamId, error);
    });
    if (route.method.kind === 'unary') {
      this.runUnary(call, route.method, route.handler as UnaryHandler<unknown, unknown>, request.payload);
    } else {
      this.runStream(call, route.method, route.handler as StreamHandler<unknown, unknown>, request, frame.flags);
    }
  }

  private decode(payload: Uint8Array): RequestEnvelope {
    try {
      return decodeRequest(payload);
    } catch (error) {
      throw new TtrpcError('InvalidArgument', `unmarshal request error: ${textOf(error)}`, { cause: error });
    }
  }

  private onData(frame: Frame): void {
    const { streamId } = frame;
    const stream = this.active.get(streamId)?.stream;
    if (stream === undefined) {
      if (this.active.has(streamId) || streamId > this.lastStreamId) {
        throw new TtrpcError('InvalidArgument', `data on a stream that is not open: ${streamId}`);
      }
      // Late data of a stream that was answered meanwhile: the client could not know.
      return;
    }
    if (frame.rejectedBytes > 0) {
      throw oversizeError(frame.rejectedBytes, this.host.limits.maxMessageBytes);
    }
    if (stream.requests.isEnded) {
      throw new TtrpcError('InvalidArgument', `data after the end of stream ${streamId}`);
    }
    if ((frame.flags & Flag.NoData) === 0) {
      stream.requests.push(frame.payload);
    }
    if ((frame.flags & Flag.RemoteClosed) !== 0) {
      stream.requests.end();
    }
  }

  private runUnary(
    call: ServerCall,
    method: UnaryMethod<unknown, unknown>,
    handler: UnaryHandler<unknown, unknown>,
    payload: Uint8Array,
  ): void {
    this.active.set(call.streamId, { call });
    let request: unknown;
    try {
      request = method.request.decode(payload);
    } catch (error) {
      call.settle();
      throw new TtrpcError('InvalidArgument', `unmarshal payload error: ${textOf(error)}`, { cause: error });
    }
    let result: unknown;
    try {
      result = handler(request, call);
    } catch (error) {
      this.fail(call, error);
      return;
    }
    Promise.resolve(result).then(
      (response) => this.succeed(call, method, response),
      (error: unknown) => this.fail(call, error),
    );
  }

  private succeed(call: ServerCall, method: UnaryMethod<unknown, unknown>, response: unknown): void {
    if (!this.retire(call)) {
      return;
    }
    let payload: Uint8Array;
    try {
      payload = method.response.encode(response);
    } catch (error) {
      const wrapped = new TtrpcError('Internal', `marshal response error: ${textOf(error)}`, { cause: error });
      this.connection.send(this.errorFrame(call.streamId, wrapped));
      return;
    }
    this.connection.send(encodeResultFrame(call.streamId, payload, this.host.limits.maxMessageBytes));
  }

  private runStream(
    call: ServerCall,
    method: StreamMethod<unknown, unknown>,
    handler: StreamHandler<unknown, unknown>,
    request: RequestEnvelope,
    flags: number,
  ): void {
    const { streamId } = call;
    const { connection } = this;
    const stream = new ServerStreamEnd(method, {
      streamId,
      connection,
      maxMessageBytes: this.host.limits.maxMessageBytes,
      isActive: () => this.active.get(streamId)?.call === call,
      hold: () => connection.hold(),
      release: () => connection.release(),
      onOverflow: (error) => this.refuse(streamId, error),
    });
    this.active.set(streamId, { call, stream });
    // A streaming client may send nothing with the request; an empty message and none look the same there.
    if (!method.clientStreams || request.payload.length > 0) {
      stream.requests.push(request.payload);
    }
    if (!method.clientStreams || (flags & Flag.RemoteOpen) === 0) {
      stream.requests.end();
    }
    let done: Promise<void>;
    try {
      done = Promise.resolve(handler(stream, call));
    } catch (error) {
      this.fail(call, error);
      return;
    }
    done.then(
      () => this.endStream(call, method, stream),
      (error: unknown) => this.fail(call, error),
    );
  }

  private endStream(call: ServerCall, method: StreamMethod<unknown, unknown>, stream: ServerStreamEnd): void {
    if (!method.serverStreams && stream.single === undefined) {
      this.fail(call, new TtrpcError('Internal', 'handler ended without a response'));
      return;
    }
    // Behind what the handler sent without waiting for it.
    this.connection.whenWritable(() => {
      if (!this.retire(call)) {
        return;
      }
      stream.requests.end();
      const { maxMessageBytes } = this.host.limits;
      const frame =
        stream.single === undefined
          ? stream.endFrame()
          : encodeResultFrame(call.streamId, stream.single, maxMessageBytes);
      this.connection.send(frame);
    });
  }

  private fail(call: ServerCall, error: unknown): void {
    if (this.active.get(call.streamId)?.call === call) {
      this.refuse(call.streamId, this.toStatus(error));
    }
  }

  private toStatus(error: unknown): TtrpcError {
    if (error instanceof TtrpcError) {
      return error;
    }
    try {
      const mapped = this.host.mapError?.(error);
      return mapped === undefined ? toTtrpcError(error) : new TtrpcError(mapped.code, mapped.message, { cause: error });
    } catch (mapping) {
      return new TtrpcError('Internal', `${textOf(error)} (and mapping this error failed: ${textOf(mapping)})`);
    }
  }

  /** Answers a stream with an error and aborts the call that runs on it, if any. */
  private refuse(streamId: number, error: TtrpcError): void {
    const entry = this.active.get(streamId);
    this.active.delete(streamId);
    this.connection.send(this.errorFrame(streamId, error));
    entry?.stream?.requests.end(error);
    entry?.call.abort(error);
  }

  private errorFrame(streamId: number, error: TtrpcError): Buffer {
    return encodeErrorFrame(streamId, error, this.host.limits.maxMessageBytes);
  }

  /** Takes a call off the books; false when it was answered already. */
  private retire(call: ServerCall): boolean {
    if (this.active.get(call.streamId)?.call !== call) {
      return false;
    }
    this.active.delete(call.streamId);
    call.settle();
    return true;
  }
}
