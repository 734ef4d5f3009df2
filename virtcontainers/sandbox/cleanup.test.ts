import assert from 'node:assert/strict';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, test } from 'node:test';
import type { OwnState } from '../persist/document';
import { SandboxStore } from '../persist/store';
import { cleanupContainer } from './cleanup';
import { createSandbox } from './sandbox';
import { World } from './testing/world';
import type { CleanupRequest } from './types';

let world: World;
let store: SandboxStore;
beforeEach(() => {
  world = new World();
  store = new SandboxStore(world.deps.roots.state, 's1');
});
afterEach(() => {
  world.dispose();
});

const DEAD: OwnState['shim'] = { pid: process.pid, startTime: 'another' };

function leave(shim: OwnState['shim'] = DEAD): void {
  store.create();
  mkdirSync(join(world.root, 'share/s1/mounts/c1/rootfs'), { recursive: true });
  mkdirSync(join(world.root, 'vm/s1'), { recursive: true });
  const cgroups = [join(world.root, 'cgroup/x'), '/etc'];
  mkdirSync(cgroups[0] ?? '', { recursive: true });
  store.save({
    id: 's1', state: 'running', hypervisorType: 'mock', agentUrl: '', netns: '', sandboxCgroup: '', overheadCgroup: '',
    own: {
      shim, cgroups, freed: false,
      vm: { type: 'mock', id: 's1', directory: join(world.root, 'vm/s1'), agentUrl: '', processes: [] },
      containers: {
        c1: { bundle: world.bundle('c1'), rootfs: join(world.bundle('c1'), 'rootfs'), state: 'running' },
        c2: { bundle: world.bundle('c2'), rootfs: '', state: 'stopped', exit: { status: 3, at: '2026-01-02T03:04:05.000Z' } },
      },
    },
  });
}

const request = (containerId: string): CleanupRequest => ({ sandboxId: 's1', containerId, bundle: world.bundle(containerId), logger: world.logger });

test('a dead owner: the sandbox is freed once, each container gets its exit, then nothing is left', async () => {
  leave();
  assert.deepEqual(await cleanupContainer(request('c1'), world.deps), { pid: 0, exit: undefined });
  assert.equal(world.driver.cleaned.length, 1);
  assert.equal(existsSync(join(world.root, 'share/s1')), false);
  assert.equal(existsSync(join(world.root, 'cgroup/x')), false);
  assert.deepEqual((await cleanupContainer(request('c2'), world.deps)).exit, { status: 3, at: new Date('2026-01-02T03:04:05.000Z') });
  assert.equal(world.driver.cleaned.length, 1);
  assert.deepEqual(world.leftovers(), []);
  assert.deepEqual(await cleanupContainer(request('c2'), world.deps), { pid: 0, exit: undefined });
});

test('a live owner: its sandbox is not touched', async () => {
  const stat = readFileSync('/proc/self/stat', 'latin1');
  leave({ pid: process.pid, startTime: stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19] ?? '' });
  const before = world.leftovers();
  await cleanupContainer(request('c1'), world.deps);
  assert.deepEqual(world.leftovers(), before);
  assert.equal(world.driver.cleaned.length, 0);
});

test('a state that is broken: the well-known folders are freed all the same', async () => {
  leave();
  writeFileSync(join(store.folder, 'persist.json'), '{"KataTs');
  await cleanupContainer(request('c1'), world.deps);
  assert.equal(existsSync(store.folder), false);
  assert.equal(existsSync(join(world.root, 'share/s1')), false);
  assert.ok(world.log.some((line) => line.includes('state not readable')));
});

test('a driver that fails does not stop the rest', async () => {
  leave();
  const deps = { ...world.deps, driverFor: () => Promise.reject(new Error('no driver')) };
  await cleanupContainer(request('c1'), deps);
  assert.equal(existsSync(join(world.root, 'share/s1')), false);
});

test('ids that are paths are refused', async () => {
  await assert.rejects(cleanupContainer({ ...request('c1'), sandboxId: '../x' }, world.deps), { code: 'InvalidArgument' });
  await assert.rejects(cleanupContainer({ ...request('c1'), containerId: 'a/b' }, world.deps), { code: 'InvalidArgument' });
});

test('a new sandbox clears a dead one of the same id away', async () => {
  store = new SandboxStore(world.deps.roots.state, 'one');
  leave();
  const sandbox = await createSandbox(world.request(), world.deps);
  assert.equal(world.driver.cleaned.length, 1);
  await sandbox.stop();
});
