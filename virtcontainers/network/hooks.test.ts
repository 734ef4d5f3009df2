import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { runHooks, type HookState } from './hooks';

const STATE: HookState = { id: 'c1', status: 'creating', pid: process.pid, bundle: '/b', annotations: {} };

test('a hook sees its first argument as its name, its environment and the state on stdin', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'hooks-'));
  try {
    const out = join(folder, 'out');
    // dockerd names its network hook so: the program is /proc/<pid>/exe, the name says what it is to do.
    const script = `{ tr '\\0' ' ' </proc/$$/cmdline; echo "$MARK"; cat; } >${out}`;
    await runHooks('prestart', [{ path: '/bin/sh', args: ['libnetwork-setkey', '-c', script], env: ['MARK=yes'] }], STATE);
    const [name, ...rest] = readFileSync(out, 'utf8').split(' ');
    assert.equal(name, 'libnetwork-setkey');
    assert.match(rest.join(' '), /yes\n\{"ociVersion":"1\.0\.2","id":"c1"/);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});

test('a failing hook is named with its message', async () => {
  await assert.rejects(runHooks('createRuntime', [{ path: '/bin/sh', args: ['sh', '-c', 'echo no room >&2; exit 3'] }], STATE), /createRuntime hook \/bin\/sh: exit code 3: no room/);
});
