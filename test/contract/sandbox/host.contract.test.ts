/** The host's side of sandboxes with real mounts, cgroups and a full disk. Needs root. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { describeError } from '../../../base/errors';
import { mount, unmount } from '../../../base/syscalls';
import { UndoStack } from '../../../base/undo';
import { SandboxCgroups } from '../../../virtcontainers/cgroup/cgroup';
import { HOST_MOUNTS, mountPointsBelow } from '../../../virtcontainers/fs-share/mounts';
import { sharePaths } from '../../../virtcontainers/fs-share/paths';
import { FsShare } from '../../../virtcontainers/fs-share/share';
import { runHooks } from '../../../virtcontainers/network/hooks';
import { cleanupContainer } from '../../../virtcontainers/sandbox/cleanup';
import { createSandbox } from '../../../virtcontainers/sandbox/sandbox';
import { World } from '../../../virtcontainers/sandbox/testing/world';

const skip = process.getuid?.() === 0 ? false : 'needs root for mounts';

describe('host side with real mounts', { skip }, () => {
  let root: string;
  before(() => {
    root = mkdtempSync(join(tmpdir(), 'kata-host-'));
  });
  after(() => {
    for (const point of mountPointsBelow(root)) {
      unmount(point);
    }
    rmSync(root, { recursive: true, force: true });
  });

  function share(id: string): { share: FsShare; undo: UndoStack } {
    const undo = new UndoStack();
    const made = new FsShare(sharePaths(join(root, 'share'), id), true, HOST_MOUNTS);
    made.prepare(undo, []);
    return { share: made, undo };
  }

  test('what is shared later shows in the exported folder, read-only where asked', async () => {
    const { share: one, undo } = share('one');
    const rootfs = join(root, 'rootfs');
    mkdirSync(rootfs, { recursive: true });
    writeFileSync(join(rootfs, 'file'), 'x');
    one.shareRootfs(undo, 'c1', rootfs);
    const exported = join(one.paths.shared, 'c1/rootfs');
    assert.equal(readFileSync(join(exported, 'file'), 'utf8'), 'x');
    writeFileSync(join(exported, 'file'), 'y');
    const conf = join(root, 'conf');
    writeFileSync(conf, 'secret');
    const file = one.shareFile(undo, 'c1', conf, '/etc/conf', true);
    const name = file?.guestPath.split('/').pop() ?? '';
    assert.equal(readFileSync(join(one.paths.shared, name), 'utf8'), 'secret');
    assert.throws(() => {
      writeFileSync(join(one.paths.shared, name), 'no');
    }, /EROFS/);
    assert.throws(() => {
      writeFileSync(join(one.paths.shared, 'new'), 'no');
    }, /EROFS/);
    assert.deepEqual(await undo.unwind(), []);
    assert.deepEqual(mountPointsBelow(join(root, 'share')), []);
    assert.equal(existsSync(one.paths.root), false);
    assert.equal(readFileSync(join(rootfs, 'file'), 'utf8'), 'y');
  });

  test('the guest finds the folder for a root file system of its own in the share, which it cannot write', () => {
    const { share: one, undo } = share('block');
    assert.equal(one.placeForRootfs(undo, 'c1'), '/run/kata-containers/shared/containers/c1');
    const place = join(one.paths.shared, 'c1');
    assert.ok(existsSync(place));
    return undo.unwind().then(() => {
      assert.equal(existsSync(place), false);
    });
  });

  test('an overlay of 120 layers is mounted', () => {
    const layers = Array.from({ length: 120 }, (_, index) => join(root, 'snapshots-with-a-long-name-as-containerd-has-them', String(index), 'fs'));
    layers.forEach((layer) => mkdirSync(layer, { recursive: true }));
    writeFileSync(join(layers[119] ?? '', 'deep'), 'x');
    const target = join(root, 'overlay');
    mkdirSync(target);
    const cwd = process.cwd();
    HOST_MOUNTS.mount('overlay', 'overlay', target, [`lowerdir=${layers.join(':')}`]);
    assert.equal(existsSync(join(target, 'deep')), true);
    assert.equal(process.cwd(), cwd);
    HOST_MOUNTS.unmountAll(target);
    assert.equal(existsSync(join(target, 'deep')), false);
  });

  test('a stack of mounts is taken off, and a path that is none is fine', () => {
    const target = join(root, 'stack');
    mkdirSync(target);
    for (let i = 0; i < 3; i++) {
      HOST_MOUNTS.mount('tmpfs', 'tmpfs', target, ['size=64k', 'nosuid']);
    }
    HOST_MOUNTS.unmountAll(target);
    HOST_MOUNTS.unmountAll(join(root, 'nowhere'));
    assert.deepEqual(mountPointsBelow(target), []);
  });

  test('a whole sandbox leaves no mount, also when it is cleaned up from disk', async () => {
    const world = new World();
    const layer = join(world.root, 'layer');
    mkdirSync(layer);
    const container = world.container('one');
    const request = world.request({ container: { ...container, rootfs: [{ type: 'bind', source: layer, target: '', options: ['rbind', 'rw'] }] } });
    const deps = { ...world.deps, mounts: HOST_MOUNTS };
    const sandbox = await createSandbox(request, deps);
    assert.equal(mountPointsBelow(world.root).length >= 4, true);
    await sandbox.stop();
    assert.deepEqual(mountPointsBelow(world.root), []);
    assert.deepEqual(world.leftovers(), []);

    const orphan = await createSandbox(request, deps);
    const container1 = orphan.containers.get('one');
    await container1?.start();
    world.agent.exit('one', 7);
    await container1?.init.exited;
    const file = join(world.root, 'sbs/one/persist.json');
    const cleanup = { sandboxId: 'one', containerId: 'one', bundle: container.bundle, logger: world.logger };
    // The owner lives: nothing but the container's own root file system is touched.
    assert.equal((await cleanupContainer({ ...cleanup, containerId: 'two', bundle: world.bundle('two') }, deps)).exit, undefined);
    assert.equal(mountPointsBelow(world.root).length >= 4, true);
    // The owner is dead, as far as the disk tells.
    writeFileSync(file, readFileSync(file, 'utf8').replace(/"shim":\{"pid":\d+,"startTime":"\d+"/, '"shim":{"pid":1,"startTime":"1"'));
    const [first, ...others] = await Promise.all([1, 2, 3].map(() => cleanupContainer(cleanup, deps)));
    assert.equal([first, ...others].filter((result) => result?.exit?.status === 7).length, 1);
    assert.deepEqual(mountPointsBelow(world.root), []);
    assert.deepEqual(world.leftovers(), []);
    await orphan.stop();
    world.dispose();
  });

  test('the state folder on a full disk: the create fails with a clear error and nothing is left', async () => {
    const world = new World();
    const state = join(world.root, 'sbs');
    mkdirSync(state);
    mount('tmpfs', state, 'tmpfs', 0, 'size=16k');
    try {
      try {
        writeFileSync(join(state, 'ballast'), Buffer.alloc(64 * 1024));
      } catch {
        // Full now.
      }
      await assert.rejects(createSandbox(world.request(), world.deps), (error: unknown) => {
        assert.match(describeError(error), /persist\.json.*(ENOSPC|no space)|state folder.*ENOSPC/i);
        return true;
      });
      assert.equal(existsSync(join(state, 'one')), false);
      assert.deepEqual(world.mounts.points, []);
    } finally {
      unmount(state);
      world.dispose();
    }
  });

  test('hooks run in the network namespace of the VMM and their failure carries their words', async () => {
    const script = 'unshare -n sleep 20 >/dev/null 2>&1 & until [ "$(readlink /proc/$!/ns/net)" != "$(readlink /proc/self/ns/net)" ]; do sleep 0.01; done; echo $!';
    const pid = Number(execFileSync('sh', ['-c', script], { encoding: 'utf8', timeout: 10_000 }));
    try {
      const state = { id: 'one', status: 'running', pid, bundle: '/b', annotations: { k: 'v' } } as const;
      const out = join(root, 'hook');
      const hook = `cat > ${out}; readlink /proc/self/ns/net >> ${out}; echo "$A" >> ${out}`;
      await runHooks('poststart', [{ path: '/bin/sh', args: ['sh', '-c', hook], env: ['A=b=c', 'PATH=/usr/bin:/bin'] }], state, pid);
      const text = readFileSync(out, 'utf8');
      assert.match(text, /"annotations":\{"k":"v"\}/);
      assert.match(text, /b=c/);
      assert.equal(text.includes(execFileSync('readlink', [`/proc/${pid}/ns/net`], { encoding: 'utf8' }).trim()), true);
      await assert.rejects(runHooks('prestart', [{ path: '/bin/sh', args: ['sh', '-c', 'echo broken >&2; exit 3'] }], state), /prestart hook \/bin\/sh: exit code 3: broken/);
      await assert.rejects(runHooks('prestart', [{ path: '/bin/sleep', args: ['sleep', '9'], timeout: 0.1 }], state), /no end within 100 ms/);
    } finally {
      process.kill(pid, 'SIGKILL');
    }
  });

  test('cgroups are made, take a process, and go', async () => {
    const id = `t${process.pid}`;
    const groups = SandboxCgroups.create('/sys/fs/cgroup', id, `/kata-ts-test/${id}`, false);
    const child = Number(execFileSync('sh', ['-c', 'sleep 20 >/dev/null 2>&1 & echo $!'], { encoding: 'utf8' }));
    try {
      assert.equal(groups.addVmm([child]), undefined);
      assert.match(readFileSync(`/proc/${child}/cgroup`, 'utf8'), new RegExp(`/kata_overhead/${id}`));
    } finally {
      process.kill(child, 'SIGKILL');
    }
    const folders = [...groups.folders];
    await groups.remove();
    assert.deepEqual(folders.filter((folder) => existsSync(folder) && folder.includes(id)), []);
  });

  test('cleanup of an unknown container only unmounts its root file system', async () => {
    const world = new World();
    const bundle = world.bundle('x1');
    HOST_MOUNTS.mount('tmpfs', 'tmpfs', join(bundle, 'rootfs'), []);
    const result = await cleanupContainer({ sandboxId: 'x1', containerId: 'x1', bundle, logger: world.logger }, { ...world.deps, mounts: HOST_MOUNTS });
    assert.deepEqual(result, { pid: 0, exit: undefined });
    assert.deepEqual(mountPointsBelow(bundle), []);
    world.dispose();
  });
});
