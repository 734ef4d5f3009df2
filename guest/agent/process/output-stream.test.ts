import assert from 'node:assert/strict';
import { closeSync, existsSync, writeSync } from 'node:fs';
import { test } from 'node:test';
import { pipe } from '../../../base/syscalls';
import { InputStream } from './input-stream';
import { OutputStream } from './output-stream';

test('a read waits for data and gives at most what is wanted', async () => {
  const [readEnd, writeEnd] = pipe();
  const stream = OutputStream.ofPipe(readEnd);
  const first = stream.read(3);
  writeSync(writeEnd, 'abcdef');
  assert.equal((await first).toString(), 'abc');
  assert.equal((await stream.read(100)).toString(), 'def');
  closeSync(writeEnd);
  assert.equal((await stream.read(100)).length, 0);
  assert.equal((await stream.read(100)).length, 0);
  assert.equal(stream.isRead, true);
});

test('reads that wait are served in order', async () => {
  const [readEnd, writeEnd] = pipe();
  const stream = OutputStream.ofPipe(readEnd);
  const reads = [stream.read(1), stream.read(1), stream.read(1)];
  writeSync(writeEnd, 'xyz');
  assert.deepEqual((await Promise.all(reads)).map(String), ['x', 'y', 'z']);
  closeSync(writeEnd);
  stream.close();
});

test('a read that is given up takes nothing from the next', async () => {
  const [readEnd, writeEnd] = pipe();
  const stream = OutputStream.ofPipe(readEnd);
  const controller = new AbortController();
  const given = stream.read(10, controller.signal);
  controller.abort();
  assert.equal((await given).length, 0);
  writeSync(writeEnd, 'data');
  assert.equal((await stream.read(10)).toString(), 'data');
  closeSync(writeEnd);
  stream.close();
});

test('what a process left is read after its end, though others hold the pipe; then it is at its end', async () => {
  const [readEnd, writeEnd] = pipe();
  const stream = OutputStream.ofPipe(readEnd);
  writeSync(writeEnd, 'last words');
  stream.processEnded();
  assert.equal((await stream.read(100)).toString(), 'last words');
  const startedMs = performance.now();
  assert.equal((await stream.read(100)).length, 0);
  assert.ok(performance.now() - startedMs < 2000);
  assert.equal(existsSync(`/proc/self/fd/${String(readEnd)}`), false);
  closeSync(writeEnd);
});

test('a reader that waits when the process ends gets what comes in the grace', async () => {
  const [readEnd, writeEnd] = pipe();
  const stream = OutputStream.ofPipe(readEnd);
  const waiting = stream.read(100);
  stream.processEnded();
  writeSync(writeEnd, 'late');
  assert.equal((await waiting).toString(), 'late');
  closeSync(writeEnd);
  assert.equal((await stream.read(100)).length, 0);
});

test('nothing is read ahead while nobody reads', async () => {
  const [readEnd, writeEnd] = pipe();
  const stream = OutputStream.ofPipe(readEnd);
  writeSync(writeEnd, Buffer.alloc(65_536, 1));
  assert.equal((await stream.read(1)).length, 1);
  const input = InputStream.ofPipe(writeEnd);
  let isWritten = false;
  const writing = input.write(Buffer.alloc(1024 * 1024, 2)).then((size) => {
    isWritten = true;
    return size;
  });
  await new Promise((resolve) => setImmediate(resolve));
  assert.equal(isWritten, false);
  let size = 1;
  while (size < 65_536 + 1024 * 1024) {
    size += (await stream.read(4 * 1024 * 1024)).length;
  }
  assert.equal(await writing, 1024 * 1024);
  input.end();
  input.end();
  assert.equal((await stream.read(1)).length, 0);
  await assert.rejects(input.write(Buffer.from('x')), /closed/);
});
