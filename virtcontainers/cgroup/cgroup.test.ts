import assert from 'node:assert/strict';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, test } from 'node:test';
import { SandboxCgroups, sandboxCgroupPath } from './cgroup';

let root: string;
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'kata-cgroup-'));
});
afterEach(() => {
  rmSync(root, { recursive: true, force: true });
});

test('the path gets the prefix kata_ on its last part', () => {
  assert.equal(sandboxCgroupPath('/kubepods/pod1/abc', 's1'), '/kubepods/pod1/kata_abc');
  assert.equal(sandboxCgroupPath('', 's1'), '/vc/kata_s1');
  assert.equal(sandboxCgroupPath('abc', 's1'), '/vc/kata_abc');
  assert.equal(sandboxCgroupPath('system.slice:docker:abc', 's1'), '/system.slice/kata_docker-abc');
});

test('v2: sandbox and overhead; the VMM goes to the overhead group', async () => {
  writeFileSync(join(root, 'cgroup.controllers'), 'cpu memory\n');
  const groups = SandboxCgroups.create(root, 's1', '/default/s1', false);
  assert.equal(groups.addVmm([42]), undefined);
  assert.equal(readFileSync(join(root, 'kata_overhead/s1/cgroup.procs'), 'utf8'), '42');
  assert.equal(groups.addVcpus([43]), undefined);
  assert.equal(existsSync(join(root, 'default/kata_s1/tasks')), false);
  rmSync(join(root, 'kata_overhead/s1/cgroup.procs'));
  await groups.remove();
  assert.deepEqual(readdirSync(root), ['cgroup.controllers']);
});

test('v1: one group per controller, cpuset filled from the parent, one group only', async () => {
  mkdirSync(join(root, 'memory'));
  mkdirSync(join(root, 'cpuset'));
  const groups = SandboxCgroups.create(root, 's1', '/default/s1', true);
  assert.equal(groups.overheadPath, '');
  assert.deepEqual(groups.folders.map((folder) => folder.slice(root.length)), ['/cpuset/default', '/cpuset/default/kata_s1', '/memory/default', '/memory/default/kata_s1']);
  groups.addVmm([7]);
  assert.equal(readFileSync(join(root, 'memory/default/kata_s1/cgroup.procs'), 'utf8'), '7');
  rmSync(join(root, 'memory/default/kata_s1/cgroup.procs'));
  rmSync(join(root, 'cpuset/default/kata_s1/cgroup.procs'));
  await groups.remove();
  await groups.remove();
  assert.deepEqual(readdirSync(join(root, 'memory')), []);
});

test('a path that leaves the hierarchy is refused', () => {
  mkdirSync(join(root, 'memory'));
  assert.throws(() => SandboxCgroups.create(root, 's1', '../..:a:b', false), { code: 'InvalidArgument' });
  assert.equal(sandboxCgroupPath('/../../etc/x', 's1'), '/etc/kata_x');
});

test('a group that a dead sandbox of the same name left is taken over and removed', async () => {
  mkdirSync(join(root, 'memory/kata_overhead/s1'), { recursive: true });
  const groups = SandboxCgroups.create(root, 's1', '/s1', false);
  await groups.remove();
  assert.deepEqual(readdirSync(join(root, 'memory')), []);
});
