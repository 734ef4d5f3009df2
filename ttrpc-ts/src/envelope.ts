import { BinaryReader, BinaryWriter, WireType } from '@bufbuild/protobuf/wire';
import { allocateFrame, FrameType, HEADER_BYTES } from './frame';
import { codeFromNumber, codeToNumber, oversizeError, TtrpcError, type StatusDetail } from './errors';
import { Metadata } from './metadata';

/** What a request frame carries. */
export interface RequestEnvelope {
  readonly service: string;
  readonly method: string;
  readonly payload: Uint8Array;
  /** 0: none; negative: already expired. */
  readonly timeoutNano: bigint;
  readonly metadata: Metadata | undefined;
}

/** What a response frame carries: an error, or the payload. */
export type ResponseEnvelope =
  | { readonly error: TtrpcError; readonly payload?: undefined }
  | { readonly error?: undefined; readonly payload: Uint8Array };

const EMPTY = new Uint8Array(0);
const LENGTH_DELIMITED = WireType.LengthDelimited;
const TAG_RESPONSE_PAYLOAD = (2 << 3) | LENGTH_DELIMITED;
/** Longer status messages are cut: an error must always fit into a frame. */
const MAX_STATUS_TEXT = 64 * 1024;

/** Walks a message's fields; `read` returns false for a field that it does not know, which is then skipped. */
function readFields(bytes: Uint8Array, read: (reader: BinaryReader, field: number, wire: WireType) => boolean): void {
  const reader = new BinaryReader(bytes);
  while (reader.pos < reader.len) {
    const [field, wire] = reader.tag();
    if (!read(reader, field, wire)) {
      reader.skip(wire, field);
    }
  }
  if (reader.pos > reader.len) {
    throw new RangeError('premature EOF');
  }
}

/** Decodes a Request. Throws on malformed bytes. */
export function decodeRequest(bytes: Uint8Array): RequestEnvelope {
  let service = '';
  let method = '';
  let payload: Uint8Array = EMPTY;
  let timeoutNano = 0n;
  let metadata: Metadata | undefined;
  readFields(bytes, (reader, field, wire) => {
    if (field === 4 && wire === WireType.Varint) {
      timeoutNano = BigInt.asIntN(64, BigInt(reader.int64()));
      return true;
    }
    if (wire !== LENGTH_DELIMITED) {
      return false;
    }
    switch (field) {
      case 1:
        service = reader.string();
        return true;
      case 2:
        method = reader.string();
        return true;
      case 3:
        payload = reader.bytes();
        return true;
      case 5:
        metadata ??= new Metadata();
        decodeKeyValue(reader.bytes(), metadata);
        return true;
      default:
        return false;
    }
  });
  return { service, method, payload, timeoutNano, metadata };
}

function decodeKeyValue(bytes: Uint8Array, into: Metadata): void {
  let key = '';
  let value = '';
  readFields(bytes, (reader, field, wire) => {
    if (wire !== LENGTH_DELIMITED || field > 2) {
      return false;
    }
    const text = reader.string();
    if (field === 1) {
      key = text;
    } else {
      value = text;
    }
    return true;
  });
  into.append(key, value);
}

/** Decodes a Response. Throws on malformed bytes. */
export function decodeResponse(bytes: Uint8Array): ResponseEnvelope {
  let error: TtrpcError | undefined;
  let payload: Uint8Array = EMPTY;
  readFields(bytes, (reader, field, wire) => {
    if (wire !== LENGTH_DELIMITED || field > 2) {
      return false;
    }
    if (field === 1) {
      error = decodeStatus(reader.bytes());
    } else {
      payload = reader.bytes();
    }
    return true;
  });
  return error === undefined ? { payload } : { error };
}

function decodeStatus(bytes: Uint8Array): TtrpcError | undefined {
  let code = 0;
  let message = '';
  const details: StatusDetail[] = [];
  readFields(bytes, (reader, field, wire) => {
    if (field === 1 && wire === WireType.Varint) {
      code = reader.int32();
    } else if (field === 2 && wire === LENGTH_DELIMITED) {
      message = reader.string();
    } else if (field === 3 && wire === LENGTH_DELIMITED) {
      details.push(decodeAny(reader.bytes()));
    } else {
      return false;
    }
    return true;
  });
  return code === 0 ? undefined : new TtrpcError(codeFromNumber(code), message, { details });
}

function decodeAny(bytes: Uint8Array): StatusDetail {
  let typeUrl = '';
  let value: Uint8Array = EMPTY;
  readFields(bytes, (reader, field, wire) => {
    if (wire !== LENGTH_DELIMITED || field > 2) {
      return false;
    }
    if (field === 1) {
      typeUrl = reader.string();
    } else {
      value = reader.bytes();
    }
    return true;
  });
  return { typeUrl, value };
}

