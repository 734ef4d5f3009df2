import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { test } from 'node:test';
import { encodePreamble, PreambleScanner, type ScanEvent } from './serial-preamble';

/** Feeds a stream in chunks of the given size and joins neighbouring data. */
function scan(stream: Buffer, chunk: number): ScanEvent[] {
  const scanner = new PreambleScanner('host');
  const out: ScanEvent[] = [];
  for (let at = 0; at < stream.length; at += chunk) {
    for (const event of scanner.push(stream.subarray(at, at + chunk))) {
      const last = out.at(-1);
      if (event.kind === 'data' && last?.kind === 'data') {
        out[out.length - 1] = { kind: 'data', bytes: Buffer.concat([last.bytes, event.bytes]) };
      } else {
        out.push(event.kind === 'data' ? { kind: 'data', bytes: Buffer.from(event.bytes) } : event);
      }
    }
  }
  return out;
}

test('finds a preamble between data in any chunking', () => {
  const nonce = randomBytes(16);
  const before = randomBytes(100);
  const after = randomBytes(50);
  const stream = Buffer.concat([before, encodePreamble('host', nonce), after]);
  for (let chunk = 1; chunk <= stream.length; chunk++) {
    assert.deepEqual(scan(stream, chunk), [
      { kind: 'data', bytes: before },
      { kind: 'preamble', nonce },
      { kind: 'data', bytes: after },
    ]);
  }
});

test('a preamble that cuts a frame and is followed by another is found twice', () => {
  const first = encodePreamble('host', Buffer.alloc(16, 1));
  const second = encodePreamble('host', Buffer.alloc(16, 2));
  const stream = Buffer.concat([first, Buffer.from('half a fra'), second]);
  for (const chunk of [1, 7, 35, 36, 1000]) {
    assert.deepEqual(scan(stream, chunk).map((event) => (event.kind === 'data' ? event.bytes.toString() : `nonce ${String(event.nonce[0])}`)), ['nonce 1', 'half a fra', 'nonce 2']);
  }
});

test('a magic with a wrong checksum is data, and a preamble right behind it is still found', () => {
  const wrong = encodePreamble('host', Buffer.alloc(16, 3));
  wrong[35] = (wrong[35] ?? 0) ^ 1;
  const right = encodePreamble('host', Buffer.alloc(16, 4));
  for (const chunk of [1, 5, 36, 100]) {
    assert.deepEqual(scan(Buffer.concat([wrong, right]), chunk), [{ kind: 'data', bytes: wrong }, { kind: 'preamble', nonce: Buffer.alloc(16, 4) }]);
  }
});

test("the other side's preamble is data", () => {
  const stream = encodePreamble('guest', Buffer.alloc(16, 5));
  assert.deepEqual(scan(stream, 9), [{ kind: 'data', bytes: stream }]);
});
