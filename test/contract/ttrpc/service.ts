import { setTimeout as sleep } from 'node:timers/promises';
import { BinaryReader, BinaryWriter } from '@bufbuild/protobuf/wire';
import { TtrpcError, TtrpcServer, codeFromNumber, type Codec, type StreamMethod, type UnaryMethod } from 'ttrpc-ts';

/** `google.protobuf.StringValue`. */
const stringValue: Codec<string> = {
  encode: (value) => (value === '' ? new Uint8Array(0) : new BinaryWriter().uint32(10).string(value).finish()),
  decode: (bytes) => {
    const reader = new BinaryReader(bytes);
    return reader.pos < reader.len && reader.uint32() === 10 ? reader.string() : '';
  },
};

/** `google.protobuf.BytesValue`. */
const bytesValue: Codec<Uint8Array> = {
  encode: (value) => (value.length === 0 ? value : new BinaryWriter().uint32(10).bytes(value).finish()),
  decode: (bytes) => {
    const reader = new BinaryReader(bytes);
    return reader.pos < reader.len && reader.uint32() === 10 ? reader.bytes() : new Uint8Array(0);
  },
};

const text: UnaryMethod<string, string> = { kind: 'unary', request: stringValue, response: stringValue };
const count: UnaryMethod<Uint8Array, string> = { kind: 'unary', request: bytesValue, response: stringValue };
const make: UnaryMethod<string, Uint8Array> = { kind: 'unary', request: stringValue, response: bytesValue };
const stream = (clientStreams: boolean, serverStreams: boolean): StreamMethod<string, string> => ({
  kind: 'stream',
  clientStreams,
  serverStreams,
  request: stringValue,
  response: stringValue,
});

/** The service that the Go peer in `go/` serves and calls. */
export const interop = {
  name: 'interop.v1.Interop',
  methods: {
    Echo: text,
    Fail: text,
    Sleep: text,
    Metadata: text,
    Deadline: text,
    Make: make,
    Count: count,
    Both: stream(true, true),
    Sum: stream(true, false),
    List: stream(false, true),
  },
} as const;

function parse(value: string): number {
  if (!/^-?\d+$/.test(value)) {
    throw new TtrpcError('InvalidArgument', `not a number: ${value}`);
  }
  return Number(value);
}

/** Our server of the service. */
export function interopServer(): TtrpcServer {
  return new TtrpcServer().register(interop, {
    echo: (request) => request,
    fail: (request) => {
      throw request === 'plain' ? new Error('a plain error') : new TtrpcError(codeFromNumber(parse(request)), `failed with ${request}`);
    },
    sleep: async (request, { signal }) => {
      await sleep(parse(request), undefined, { signal });
      return 'slept';
    },
    metadata: (request, { metadata }) => metadata.getAll(request).join(','),
    deadline: (_request, { deadlineMs }) => (deadlineMs === undefined ? 'none' : String(Math.round(deadlineMs - Date.now()))),
    make: (request) => new Uint8Array(parse(request)),
    count: (request) => String(request.length),
    both: async (requests) => {
      for await (const request of requests) {
        await requests.send(`re: ${request}`);
      }
    },
    sum: async (requests) => {
      let sum = 0;
      for await (const request of requests) {
        sum += parse(request);
      }
      await requests.send(String(sum));
    },
    list: async (requests) => {
      const total = parse((await requests.receive()) ?? '');
      for (let i = 0; i < total; i++) {
        await requests.send(String(i));
      }
    },
  });
}
