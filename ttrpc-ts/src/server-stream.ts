import type { ServerStream } from './call';
import type { Connection } from './connection';
import { closedError, oversizeError, textOf, TtrpcError } from './errors';
import { ReceiveQueue, type ReceiveQueueOwner } from './receive-queue';
import type { StreamMethod } from './service';
import { encodeFrame, Flag, FrameType } from './frame';

/** What a stream needs to know of the call that it belongs to. */
export interface StreamSeat extends ReceiveQueueOwner {
  readonly streamId: number;
  readonly connection: Connection;
  readonly maxMessageBytes: number;
  /** Whether the call is still to be answered. */
  isActive(): boolean;
}

/** The server's end of a stream: a receive window, and data frames going out. */
export class ServerStreamEnd implements ServerStream<unknown, unknown> {
  readonly requests: ReceiveQueue;
  /** The one response of a method that does not stream responses. */
  single: Uint8Array | undefined;

  constructor(
    private readonly method: StreamMethod<unknown, unknown>,
    private readonly seat: StreamSeat,
  ) {
    this.requests = new ReceiveQueue(seat);
  }

  async receive(): Promise<unknown> {
    const bytes = await this.requests.take();
    if (bytes === undefined) {
      return undefined;
    }
    try {
      return this.method.request.decode(bytes);
    } catch (error) {
      throw new TtrpcError('InvalidArgument', `unmarshal message error: ${textOf(error)}`, { cause: error });
    }
  }

  async *[Symbol.asyncIterator](): AsyncGenerator {
    for (let request = await this.receive(); request !== undefined; request = await this.receive()) {
      yield request;
    }
  }

  send(response: unknown): Promise<void> {
    const sent = new Promise<void>((resolve, reject) => {
      const payload = this.method.response.encode(response);
      if (payload.length > this.seat.maxMessageBytes) {
        throw oversizeError(payload.length, this.seat.maxMessageBytes);
      }
      if (!this.method.serverStreams) {
        if (this.single !== undefined) {
          throw new TtrpcError('Internal', 'method has a single response and it was sent already');
        }
        this.single = payload;
        resolve();
        return;
      }
      this.seat.connection.whenWritable(() => {
        if (this.seat.isActive() && !this.seat.connection.isClosed) {
          this.seat.connection.send(encodeFrame(this.seat.streamId, FrameType.Data, 0, payload));
          this.seat.connection.whenWritable(resolve);
        } else {
          reject(closedError());
        }
      });
    });
    // A handler may stop caring about what it sends; that must not end the process.
    sent.catch(() => undefined);
    return sent;
  }

  /** The frame that ends a stream of responses in order. */
  endFrame(): Buffer {
    return encodeFrame(this.seat.streamId, FrameType.Data, Flag.RemoteClosed | Flag.NoData, new Uint8Array(0));
  }
}
