import assert from 'node:assert/strict';
import { test } from 'node:test';
import { openCache, sealCache } from './parts';

const code = Buffer.from('compiled');
const source = Buffer.from('source of a bundle');

test('compiled code is given for exactly the source that it was made of', () => {
  const sealed = sealCache(code, source);
  assert.deepEqual(openCache(sealed, source), code);
  assert.equal(openCache(sealed, Buffer.from('source of a bundlE')), undefined);
  assert.equal(openCache(sealed, Buffer.from('source of a bundle, longer')), undefined);
});

test('a cache that is cut short or not ours is never used', () => {
  const sealed = sealCache(code, source);
  for (const end of [0, 7, 8, 20, sealed.length - 1]) {
    assert.equal(openCache(sealed.subarray(0, end), source), undefined, String(end));
  }
  assert.equal(openCache(Buffer.concat([sealed, Buffer.alloc(1)]), source), undefined);
  assert.equal(openCache(Buffer.alloc(64, 0xff), source), undefined);
});
