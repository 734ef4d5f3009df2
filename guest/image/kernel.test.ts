import assert from 'node:assert/strict';
import { test } from 'node:test';
import { gzipSync } from 'node:zlib';
import { segmentsOf } from './elf';
import { decompressPayload, extractKernel, payloadOf } from './kernel';
import { buildElf } from './synthetic-elf';

function bzImage(payload: Buffer, setupSectors = 3): Buffer {
  const setup = Buffer.alloc((setupSectors + 1) * 512);
  setup[0x1f1] = setupSectors;
  setup.write('HdrS', 0x202, 'latin1');
  setup.writeUInt32LE(32, 0x248);
  setup.writeUInt32LE(payload.length, 0x24c);
  return Buffer.concat([setup, Buffer.alloc(32, 0x90), payload, Buffer.from('tail')]);
}

const sizeWord = Buffer.from([1, 2, 3, 4]);

test('the ELF kernel comes out of a gzip bzImage', () => {
  const { bytes } = buildElf({ loads: [{ data: Buffer.from('kernel'), memoryBytes: 64 }] });
  const kernel = extractKernel(bzImage(Buffer.concat([gzipSync(bytes), sizeWord])), 'vmlinuz');
  assert.equal(segmentsOf(kernel, 'k')[0]?.memoryBytes, 64);
  assert.ok(kernel.includes('kernel'));
});

test('zero setup sectors mean four', () => {
  const image = bzImage(Buffer.alloc(100, 9), 4);
  image[0x1f1] = 0;
  assert.deepEqual(payloadOf(image, 'k'), Buffer.alloc(100, 9));
});

test('no bzImage, a payload that ends outside, an unknown compression and a payload that is no ELF are refused', () => {
  assert.throws(() => payloadOf(Buffer.alloc(4096), 'zeros'), /"zeros": not an x86 bzImage/);
  const image = bzImage(Buffer.alloc(100));
  assert.throws(() => payloadOf(image.subarray(0, -60), 'cut'), /"cut": its payload ends behind/);
  assert.throws(() => decompressPayload(Buffer.from('LZMAxxxxxxxxxxxx')), /unknown compression \(starts with 4c5a4d41/);
  assert.throws(() => extractKernel(bzImage(Buffer.alloc(100)), 'odd', () => Buffer.from('text')), /"odd": what it holds is no 64-bit ELF/);
});
