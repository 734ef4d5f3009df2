import assert from 'node:assert/strict';
import { existsSync, mkdirSync, mkdtempSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { it } from 'node:test';
import { makeVmFolder, removeVmFolder } from './vm-folder';

it('makes a private folder and removes it with what is in it, following no link, twice', () => {
  const root = mkdtempSync(join(tmpdir(), 'vmf-'));
  const folder = join(root, 'vm', 'ab');
  makeVmFolder(folder);
  assert.equal(statSync(folder).mode & 0o777, 0o700);
  assert.throws(() => { makeVmFolder(folder); }, { code: 'AlreadyExists' });
  writeFileSync(join(root, 'precious'), '');
  symlinkSync(join(root, 'precious'), join(folder, 'link'));
  removeVmFolder(folder, 'ab');
  removeVmFolder(folder, 'ab');
  assert.equal(existsSync(folder), false);
  assert.equal(existsSync(join(root, 'precious')), true);
  rmSync(root, { recursive: true });
});

it('removes no folder that does not carry the id, and none with folders in it', () => {
  const root = mkdtempSync(join(tmpdir(), 'vmf-'));
  for (const [folder, id] of [['/etc', 'x'], [`${root}/../${root}`, 'x'], ['relative/x', 'x'], [root, '']] as const) {
    assert.throws(() => { removeVmFolder(folder, id); }, { code: 'InvalidArgument' });
  }
  mkdirSync(join(root, 'ab', 'inner'), { recursive: true });
  assert.throws(() => { removeVmFolder(join(root, 'ab'), 'ab'); });
  assert.equal(existsSync(join(root, 'ab', 'inner')), true);
  rmSync(root, { recursive: true });
});

it('refuses a folder whose sockets nobody could connect to', () => {
  assert.throws(() => { makeVmFolder(`/tmp/${'x'.repeat(90)}`); }, { code: 'InvalidArgument' });
});
