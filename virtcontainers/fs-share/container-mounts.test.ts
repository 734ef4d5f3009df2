import assert from 'node:assert/strict';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, test } from 'node:test';
import type { OciMount } from '../../base/oci-spec';
import { UndoStack } from '../../base/undo';
import { World } from '../sandbox/testing/world';
import { planMounts, type MountContext, type PlannedMounts } from './container-mounts';
import { sharePaths } from './paths';
import { FsShare } from './share';

let world: World;
beforeEach(() => {
  world = new World();
});
afterEach(() => {
  world.dispose();
});

function plan(mounts: OciMount[], over: Partial<MountContext> & { enabled?: boolean } = {}): PlannedMounts {
  const share = new FsShare(sharePaths(join(world.root, 'share'), 's1'), over.enabled ?? true, world.mounts);
  const context = { containerId: 'c1', sandboxId: 's1', share, shmSizeBytes: 65536, disableGuestEmptyDir: false, blockCapable: true, ...over };
  return planMounts(new UndoStack(), context, { mounts });
}

const bind = (destination: string, source: string, ...options: string[]): OciMount => ({ destination, source, type: 'bind', options: ['rbind', ...options] });

test('what the guest has itself is left as it is', () => {
  const mounts = [
    { destination: '/proc', type: 'proc', source: 'proc' },
    { destination: '/tmp', type: 'tmpfs', source: 'tmpfs' },
    bind('/sys/x', '/sys/kernel'), bind('/p', '/proc/stat'), bind('/dev', '/dev'), bind('/dev/null', '/dev/null'),
  ];
  assert.deepEqual(plan(mounts).mounts, mounts);
});

test('/dev/shm becomes the sandbox one, or a tmpfs of its own', () => {
  assert.deepEqual(plan([{ destination: '/dev/shm', type: 'tmpfs', source: 'shm' }]).mounts, [
    { destination: '/dev/shm', type: 'bind', source: '/run/kata-containers/sandbox/shm', options: ['rbind'] },
  ]);
  assert.equal(plan([{ destination: '/dev/shm', type: 'tmpfs', source: 'shm' }], { shmSizeBytes: 0 }).mounts[0]?.type, 'tmpfs');
});

test('files are shared under a name of their own', () => {
  const file = join(world.root, 'hosts');
  writeFileSync(file, '');
  const [mount] = plan([bind('/etc/hosts', file, 'ro')]).mounts;
  assert.match(mount?.source ?? '', /^\/run\/kata-containers\/shared\/containers\/c1-[0-9a-f]{16}-hosts$/);
  assert.deepEqual(mount?.options, ['rbind', 'ro']);
});

test('a source that is not there is an error that names it', () => {
  assert.throws(() => plan([bind('/x', '/no/such/file')]), /mount \/no\/such\/file on \/x in container "c1": no such file or directory/);
});

test('without a share files are copied and what cannot be is dropped', () => {
  const file = join(world.root, 'conf');
  writeFileSync(file, '');
  const planned = plan([bind('/conf', file)], { enabled: false });
  assert.equal(planned.copies[0]?.hostPath, file);
  assert.equal(planned.mounts[0]?.source, planned.copies[0].guestPath);
});

test('Kubernetes volumes: emptyDir in the guest, small config maps watched', () => {
  const empty = join(world.root, 'kubernetes.io~empty-dir', 'cache');
  const config = join(world.root, 'kubernetes.io~configmap', 'conf');
  mkdirSync(empty, { recursive: true });
  mkdirSync(config, { recursive: true });
  writeFileSync(join(config, 'a'), '');
  const planned = plan([bind('/cache', empty), bind('/conf', config, 'ro')]);
  assert.match(planned.storages.map(({ driver }) => driver).join(), /^(local|ephemeral),watchable-bind$/);
  assert.match(planned.mounts[1]?.source ?? '', /containers\/watchable\/c1-/);
  for (let i = 0; i < 9; i++) {
    writeFileSync(join(config, String(i)), '');
  }
  assert.equal(plan([bind('/conf', config, 'ro')]).storages.length, 0);
});
