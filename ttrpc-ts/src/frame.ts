/** Length of a frame's header. */
export const HEADER_BYTES = 10;

/** The protocol's limit for one message, header not counted. */
export const MAX_MESSAGE_BYTES = 4 << 20;

/** Frame types. Others are to be ignored. */
export const FrameType = { Request: 1, Response: 2, Data: 3 } as const;

/** Frame flags, told from the receiver's side. */
export const Flag = { RemoteClosed: 0x01, RemoteOpen: 0x02, NoData: 0x04 } as const;

/** One received frame. */
export interface Frame {
  readonly streamId: number;
  readonly type: number;
  readonly flags: number;
  /** The receiver's own copy: never written to again. Empty when the frame was rejected. */
  readonly payload: Uint8Array;
  /** 0, or the announced length of a frame over the limit: its bytes are skipped. */
  readonly rejectedBytes: number;
}

/** An unsent frame: header written, payload of `payloadBytes` to be filled in from `HEADER_BYTES` on. */
export function allocateFrame(streamId: number, type: number, flags: number, payloadBytes: number): Buffer {
  const frame = Buffer.allocUnsafe(HEADER_BYTES + payloadBytes);
  frame.writeUInt32BE(payloadBytes, 0);
  frame.writeUInt32BE(streamId, 4);
  frame[8] = type;
  frame[9] = flags;
  return frame;
}

/** A whole frame in one buffer. */
export function encodeFrame(streamId: number, type: number, flags: number, payload: Uint8Array): Buffer {
  const frame = allocateFrame(streamId, type, flags, payload.length);
  frame.set(payload, HEADER_BYTES);
  return frame;
}

const EMPTY = Buffer.alloc(0);

/**
 * Cuts a byte stream into frames, wherever the chunks were split. Pure: no socket, no policy. The limit is checked
 * before anything is allocated; a frame over it is reported once, at its header, and its bytes are skipped.
 * Payloads are copied out, so a transport may reuse its chunks once `next` gave `undefined` or after `retain`.
 */
export class FrameDecoder {
  private readonly header = Buffer.alloc(HEADER_BYTES);
  private headerFill = 0;
  private body: Buffer | undefined;
  private bodyFill = 0;
  private skipBytes = 0;
  private chunk: Uint8Array = EMPTY;
  private offset = 0;

  constructor(private readonly maxMessageBytes: number = MAX_MESSAGE_BYTES) {}

  /** Whether the stream stands inside a frame: its end here is a cut-off message. */
  get isMidFrame(): boolean {
    return this.headerFill > 0 || this.body !== undefined || this.skipBytes > 0 || this.offset < this.chunk.length;
  }

  /** Hands in the next bytes. */
  push(chunk: Uint8Array): void {
    const rest = this.chunk.length - this.offset;
    this.chunk = rest === 0 ? chunk : Buffer.concat([this.chunk.subarray(this.offset), chunk]);
    this.offset = 0;
  }

  /** Copies what is not consumed yet, for callers that stop calling `next` for a while. */
  retain(): void {
    this.chunk = this.offset < this.chunk.length ? Buffer.from(this.chunk.subarray(this.offset)) : EMPTY;
    this.offset = 0;
  }

  /** The next frame, or `undefined` when more bytes are needed. */
  next(): Frame | undefined {
    if (!this.skip()) {
      return undefined;
    }
    if (this.body === undefined) {
      this.headerFill += this.copyInto(this.header, this.headerFill);
      if (this.headerFill < HEADER_BYTES) {
        this.dropChunk();
        return undefined;
      }
      const length = this.header.readUInt32BE(0);
      if (length > this.maxMessageBytes) {
        this.skipBytes = length;
        return this.finish(EMPTY, length);
      }
      this.body = length === 0 ? EMPTY : Buffer.allocUnsafe(length);
      this.bodyFill = 0;
    }
    this.bodyFill += this.copyInto(this.body, this.bodyFill);
    if (this.bodyFill < this.body.length) {
      this.dropChunk();
      return undefined;
    }
    return this.finish(this.body, 0);
  }

  private finish(payload: Uint8Array, rejectedBytes: number): Frame {
    this.headerFill = 0;
    this.body = undefined;
    return {
      streamId: this.header.readUInt32BE(4),
      type: this.header.readUInt8(8),
      flags: this.header.readUInt8(9),
      payload,
      rejectedBytes,
    };
  }

  private dropChunk(): void {
    this.chunk = EMPTY;
    this.offset = 0;
  }

  private skip(): boolean {
    const skipped = Math.min(this.skipBytes, this.chunk.length - this.offset);
    this.skipBytes -= skipped;
    this.offset += skipped;
    if (this.skipBytes > 0) {
      this.dropChunk();
    }
    return this.skipBytes === 0;
  }

  private copyInto(target: Buffer, at: number): number {
    const count = Math.min(target.length - at, this.chunk.length - this.offset);
    if (count > 0) {
      target.set(this.chunk.subarray(this.offset, this.offset + count), at);
      this.offset += count;
    }
    return count;
  }
}
