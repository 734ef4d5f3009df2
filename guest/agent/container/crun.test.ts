import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { closeSync, constants, existsSync, mkdirSync, mkdtempSync, openSync, readSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, test } from 'node:test';
import { releaseInit, sealedCrun } from './crun';

let root: string;
let fifo: string;

beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'kata-ts-crun-'));
  mkdirSync(join(root, 'c1'));
  fifo = join(root, 'c1', 'exec.fifo');
});

afterEach(() => {
  rmSync(root, { recursive: true, force: true });
});

test('an init that waits gets its byte, and the FIFO is gone', () => {
  execFileSync('mkfifo', [fifo]);
  const init = openSync(fifo, constants.O_RDONLY | constants.O_NONBLOCK);
  try {
    assert.equal(releaseInit('c1', root), true);
    assert.equal(readSync(init, Buffer.alloc(8)), 1);
    assert.equal(existsSync(fifo), false);
  } finally {
    closeSync(init);
  }
});

test('an init that has died, or was started, or never was, is left to the runtime', () => {
  execFileSync('mkfifo', [fifo]);
  assert.equal(releaseInit('c1', root), false);
  assert.equal(existsSync(fifo), true);
  assert.equal(releaseInit('c2', root), false);
});

test('a file in place of the FIFO is not written through a link', () => {
  writeFileSync(join(root, 'other'), '');
  execFileSync('ln', ['-s', join(root, 'other'), fifo]);
  assert.equal(releaseInit('c1', root), false);
});

test('the runtime runs from a sealed copy that nothing can write, and from its file where there is none', () => {
  const copy = sealedCrun('/bin/echo');
  assert.match(copy, /^\/proc\/self\/fd\/\d+$/);
  try {
    assert.equal(spawnSync(copy, ['run'], { encoding: 'utf8', argv0: 'crun' }).stdout, 'run\n');
    assert.throws(() => {
      writeFileSync(copy, 'x');
    }, /EPERM|ETXTBSY/);
  } finally {
    closeSync(Number(copy.split('/').pop()));
  }
  assert.equal(sealedCrun(join(root, 'none')), join(root, 'none'));
});
