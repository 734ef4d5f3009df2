import assert from 'node:assert/strict';
import { test } from 'node:test';
import { encodeFrame, FrameDecoder, MAX_MESSAGE_BYTES, type Frame } from './frame';

/** A small generator with a seed: a failing run can be repeated. */
function random(seed: number): () => number {
  let state = seed;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
}

function drain(decoder: FrameDecoder): Frame[] {
  const frames: Frame[] = [];
  for (let frame = decoder.next(); frame !== undefined; frame = decoder.next()) {
    frames.push(frame);
  }
  return frames;
}

test('a frame is a 10-byte header, big endian, and its payload', () => {
  const frame = encodeFrame(0x01020305, 3, 5, Buffer.from('hi'));
  assert.deepEqual([...frame], [0, 0, 0, 2, 1, 2, 3, 5, 3, 5, 104, 105]);
});

test('frames come out whole wherever the bytes were split or joined', () => {
  for (let seed = 1; seed <= 200; seed++) {
    const next = random(seed);
    const sent = Array.from({ length: 1 + Math.floor(next() * 20) }, (_, i) => ({
      id: i * 2 + 1,
      payload: Buffer.alloc(Math.floor(next() ** 3 * 300), i + 1),
    }));
    const bytes = Buffer.concat(sent.map(({ id, payload }) => encodeFrame(id, 1 + (id % 3), id % 8, payload)));
    const decoder = new FrameDecoder();
    const got: Frame[] = [];
    for (let at = 0; at < bytes.length; ) {
      const size = Math.floor(next() * (seed % 2 === 0 ? 4 : 200));
      const chunk = Buffer.from(bytes.subarray(at, at + size));
      decoder.push(chunk);
      if (next() < 0.3) {
        decoder.retain();
        chunk.fill(0xee);
      }
      if (next() < 0.8) {
        got.push(...drain(decoder));
        chunk.fill(0xee);
      }
      at += size;
      if (got.length < sent.length && next() < 0.1) {
        decoder.retain();
      }
    }
    got.push(...drain(decoder));
    assert.equal(decoder.isMidFrame, false);
    assert.deepEqual(
      got.map((f) => [f.streamId, f.type, f.flags, Buffer.from(f.payload).toString('hex'), f.rejectedBytes]),
      sent.map(({ id, payload }) => [id, 1 + (id % 3), id % 8, payload.toString('hex'), 0]),
      `seed ${seed}`,
    );
  }
});

test('a payload is not changed when the transport reuses its buffer', () => {
  const decoder = new FrameDecoder();
  const chunk = encodeFrame(1, 1, 0, Buffer.from('first'));
  decoder.push(chunk);
  const frame = decoder.next();
  chunk.fill(0);
  assert.equal(Buffer.from(frame?.payload ?? []).toString(), 'first');
});

test('a frame of exactly the limit passes, one byte more is reported at its header and skipped', () => {
  const decoder = new FrameDecoder();
  decoder.push(encodeFrame(1, 1, 0, Buffer.alloc(MAX_MESSAGE_BYTES, 1)));
  assert.equal(decoder.next()?.payload.length, MAX_MESSAGE_BYTES);
  const oversize = encodeFrame(3, 1, 0, Buffer.alloc(MAX_MESSAGE_BYTES + 1));
  decoder.push(oversize.subarray(0, 10));
  assert.deepEqual(drain(decoder).map((f) => [f.streamId, f.rejectedBytes]), [[3, MAX_MESSAGE_BYTES + 1]]);
  for (let at = 10; at < oversize.length; at += 65536) {
    decoder.push(oversize.subarray(at, at + 65536));
    assert.deepEqual(drain(decoder), []);
  }
  decoder.push(encodeFrame(5, 1, 0, Buffer.from('next')));
  assert.equal(decoder.next()?.streamId, 5);
});

test('an oversize frame and its successors in one chunk do not disturb each other', () => {
  const decoder = new FrameDecoder(8);
  decoder.push(Buffer.concat([encodeFrame(1, 1, 0, Buffer.alloc(9)), encodeFrame(3, 1, 0, Buffer.from('ok')), encodeFrame(5, 1, 0, Buffer.alloc(20))]));
  assert.deepEqual(drain(decoder).map((f) => [f.streamId, f.rejectedBytes]), [[1, 9], [3, 0], [5, 20]]);
  assert.equal(decoder.isMidFrame, false);
});

test('a length of 4 GiB allocates nothing', () => {
  const decoder = new FrameDecoder();
  decoder.push(Buffer.from([255, 255, 255, 255, 0, 0, 0, 1, 1, 0]));
  assert.equal(decoder.next()?.rejectedBytes, 0xffffffff);
  assert.equal(decoder.isMidFrame, true);
});

test('the end of the bytes inside a header or a body is seen', () => {
  const frame = encodeFrame(1, 1, 0, Buffer.from('abc'));
  for (let cut = 0; cut <= frame.length; cut++) {
    const decoder = new FrameDecoder();
    decoder.push(frame.subarray(0, cut));
    decoder.next();
    assert.equal(decoder.isMidFrame, cut > 0 && cut < frame.length, `cut at ${cut}`);
  }
});
