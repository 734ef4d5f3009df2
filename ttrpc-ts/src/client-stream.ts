import type { Connection } from './connection';
import { decodeResponse } from './envelope';
import { oversizeError, textOf, toTtrpcError, TtrpcError } from './errors';
import { encodeFrame, Flag, FrameType, type Frame } from './frame';
import { ReceiveQueue } from './receive-queue';
import type { StreamMethod } from './service';

const EMPTY = new Uint8Array(0);

/** Where frames for one stream id go, and what happens to it when the connection ends. */
export interface FrameSink {
  onFrame(frame: Frame): void;
  onClose(error: TtrpcError): void;
}

/** What a stream needs of its client. */
export interface ClientSeat {
  readonly connection: Connection;
  readonly maxMessageBytes: number;
  /** Forgets the stream id: whatever still comes for it is dropped. */
  forget(streamId: number): void;
}

/** A stream as its client sees it: sends requests, receives responses. */
export interface ClientStream<Req, Res> extends AsyncIterable<Res> {
  /** The next response; `undefined` after the last one. Rejects with the status that the server ended the stream with. */
  receive(): Promise<Res | undefined>;
  /** Sends a request; resolves when there is room for more, rejects once the stream is over or this half is closed. */
  send(request: Req): Promise<void>;
  /** Closes our half: no more requests. Responses go on. */
  closeSend(): Promise<void>;
  /**
   * Forgets the stream; what `receive` waits for rejects with the reason, or Canceled. The protocol has no
   * cancellation: the server learns of it only by our half being closed, where that is open.
   */
  cancel(reason?: TtrpcError): void;
}

/** The client's end of a stream: a receive window, and data frames going out. */
export class ClientStreamEnd<Req, Res> implements ClientStream<Req, Res>, FrameSink {
  private readonly responses: ReceiveQueue;
  private streamId = 0;
  private isSendClosed: boolean;
  private isDone = false;
  private onDone: (() => void) | undefined;
  private failure: TtrpcError | undefined;

  constructor(
    private readonly method: StreamMethod<Req, Res>,
    private readonly seat: ClientSeat,
  ) {
    this.isSendClosed = !method.clientStreams;
    this.responses = new ReceiveQueue({
      hold: () => seat.connection.hold(),
      release: () => seat.connection.release(),
      onOverflow: (error) => this.finish(error),
    });
  }

  async receive(): Promise<Res | undefined> {
    const bytes = await this.responses.take();
    if (bytes === undefined) {
      return undefined;
    }
    try {
      return this.method.response.decode(bytes);
    } catch (error) {
      throw new TtrpcError('Internal', `unmarshal message error: ${textOf(error)}`, { cause: error });
    }
  }

  /** All responses; leaving the loop early cancels the stream. */
  async *[Symbol.asyncIterator](): AsyncGenerator<Res, void, undefined> {
    try {
      for (let item = await this.receive(); item !== undefined; item = await this.receive()) {
        yield item;
      }
    } finally {
      this.cancel();
    }
  }

  send(request: Req): Promise<void> {
    return this.write(() => {
      const payload = this.method.request.encode(request);
      if (payload.length > this.seat.maxMessageBytes) {
        throw oversizeError(payload.length, this.seat.maxMessageBytes);
      }
      return encodeFrame(this.streamId, FrameType.Data, 0, payload);
    });
  }

  closeSend(): Promise<void> {
    const sent = this.write(() => encodeFrame(this.streamId, FrameType.Data, Flag.RemoteClosed | Flag.NoData, EMPTY));
    this.isSendClosed = true;
    return sent;
  }

  cancel(reason?: TtrpcError): void {
    if (this.isDone) {
      return;
    }
    if (!this.isSendClosed && this.streamId !== 0) {
      this.seat.connection.send(
        encodeFrame(this.streamId, FrameType.Data, Flag.RemoteClosed | Flag.NoData, EMPTY),
      );
    }
    this.finish(reason ?? new TtrpcError('Canceled', 'stream was canceled'));
  }

  /** Tells the stream its id (0: not sent yet); `onDone` runs once, when the stream is over. */
  open(streamId: number, onDone: () => void): void {
    this.streamId = streamId;
    this.onDone = onDone;
  }

  onFrame(frame: Frame): void {
    if (frame.rejectedBytes > 0) {
      this.finish(oversizeError(frame.rejectedBytes, this.seat.maxMessageBytes));
    } else if (frame.type === FrameType.Response) {
      this.onResponse(frame.payload);
    } else if (frame.type === FrameType.Data) {
      this.onData(frame);
    }
  }

  onClose(error: TtrpcError): void {
    this.finish(error);
  }

  private onResponse(bytes: Uint8Array): void {
    try {
      const response = decodeResponse(bytes);
      if (response.error !== undefined) {
        this.finish(response.error);
        return;
      }
      if (!this.method.serverStreams || response.payload.length > 0) {
        this.responses.push(response.payload);
      }
      this.finish(undefined);
    } catch (error) {
      this.finish(new TtrpcError('Internal', `unmarshal response error: ${textOf(error)}`, { cause: error }));
    }
  }

  private onData(frame: Frame): void {
    if (!this.method.serverStreams) {
      this.finish(new TtrpcError('Internal', 'protocol error: data from a server that does not stream'));
      return;
    }
    if ((frame.flags & Flag.NoData) === 0) {
      this.responses.push(frame.payload);
    }
    if ((frame.flags & Flag.RemoteClosed) !== 0) {
      this.finish(undefined);
    }
  }

  private write(encode: () => Buffer): Promise<void> {
    const { connection } = this.seat;
    const sent = new Promise<void>((resolve, reject) => {
      if (this.isSendClosed && !this.isDone) {
        throw new TtrpcError('FailedPrecondition', 'ttrpc: stream closed for sending');
      }
      connection.whenWritable(() => {
        if (this.isDone || connection.isClosed) {
          reject(this.failure ?? new TtrpcError('FailedPrecondition', 'ttrpc: stream closed'));
          return;
        }
        try {
          connection.send(encode());
          connection.whenWritable(resolve);
        } catch (error) {
          reject(toTtrpcError(error, 'InvalidArgument'));
        }
      });
    });
    // Nobody has to wait for a send: what went wrong is also what `receive` says.
    sent.catch(() => undefined);
    return sent;
  }

  private finish(error: TtrpcError | undefined): void {
    if (this.isDone) {
      return;
    }
    this.isDone = true;
    this.isSendClosed = true;
    this.failure = error;
    this.seat.forget(this.streamId);
    this.onDone?.();
    this.responses.end(error);
  }
}
