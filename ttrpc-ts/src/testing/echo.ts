import type { Codec, StreamMethod, UnaryMethod } from '../service';

/** Text as its UTF-8 bytes; the text "undecodable" does not decode, "unencodable" does not encode. */
export const text: Codec<string> = {
  encode(message) {
    if (message === 'unencodable') {
      throw new Error('cannot encode');
    }
    return Buffer.from(message);
  },
  decode(bytes) {
    const message = Buffer.from(bytes).toString();
    if (message === 'undecodable') {
      throw new Error('cannot decode');
    }
    return message;
  },
};

/** Bytes as they are. */
export const raw: Codec<Uint8Array> = { encode: (message) => message, decode: (bytes) => bytes };

const unary: UnaryMethod<string, string> = { kind: 'unary', request: text, response: text };
const stream = (clientStreams: boolean, serverStreams: boolean): StreamMethod<string, string> => ({
  kind: 'stream',
  clientStreams,
  serverStreams,
  request: text,
  response: text,
});

/** A service for tests. */
export const echoService = {
  name: 'test.v1.Echo',
  methods: {
    Echo: unary,
    Fail: unary,
    Park: unary,
    Bytes: { kind: 'unary', request: raw, response: raw } satisfies UnaryMethod<Uint8Array, Uint8Array>,
    Both: stream(true, true),
    Sum: stream(true, false),
    List: stream(false, true),
  },
} as const;