/**
 * A request frame, payload copied once. The stream id is filled in by the sender (`setStreamId`), since ids have to
 * go out in order. Throws ResourceExhausted over the limit.
 */
export function encodeRequestFrame(request: RequestEnvelope, flags: number, maxBytes: number): Buffer {
  const { payload } = request;
  const head = new BinaryWriter();
  if (request.service !== '') {
    head.uint32((1 << 3) | LENGTH_DELIMITED).string(request.service);
  }
  if (request.method !== '') {
    head.uint32((2 << 3) | LENGTH_DELIMITED).string(request.method);
  }
  if (payload.length > 0) {
    head.uint32((3 << 3) | LENGTH_DELIMITED).uint32(payload.length);
  }
  const headBytes = head.finish();
  const tailBytes = encodeRequestTail(request);
  const size = headBytes.length + payload.length + tailBytes.length;
  if (size > maxBytes) {
    throw oversizeError(size, maxBytes);
  }
  const frame = allocateFrame(0, FrameType.Request, flags, size);
  frame.set(headBytes, HEADER_BYTES);
  frame.set(payload, HEADER_BYTES + headBytes.length);
  frame.set(tailBytes, HEADER_BYTES + headBytes.length + payload.length);
  return frame;
}

function encodeRequestTail(request: RequestEnvelope): Uint8Array {
  if (request.timeoutNano === 0n && request.metadata === undefined) {
    return EMPTY;
  }
  const tail = new BinaryWriter();
  if (request.timeoutNano !== 0n) {
    tail.uint32((4 << 3) | WireType.Varint).int64(request.timeoutNano);
  }
  for (const [key, values] of request.metadata?.entries() ?? []) {
    for (const value of values) {
      tail.uint32((5 << 3) | LENGTH_DELIMITED).fork();
      tail.uint32((1 << 3) | LENGTH_DELIMITED).string(key);
      tail.uint32((2 << 3) | LENGTH_DELIMITED).string(value);
      tail.join();
    }
  }
  return tail.finish();
}

/** Writes the stream id into an encoded frame. */
export function setStreamId(frame: Buffer, streamId: number): void {
  frame.writeUInt32BE(streamId, 4);
}

/** A response frame for a result; a result over the limit becomes a ResourceExhausted response. */
export function encodeResultFrame(streamId: number, payload: Uint8Array, maxBytes: number): Buffer {
  if (payload.length === 0) {
    return allocateFrame(streamId, FrameType.Response, 0, 0);
  }
  let prefixBytes = 2;
  for (let rest = payload.length >>> 7; rest > 0; rest >>>= 7) {
    prefixBytes++;
  }
  const size = prefixBytes + payload.length;
  if (size > maxBytes) {
    return encodeErrorFrame(streamId, oversizeError(size, maxBytes), maxBytes);
  }
  const frame = allocateFrame(streamId, FrameType.Response, 0, size);
  let at = HEADER_BYTES;
  frame[at++] = TAG_RESPONSE_PAYLOAD;
  let rest = payload.length;
  for (; rest > 0x7f; rest >>>= 7) {
    frame[at++] = (rest & 0x7f) | 0x80;
  }
  frame[at++] = rest;
  frame.set(payload, at);
  return frame;
}

/** A response frame for an error; text too long is cut, details too big are left out. */
export function encodeErrorFrame(streamId: number, error: TtrpcError, maxBytes: number): Buffer {
  const maxText = Math.max(0, Math.min(MAX_STATUS_TEXT, Math.floor((maxBytes - 32) / 3)));
  const message = error.message.length > maxText ? error.message.slice(0, maxText) : error.message;
  let status = encodeStatus(error, message, error.details);
  if (status.length > maxBytes && error.details.length > 0) {
    status = encodeStatus(error, message, []);
  }
  const frame = allocateFrame(streamId, FrameType.Response, 0, status.length);
  frame.set(status, HEADER_BYTES);
  return frame;
}

function encodeStatus(error: TtrpcError, message: string, details: readonly StatusDetail[]): Uint8Array {
  const writer = new BinaryWriter();
  writer.uint32((1 << 3) | LENGTH_DELIMITED).fork();
  writer.uint32((1 << 3) | WireType.Varint).int32(codeToNumber(error.code));
  writer.uint32((2 << 3) | LENGTH_DELIMITED).string(message);
  for (const detail of details) {
    writer.uint32((3 << 3) | LENGTH_DELIMITED).fork();
    writer.uint32((1 << 3) | LENGTH_DELIMITED).string(detail.typeUrl);
    writer.uint32((2 << 3) | LENGTH_DELIMITED).bytes(detail.value);
    writer.join();
  }
  writer.join();
  return writer.finish();
}
