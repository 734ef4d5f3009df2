import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { test } from 'node:test';
import { lz4Block, lz4Legacy } from './lz4';

/** A plain decoder after the format's description. */
function decode(block: Buffer): Buffer {
  const out: number[] = [];
  let at = 0;
  const next = (): number => block[at++] ?? assert.fail('the block ends too early');
  const length = (start: number): number => {
    let total = start;
    for (let byte = start === 15 ? 255 : 0; byte === 255; ) {
      byte = next();
      total += byte;
    }
    return total;
  };
  for (;;) {
    const token = next();
    for (let n = length(token >> 4); n > 0; n--) {
      out.push(next());
    }
    if (at === block.length) {
      return Buffer.from(out);
    }
    const distance = next() | (next() << 8);
    assert.ok(distance > 0 && distance <= out.length, 'a match points into what is there');
    for (let n = length(token & 15) + 4; n > 0; n--) {
      out.push(out[out.length - distance] ?? assert.fail());
    }
  }
}

function noise(bytes: number): Buffer {
  const parts = Array.from({ length: Math.ceil(bytes / 32) }, (_, i) => createHash('sha256').update(String(i)).digest());
  return Buffer.concat(parts).subarray(0, bytes);
}

test('what is compressed comes back, for short, repeating, random and mixed bytes', () => {
  const mixed = Buffer.concat([noise(3000), Buffer.alloc(100_000), noise(3000), Buffer.from('abcabcabc'.repeat(500)), noise(70_000), noise(3000)]);
  for (const bytes of [Buffer.alloc(0), Buffer.from('a'), Buffer.from('twelve bytes'), Buffer.alloc(13, 1), Buffer.alloc(4096), noise(5000), mixed]) {
    assert.deepEqual(decode(lz4Block(bytes)), bytes);
  }
  assert.ok(lz4Block(mixed).length < 85_000);
});

test('the last five bytes are literals, as decoders demand', () => {
  const block = lz4Block(Buffer.alloc(1000));
  assert.deepEqual([...block.subarray(-6)], [0x50, 0, 0, 0, 0, 0]);
});

test('the frame has the legacy magic and blocks of at most 8 MiB', () => {
  const bytes = Buffer.concat([Buffer.alloc(8 << 20, 1), Buffer.from('the rest')]);
  const frame = Buffer.concat(lz4Legacy(bytes));
  assert.equal(frame.readUInt32LE(0), 0x184c2102);
  const first = frame.readUInt32LE(4);
  const second = frame.readUInt32LE(8 + first);
  assert.equal(8 + first + 4 + second, frame.length);
  assert.equal(decode(frame.subarray(12 + first)).toString(), 'the rest');
});
