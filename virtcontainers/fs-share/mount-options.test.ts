import assert from 'node:assert/strict';
import { test } from 'node:test';
import { MS } from '../../base/syscalls';
import { mountPointsBelow } from './mounts';
import { fitOverlayData, parseMountOptions } from './mount-options';

test('flags, propagation and data are told apart; later options win', () => {
  assert.deepEqual(parseMountOptions(['ro', 'nosuid', 'rbind', 'rprivate', 'lowerdir=/a', 'rw', 'X-containerd.mkdir.path=/x']), {
    flags: MS.NOSUID | MS.BIND | MS.REC, propagation: MS.PRIVATE | MS.REC, data: ['lowerdir=/a'],
  });
});

test('an SELinux context with commas is quoted, once', () => {
  assert.deepEqual(parseMountOptions(['context=system_u:object_r:container_file_t:s0:c1,c2']).data, ['context="system_u:object_r:container_file_t:s0:c1,c2"']);
  assert.deepEqual(parseMountOptions(['context="a:b:c1,c2"']).data, ['context="a:b:c1,c2"']);
});

test('options that cannot be ignored are refused', () => {
  assert.throws(() => parseMountOptions(['uidmap=0:1:2']), { code: 'Unimplemented' });
  assert.throws(() => parseMountOptions(['lowerdir={{ overlay 0 1 }}']), { code: 'Unimplemented' });
});

test('overlay options beyond a page become relative to the common folder, or are refused', () => {
  const layers = Array.from({ length: 100 }, (_, index) => `/var/lib/containerd/io.containerd.snapshotter.v1.overlayfs/snapshots/${index}/fs`);
  assert.equal(fitOverlayData(['lowerdir=/a:/b']).cwd, undefined);
  const fitted = fitOverlayData([`lowerdir=${layers.join(':')}`, 'upperdir=/u']);
  assert.equal(fitted.cwd, '/var/lib/containerd/io.containerd.snapshotter.v1.overlayfs/snapshots');
  assert.match(fitted.data, /^lowerdir=0\/fs:1\/fs:.*:99\/fs,upperdir=\/u$/);
  const many = Array.from({ length: 2000 }, (_, index) => `/snapshots/${index}/fs`);
  assert.throws(() => fitOverlayData([`lowerdir=${many.join(':')}`]), { code: 'ResourceExhausted' });
});

test('mount points below a folder, deepest first, escapes undone, siblings left', () => {
  const info = ['1 0 0:1 / /a rw', '2 1 0:1 / /a/b\\040c rw', '3 1 0:1 / /ab rw', '4 2 0:1 / /a/b\\040c/d rw'].join('\n');
  assert.deepEqual(mountPointsBelow('/a', info), ['/a/b c/d', '/a/b c', '/a']);
});
