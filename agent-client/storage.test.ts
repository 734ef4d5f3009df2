import assert from 'node:assert/strict';
import { test } from 'node:test';
import { isCode } from '../base/errors';
import {
  blockMountPoint,
  blockStorage,
  ephemeralStorage,
  hugetlbfsStorage,
  localStorage,
  ninePStorage,
  overlayStorage,
  shmStorage,
  virtioFsStorage,
  watchableStorage,
} from './storage';

test('the shared folder and /dev/shm are what upstream sends', () => {
  assert.deepEqual(virtioFsStorage({ dax: false }), {
    driver: 'virtio-fs', source: 'kataShared', fstype: 'virtiofs', options: [], mountPoint: '/run/kata-containers/shared/containers/',
  });
  assert.deepEqual(virtioFsStorage({ dax: true }).options, ['dax']);
  assert.deepEqual(ninePStorage({ msizeBytes: 8192 }).options, ['trans=virtio,version=9p2000.L,cache=mmap', 'nodev', 'msize=8192']);
  assert.deepEqual(shmStorage(67108864), {
    driver: 'ephemeral', source: 'shm', fstype: 'tmpfs',
    options: ['noexec', 'nosuid', 'nodev', 'mode=1777', 'size=67108864'], mountPoint: '/run/kata-containers/sandbox/shm',
  });
});

test('volumes land in their folders', () => {
  assert.deepEqual(ephemeralStorage('cache', 5), {
    driver: 'ephemeral', source: 'tmpfs', fstype: 'tmpfs', options: ['fsgid=5'], mountPoint: '/run/kata-containers/sandbox/ephemeral/cache',
  });
  assert.deepEqual(hugetlbfsStorage('h', 2 << 20, 4 << 20).options, ['pagesize=2097152,size=4194304']);
  assert.deepEqual(localStorage('sb', 'tmp').options, ['mode=0777']);
  assert.equal(localStorage('sb', 'tmp').mountPoint, '/run/kata-containers/shared/containers/sb/rootfs/local/tmp');
  assert.equal(watchableStorage('/run/x/abc-config', ['ro']).mountPoint, '/run/kata-containers/shared/containers/watchable/abc-config');
});

test('block devices are named as the agent finds them', () => {
  const at = { fstype: 'ext4', mountPoint: '/m' };
  assert.equal(blockStorage({ ...at, address: { kind: 'pci', path: '02/01' } }).driver, 'blk');
  assert.equal(blockStorage({ ...at, address: { kind: 'scsi', target: 1, lun: 7 } }).source, '1:7');
  assert.equal(blockStorage({ ...at, address: { kind: 'mmio', device: '/dev/vdb' } }).driver, 'mmioblk');
  assert.equal(blockStorage({ ...at, address: { kind: 'nvdimm', device: '/dev/pmem1' } }).driver, 'nvdimm');
  assert.equal(blockMountPoint({ kind: 'pci', path: '02/01' }), '/run/kata-containers/sandbox/storage/MDIvMDE');
});

test('an overlay lists its layers from the top and cannot be injected into', () => {
  const storage = overlayStorage({ layers: ['/a', '/b'], upperDir: '/u', workDir: '/w', mountPoint: '/m', createDirectories: ['/u'] });
  assert.deepEqual(storage.options, ['lowerdir=/a:/b', 'upperdir=/u', 'workdir=/w']);
  assert.deepEqual(storage.driverOptions, ['io.katacontainers.volume.overlayfs.create_directory=/u']);
  assert.throws(() => overlayStorage({ layers: ['/a,upperdir=/etc'], mountPoint: '/m' }), (error) => isCode(error, 'InvalidArgument'));
});

test('a name that leaves its folder is InvalidArgument', () => {
  for (const name of ['', '.', '..', 'a/b', '../x', 'a\0']) {
    assert.throws(() => ephemeralStorage(name), (error) => isCode(error, 'InvalidArgument'), JSON.stringify(name));
  }
});
