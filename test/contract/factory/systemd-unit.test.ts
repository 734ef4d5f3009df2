/** systemd itself reads the unit of the cache server. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';

const ROOT = join(__dirname, '../../..');
const ANALYZE = '/usr/bin/systemd-analyze';
const skip = existsSync(ANALYZE) ? (existsSync(join(ROOT, 'build/kata-runtime')) ? false : 'build/kata-runtime is missing: run make build') : `${ANALYZE} is missing: install systemd`;

test('systemd-analyze finds nothing wrong with it', { skip }, () => {
  const folder = mkdtempSync(join(tmpdir(), 'kata-unit-'));
  try {
    const text = readFileSync(join(ROOT, 'deploy/systemd/kata-vm-cache.service'), 'utf8');
    const unit = join(folder, 'kata-vm-cache.service');
    // The command has to be where the unit says: here it is not installed.
    writeFileSync(unit, text.replace(/^ExecStart=\S+/m, `ExecStart=${join(ROOT, 'build/kata-runtime')}`));
    const done = spawnSync(ANALYZE, ['verify', '--man=no', unit], { encoding: 'utf8' });
    assert.equal(done.stderr, '');
    assert.equal(done.status, 0);
    writeFileSync(unit, `${text}\n[Service]\nExecStart=relative\n`);
    assert.notEqual(spawnSync(ANALYZE, ['verify', '--man=no', unit], { encoding: 'utf8' }).stderr, '', 'it does look');
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});
