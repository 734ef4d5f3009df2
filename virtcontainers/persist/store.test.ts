import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, test } from 'node:test';
import type { DocumentInput } from './document';
import { SandboxStore } from './store';

let root: string;
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'kata-store-'));
});
afterEach(() => {
  rmSync(root, { recursive: true, force: true });
});

const INPUT: DocumentInput = {
  id: 's1', state: 'running', hypervisorType: 'qemu', agentUrl: 'vsock://3:1024', netns: '/n', sandboxCgroup: '/a', overheadCgroup: '/b',
  own: {
    shim: { pid: 5, startTime: '77' },
    vm: { type: 'qemu', id: 's1', directory: '/run/vc/vm/s1', agentUrl: 'vsock://3:1024', processes: [{ name: 'qemu', pid: 9, startTime: '78' }] },
    cgroups: ['/sys/fs/cgroup/x'],
    containers: { c1: { bundle: '/b', rootfs: '/b/rootfs', state: 'stopped', exit: { status: 3, at: '2026-01-01T00:00:00.000Z' } } },
    freed: false,
  },
};

test('what is saved is loaded', () => {
  const store = new SandboxStore(root, 's1');
  assert.equal(store.create(), true);
  assert.equal(store.create(), false);
  assert.equal(store.load(), undefined);
  store.save(INPUT);
  assert.deepEqual(store.load(), { version: 1, ...INPUT.own });
  store.remove();
  assert.equal(store.load(), undefined);
});

for (const [what, text] of [['cut off', '{"KataTs":{"ver'], ['of upstream', '{"PersistVersion":2}'], ['a number', '7'], ['of another version', '{"KataTs":{"version":9,"shim":{"pid":1}}}']]) {
  test(`a document that is ${what} is DataLoss`, () => {
    const store = new SandboxStore(root, 's1');
    store.create();
    writeFileSync(join(store.folder, 'persist.json'), text ?? '');
    assert.throws(() => store.load(), { code: 'DataLoss' });
  });
}

test('wrong types inside are dropped, a pid of init or none is never taken', () => {
  const store = new SandboxStore(root, 's1');
  store.create();
  const own = { version: 1, shim: { pid: 5 }, cgroups: [1, '/x'], containers: { c: 4 }, vm: { type: 'qemu', processes: [{ pid: 1 }, { pid: -1 }, { pid: 'x' }, { pid: 7, name: 'q', startTime: '1' }] } };
  writeFileSync(join(store.folder, 'persist.json'), JSON.stringify({ KataTs: own }));
  const loaded = store.load();
  assert.deepEqual(loaded?.vm?.processes, [{ name: 'q', pid: 7, startTime: '1' }]);
  assert.deepEqual(loaded.cgroups, ['/x']);
});

test('an id that is a path is refused', () => {
  assert.throws(() => new SandboxStore(root, '../x'), { code: 'InvalidArgument' });
});
