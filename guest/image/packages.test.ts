import assert from 'node:assert/strict';
import { test } from 'node:test';
import { guestPackageNames, kernelPackageOf, parseShow } from './packages';

const SHOWN = `Package: linux-image-amd64
Version: 6.1.1-1
Depends: linux-image-6.1.0-9-amd64 (= 6.1.1-1)
SHA256: aa

Package: crun
Version: 1.8.1-1
Description-en: runs
 Package: not a field
SHA256: bb

Package: crun
Version: 1.0
SHA256: cc
`;

test('only packages of scope guest are taken from the list', () => {
  assert.deepEqual(guestPackageNames('# a comment guest\n\nqemu qemu run it runs\ncrun crun test mock\ncrun - guest runs containers\nip - guest x\n'), ['crun', 'ip']);
});

test('the first record of each package is read', () => {
  const records = parseShow(SHOWN);
  assert.deepEqual([...records.keys()], ['linux-image-amd64', 'crun']);
  assert.equal(records.get('crun')?.get('SHA256'), 'bb');
});

test('the kernel metapackage leads to the kernel itself; others are themselves', () => {
  const records = parseShow(SHOWN);
  assert.equal(kernelPackageOf('linux-image-amd64', records), 'linux-image-6.1.0-9-amd64');
  assert.equal(kernelPackageOf('crun', records), 'crun');
});
