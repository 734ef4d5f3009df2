import assert from 'node:assert/strict';
import { test } from 'node:test';
import { decodeRequest, decodeResponse, encodeErrorFrame, encodeRequestFrame, encodeResultFrame } from './envelope';
import { TtrpcError } from './errors';
import { HEADER_BYTES, MAX_MESSAGE_BYTES } from './frame';
import { Metadata } from './metadata';

const LIMIT = MAX_MESSAGE_BYTES;
const body = (frame: Buffer): Buffer => frame.subarray(HEADER_BYTES);

test('a request has the field numbers of the protocol', () => {
  const metadata = new Metadata().append('k', 'v');
  const payload = Buffer.from([9, 8]);
  const frame = encodeRequestFrame({ service: 's', method: 'm', payload, timeoutNano: 5n, metadata }, 0, LIMIT);
  assert.equal(body(frame).toString('hex'), '0a0173' + '12016d' + '1a020908' + '2005' + '2a06' + '0a016b' + '120176');
});

test('a request survives the way there and back', () => {
  const metadata = new Metadata().append('Case-Kept', 'ä').append('case-kept', '').append('Case-Kept', 'second');
  for (const timeoutNano of [0n, 1n, -1n, (1n << 63n) - 1n, -(1n << 63n)]) {
    const request = { service: 'a.b.C', method: 'Do', payload: Buffer.alloc(300, 7), timeoutNano, metadata };
    const decoded = decodeRequest(body(encodeRequestFrame(request, 0, LIMIT)));
    assert.equal(decoded.timeoutNano, timeoutNano);
    assert.deepEqual(decoded.metadata?.getAll('Case-Kept'), ['ä', 'second']);
    assert.deepEqual(decoded.metadata.getAll('case-kept'), ['']);
    assert.equal(Buffer.compare(decoded.payload, request.payload), 0);
  }
});

test('fields that are not known, or of another wire type, are passed over', () => {
  const bytes = Buffer.from('0a0173' + '4a0378787a' + '5001' + '0d01020304' + '12016d', 'hex');
  const { service, method } = decodeRequest(bytes);
  assert.deepEqual([service, method], ['s', 'm']);
});

test('no garbage does anything but throw or decode', () => {
  let state = 7;
  for (let round = 0; round < 3000; round++) {
    const bytes = Buffer.alloc(round % 40);
    for (let i = 0; i < bytes.length; i++) {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
      bytes[i] = state >>> 24;
    }
    for (const decode of [decodeRequest, decodeResponse]) {
      try {
        decode(bytes);
      } catch (error) {
        assert.ok(error instanceof Error);
      }
    }
  }
});

test('a length beyond the end of the message is refused', () => {
  assert.throws(() => decodeRequest(Buffer.from('1aff01aa', 'hex')));
  assert.throws(() => decodeResponse(Buffer.from('12ffffffff0f', 'hex')));
});

test('a success has no status, an empty one has no bytes at all', () => {
  assert.equal(body(encodeResultFrame(1, Buffer.from('hi'), LIMIT)).toString('hex'), '12026869');
  assert.equal(body(encodeResultFrame(1, Buffer.alloc(0), LIMIT)).length, 0);
  for (const size of [1, 127, 128, 16383, 16384, 2_097_151, 2_097_152]) {
    const response = decodeResponse(body(encodeResultFrame(1, Buffer.alloc(size, 3), LIMIT)));
    assert.equal(response.payload?.length, size);
  }
});

test('an error keeps code, text and details', () => {
  const details = [{ typeUrl: 'type/x', value: Buffer.from([1, 2]) }];
  const { error } = decodeResponse(body(encodeErrorFrame(1, new TtrpcError('NotFound', 'no such', { details }), LIMIT)));
  assert.equal(error?.code, 'NotFound');
  assert.equal(error.message, 'no such');
  assert.equal(error.details[0]?.typeUrl, 'type/x');
  assert.deepEqual([...error.details[0].value], [1, 2]);
});

test('a code that nobody knows reads as Unknown, code 0 as success', () => {
  assert.equal(decodeResponse(Buffer.from('0a02' + '0863', 'hex')).error?.code, 'Unknown');
  assert.equal(decodeResponse(Buffer.from('0a02' + '0800', 'hex')).error, undefined);
});

test('what does not fit becomes ResourceExhausted, an error text too long is cut', () => {
  const oversize = decodeResponse(body(encodeResultFrame(1, Buffer.alloc(LIMIT), LIMIT)));
  assert.equal(oversize.error?.code, 'ResourceExhausted');
  const long = encodeErrorFrame(1, new TtrpcError('Internal', 'ä'.repeat(9_000_000)), LIMIT);
  assert.ok(long.length < 200_000);
  const big = [{ typeUrl: 't', value: Buffer.alloc(LIMIT + 1) }];
  const cut = decodeResponse(body(encodeErrorFrame(1, new TtrpcError('Internal', 'x', { details: big }), LIMIT)));
  assert.equal(cut.error?.details.length, 0);
  assert.throws(
    () => encodeRequestFrame({ service: 's', method: 'm', payload: Buffer.alloc(LIMIT), timeoutNano: 0n, metadata: undefined }, 0, LIMIT),
    { code: 'ResourceExhausted' },
  );
});
