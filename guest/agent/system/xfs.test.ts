import assert from 'node:assert/strict';
import { test } from 'node:test';
import { growRequest, parseGeometry } from './xfs';

/** `struct xfs_fsop_geom_v1` of an xfs of 300 MiB, as x86-64's kernel gives it (first 64 bytes). */
function geometry(): Buffer {
  const bytes = Buffer.alloc(112);
  bytes.writeUInt32LE(4096, 0);
  bytes.writeUInt32LE(1, 4);
  bytes.writeUInt32LE(19200, 8);
  bytes.writeUInt32LE(4, 12);
  bytes.writeUInt32LE(25, 28);
  bytes.writeBigUInt64LE(76800n, 32);
  return bytes;
}

test('an xfs is asked to fill its device, its inode share kept', () => {
  const parsed = parseGeometry(geometry());
  assert.deepEqual(parsed, { blockSizeBytes: 4096, maxInodePercent: 25, dataBlocks: 76800n });
  const request = growRequest(parsed, 512n * 1024n * 1024n + 4095n);
  assert.ok(request !== undefined);
  assert.deepEqual([request.readBigUInt64LE(0), request.readUInt32LE(8), request.length], [131072n, 25, 16]);
});

test('an xfs that fills its device is left alone, and none is made smaller', () => {
  const parsed = parseGeometry(geometry());
  assert.equal(growRequest(parsed, 76800n * 4096n), undefined);
  assert.equal(growRequest(parsed, 1n), undefined);
});
