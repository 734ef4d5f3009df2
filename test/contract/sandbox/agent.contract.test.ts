/** Sandboxes over the mock hypervisor: the real agent as a host process, real crun, real mounts. Needs root, crun and build/agent.cjs. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { copyFileSync, existsSync, mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, test } from 'node:test';
import { connectAgent } from '../../../agent-client/connect';
import type { OciSpec } from '../../../base/oci-spec';
import { unmount } from '../../../base/syscalls';
import { mockDriver } from '../../../virtcontainers/hypervisor/mock/driver';
import { HOST_MOUNTS, mountPointsBelow } from '../../../virtcontainers/fs-share/mounts';
import type { GuestStreams } from '../../../virtcontainers/process/types';
import type { SandboxDeps } from '../../../virtcontainers/sandbox/deps';
import { createSandbox } from '../../../virtcontainers/sandbox/sandbox';
import { FakeIo, World } from '../../../virtcontainers/sandbox/testing/world';
import type { ContainerRequest } from '../../../virtcontainers/container/types';
import type { Sandbox } from '../../../virtcontainers/sandbox/types';

const AGENT = join(__dirname, '../../../build/agent.cjs');
const BUSYBOX = '/bin/busybox';

function missing(): string | false {
  if (process.getuid?.() !== 0) {
    return 'needs root';
  }
  return [AGENT, BUSYBOX, '/usr/bin/crun'].find((path) => !existsSync(path)) ?? false;
}

/** Keeps what a process writes. */
class Capture extends FakeIo {
  text = '';

  override async copy(streams: GuestStreams): Promise<void> {
    const read = async (from: (max: number) => Promise<Uint8Array>): Promise<void> => {
      for (let data = await from(65536); data.length > 0; data = await from(65536)) {
        this.text += Buffer.from(data).toString();
      }
    };
    await streams.closeStdin().catch(() => undefined);
    await Promise.all([read((max) => streams.readStdout(max)), read((max) => streams.readStderr(max))]).catch(() => undefined);
  }
}

describe('sandbox over the real agent', { skip: missing(), timeout: 60_000 }, () => {
  let world: World;
  let deps: SandboxDeps;
  let image: string;
  beforeEach(() => {
    world = new World();
    deps = { ...world.deps, mounts: HOST_MOUNTS, driverFor: () => Promise.resolve(mockDriver), connectAgent };
    image = join(world.root, 'image');
    for (const folder of ['bin', 'proc', 'sys', 'dev', 'etc', 'tmp']) {
      mkdirSync(join(image, folder), { recursive: true });
    }
    copyFileSync(BUSYBOX, join(image, 'bin/busybox'));
    for (const name of ['sh', 'echo', 'sleep', 'cat', 'id', 'hostname']) {
      symlinkSync('busybox', join(image, 'bin', name));
    }
  });
  afterEach(() => {
    const left = mountPointsBelow(world.root);
    left.forEach((point) => unmount(point));
    const files = world.leftovers();
    world.dispose();
    assert.deepEqual(left, []);
    assert.deepEqual(files, []);
  });

  function container(id: string, args: string[], io = new Capture(), over: Partial<OciSpec> = {}): ContainerRequest {
    const upper = join(world.root, 'upper', id);
    const work = join(world.root, 'work', id);
    mkdirSync(upper, { recursive: true });
    mkdirSync(work, { recursive: true });
    const base = world.container(id, io, {
      ociVersion: '1.0.2',
      hostname: 'guest',
      process: { args, cwd: '/', env: ['PATH=/bin'], user: { uid: 0, gid: 0 } },
      mounts: [
        { destination: '/proc', type: 'proc', source: 'proc' },
        { destination: '/dev', type: 'tmpfs', source: 'tmpfs', options: ['mode=755'] },
        { destination: '/dev/shm', type: 'tmpfs', source: 'shm' },
        ...(over.mounts ?? []),
      ],
    });
    return { ...base, rootfs: [{ type: 'overlay', source: 'overlay', target: '', options: [`lowerdir=${image}`, `upperdir=${upper}`, `workdir=${work}`] }] };
  }

  const run = (first: ContainerRequest): Promise<Sandbox> => createSandbox(world.request({ container: first }), deps);

  test('a container runs, its output and status arrive', async () => {
    const io = new Capture();
    const conf = join(world.root, 'conf');
    writeFileSync(conf, 'shared');
    const spec = { mounts: [{ destination: '/etc/conf', type: 'bind', source: conf, options: ['rbind', 'ro'] }] };
    const sandbox = await run(container('one', ['sh', '-c', 'cat /etc/conf; hostname; exit 5'], io, spec));
    const one = sandbox.containers.get('one');
    await one?.start();
    assert.equal((await one?.init.exited)?.status, 5);
    assert.equal(io.text, 'sharedguest\n');
    await sandbox.deleteContainer('one');
    await sandbox.stop();
  });

  test('exec, a second container, signals, stats and pause', async () => {
    const sandbox = await run(container('one', ['sleep', '100']));
    const one = sandbox.containers.get('one');
    await one?.start();
    const io = new Capture();
    const exec = one?.addExec('e1', { args: ['echo', 'hi'], cwd: '/', env: ['PATH=/bin'] }, false, io);
    await exec?.start();
    assert.equal((await exec?.exited)?.status, 0);
    assert.equal(io.text, 'hi\n');
    const second = await sandbox.createContainer(container('two', ['sleep', '100']));
    await second.start();
    assert.ok(((await second.stats()).pids.current) >= 1n);
    await second.pause();
    await second.resume();
    await second.kill(9, true);
    assert.equal((await second.init.exited).status, 137);
    await sandbox.deleteContainer('two');
    assert.equal(one?.state, 'running');
    await sandbox.stop();
    assert.equal((await one.init.exited).status, 137);
  });

  test('a missing program fails the create or the start with the usual words', async () => {
    const attempt = async (): Promise<void> => {
      const sandbox = await run(container('one', ['/no/such/program']));
      try {
        await sandbox.containers.get('one')?.start();
      } finally {
        await sandbox.stop();
      }
    };
    await assert.rejects(attempt(), /not found|no such file/i);
  });

  test('the agent is killed: the process ends with 255 and all is freed', async () => {
    const sandbox = await run(container('one', ['sleep', '100']));
    const one = sandbox.containers.get('one');
    await one?.start();
    process.kill(sandbox.pid, 'SIGKILL');
    assert.equal((await one?.init.exited)?.status, 255);
    assert.match((await sandbox.ended).report, /signal SIGKILL|connection/);
    await sandbox.stop();
    assert.equal(execFileSync('ps', ['ax', '-o', 'args']).toString().includes(world.root), false);
  });
});
