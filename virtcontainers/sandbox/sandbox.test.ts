import assert from 'node:assert/strict';
import { mkdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, test } from 'node:test';
import { describeError, KataError } from '../../base/errors';
import { createSandbox } from './sandbox';
import { FakeIo, World } from './testing/world';

let world: World;
beforeEach(() => {
  world = new World();
});
afterEach(() => {
  world.dispose();
});

describe('createSandbox', () => {
  test('asks the agent in upstream order and shares the root file system', async () => {
    const sandbox = await createSandbox(world.request(), world.deps);
    assert.deepEqual(
      world.agent.calls.filter((name) => name !== 'getOomEvent'),
      ['check', 'setGuestDateTime', 'createSandbox', 'getGuestDetails', 'createContainer'],
    );
    assert.equal(world.agent.containers[0]?.spec.root?.path, '/run/kata-containers/shared/containers/one/rootfs');
    assert.equal(sandbox.state, 'ready');
    assert.equal(sandbox.vmSource, 'direct');
    await sandbox.stop();
  });

  test('names every phase', async () => {
    const sandbox = await createSandbox(world.request(), world.deps);
    const names = sandbox.phases.map(({ name }) => name);
    for (const name of ['state', 'netns', 'rootfs', 'vm-launch', 'vm-boot', 'agent-connect', 'create-sandbox', 'create-container']) {
      assert.ok(names.includes(name), name);
    }
    await sandbox.stop();
  });

  test('stop leaves nothing behind and can be called twice', async () => {
    const sandbox = await createSandbox(world.request(), world.deps);
    await sandbox.containers.get('one')?.start();
    await Promise.all([sandbox.stop(), sandbox.stop()]);
    assert.deepEqual(world.leftovers(), []);
    assert.deepEqual(await sandbox.ended, { kind: 'stopped', report: '' });
    assert.equal(sandbox.state, 'stopped');
  });

  test('the state is on disk, private, and follows the containers', async () => {
    const sandbox = await createSandbox(world.request(), world.deps);
    const folder = join(world.root, 'sbs', 'one');
    assert.equal(statSync(folder).mode & 0o777, 0o700);
    assert.equal(statSync(join(folder, 'persist.json')).mode & 0o777, 0o600);
    const container = sandbox.containers.get('one');
    await container?.start();
    world.agent.exit('one', 3);
    await container?.init.exited;
    const document = JSON.parse(readFileSync(join(folder, 'persist.json'), 'utf8')) as { KataTs: { containers: { one: { exit: { status: number } } } } };
    assert.equal(document.KataTs.containers.one.exit.status, 3);
    await sandbox.stop();
  });

  test('without a network namespace the host network is refused', async () => {
    const request = world.request({ container: world.container('one', new FakeIo(), { linux: { namespaces: [] } }) });
    await assert.rejects(createSandbox(request, world.deps), /host networking is not supported/);
    assert.deepEqual(world.leftovers(), []);
  });

  test('a live sandbox of the same id is left alone', async () => {
    const sandbox = await createSandbox(world.request(), world.deps);
    await assert.rejects(createSandbox(world.request(), world.deps), { code: 'AlreadyExists' });
    assert.equal(sandbox.state, 'ready');
    await sandbox.stop();
    assert.deepEqual(world.leftovers(), []);
  });
});

describe('a create that fails leaves nothing and says why', () => {
  for (const call of ['check', 'setGuestDateTime', 'createSandbox', 'getGuestDetails', 'createContainer']) {
    test(`the VM dies in ${call}`, async () => {
      world.agent.faults.set(call, 'hang');
      world.agent.onCall = (name) => {
        if (name === call) {
          world.vm.die();
        }
      };
      await assert.rejects(createSandbox(world.request(), world.deps), (error: unknown) => {
        assert.match(describeError(error), /ended with signal SIGKILL[\s\S]*fake: bad luck[\s\S]*Kernel panic/);
        return true;
      });
      assert.deepEqual(world.leftovers(), []);
    });

    test(`the connection ends in ${call} a moment before the end of the VM is known: the report tells that end`, async () => {
      world.agent.faults.set(call, new KataError('Unavailable', 'connection to the agent ended: write EPIPE'));
      world.agent.onCall = (name) => {
        if (name === call) {
          setImmediate(() => { world.vm.die(); });
        }
      };
      await assert.rejects(createSandbox(world.request(), world.deps), /the virtual machine ended[^]*fake-vmm.*ended with signal SIGKILL/);
      assert.deepEqual(world.leftovers(), []);
    });

    test(`the agent refuses ${call}`, async () => {
      world.agent.faults.set(call, new KataError('Internal', 'no way'));
      await assert.rejects(createSandbox(world.request(), world.deps), /no way/);
      assert.equal(world.vm.stops > 0, true);
      assert.deepEqual(world.leftovers(), []);
    });

    test(`the caller cancels in ${call}`, async () => {
      const controller = new AbortController();
      world.agent.faults.set(call, 'hang');
      world.agent.onCall = (name) => {
        if (name === call) {
          controller.abort();
        }
      };
      await assert.rejects(createSandbox(world.request({ signal: controller.signal }), world.deps), { code: 'Canceled' });
      assert.deepEqual(world.leftovers(), []);
    });
  }

  test('the VM dies while it boots', async () => {
    world.dispose();
    world = new World((vm) => {
      vm.hang = true;
      vm.die();
    });
    await assert.rejects(createSandbox(world.request(), world.deps), /SIGKILL/);
    assert.deepEqual(world.leftovers(), []);
  });

  test('the agent cannot be reached', async () => {
    const deps = { ...world.deps, connectAgent: () => Promise.reject(new KataError('DeadlineExceeded', 'no connection within 1000 ms')) };
    await assert.rejects(createSandbox(world.request(), deps), (error: unknown) => {
      assert.match(describeError(error), /waited [0-9.]+ s for unix:\/\/\/fake \(configuration key dial_timeout\)/);
      return true;
    });
    assert.deepEqual(world.leftovers(), []);
  });

  test('the root file system cannot be mounted: its reason, not the abort of the boot', async () => {
    world.dispose();
    world = new World((vm) => {
      vm.hang = true;
    });
    world.mounts.fault = new KataError('NotFound', 'ENOENT: no layer');
    await assert.rejects(createSandbox(world.request(), world.deps), /root file system overlay.*/);
    assert.deepEqual(world.leftovers(), []);
  });

  test('the state folder cannot be made', async () => {
    writeFileSync(join(world.root, 'sbs'), '');
    await assert.rejects(createSandbox(world.request(), world.deps), /state folder/);
  });
});

describe('a sandbox that lives', () => {
  test('the VM dies: processes end at once with 255, the report tells it, stop frees all', async () => {
    const sandbox = await createSandbox(world.request(), world.deps);
    const container = sandbox.containers.get('one');
    await container?.start();
    const exec = container?.addExec('e1', { args: ['sh'] }, false, new FakeIo());
    await exec?.start();
    world.vm.die();
    assert.equal((await container?.init.exited)?.status, 255);
    assert.equal((await exec?.exited)?.status, 255);
    const end = await sandbox.ended;
    assert.equal(end.kind, 'failed');
    assert.match(end.report, /sandbox "one" failed \(run\)/);
    assert.equal(sandbox.state, 'invalid');
    await sandbox.stop();
    assert.deepEqual(world.leftovers(), []);
  });

  test('the agent goes away: the same, and the VM is taken down', async () => {
    const sandbox = await createSandbox(world.request(), world.deps);
    await sandbox.containers.get('one')?.start();
    world.agent.markDead(new KataError('Unavailable', 'connection reset'));
    assert.equal((await sandbox.ended).kind, 'failed');
    assert.equal(world.vm.stops, 1);
    assert.equal((await sandbox.containers.get('one')?.init.exited)?.status, 255);
    await sandbox.stop();
  });

  test('the VM dies and the sandbox is stopped as soon as a process has ended by it: the report is made all the same', async () => {
    const sandbox = await createSandbox(world.request(), world.deps);
    const container = sandbox.containers.get('one');
    await container?.start();
    world.agent.markDead(new KataError('Unavailable', 'connection reset'));
    setTimeout(() => { world.vm.die(); }, 20);
    assert.equal((await container?.init.exited)?.status, 255);
    const stopped = sandbox.stop();
    const end = await sandbox.ended;
    assert.equal(end.kind, 'failed');
    assert.match(end.report, /cause: the virtual machine ended \(signal SIGKILL\)\n.*\n.*\n.*bad luck\n[^]*Kernel panic/);
    await stopped;
    assert.deepEqual(world.leftovers(), []);
  });

  test('a second container comes and goes', async () => {
    const sandbox = await createSandbox(world.request(), world.deps);
    const second = await sandbox.createContainer(world.container('two'));
    await assert.rejects(sandbox.createContainer(world.container('two')), { code: 'AlreadyExists' });
    await second.start();
    await assert.rejects(sandbox.deleteContainer('two'), { code: 'FailedPrecondition' });
    world.agent.exit('two', 0);
    await second.init.exited;
    await sandbox.deleteContainer('two');
    await assert.rejects(sandbox.deleteContainer('two'), { code: 'NotFound' });
    assert.equal(world.mounts.points.some((point) => point.includes('two')), false);
    await sandbox.stop();
    assert.deepEqual(world.leftovers(), []);
  });

  test('a container that the guest refuses leaves the others and nothing of itself', async () => {
    const sandbox = await createSandbox(world.request(), world.deps);
    const before = world.leftovers();
    world.agent.faults.set('createContainer', new KataError('NotFound', 'exec: "nope": executable file not found in $PATH'));
    await assert.rejects(sandbox.createContainer(world.container('two')), /executable file not found/);
    assert.deepEqual(world.leftovers(), before);
    assert.deepEqual([...sandbox.containers.keys()], ['one']);
    await sandbox.stop();
  });

  test('stop while a container is being created: the create fails, nothing is left', async () => {
    const sandbox = await createSandbox(world.request(), world.deps);
    world.agent.faults.set('createContainer', 'hang');
    const creating = sandbox.createContainer(world.container('two'));
    const failed = assert.rejects(creating, { code: 'Unavailable' });
    await sandbox.stop();
    assert.deepEqual(world.leftovers(), []);
    await failed;
    await assert.rejects(sandbox.createContainer(world.container('three')), { code: 'FailedPrecondition' });
  });

  test('a guest that answers nothing any more does not hold the stop for long', async () => {
    const sandbox = await createSandbox(world.request(), world.deps);
    await sandbox.containers.get('one')?.start();
    for (const name of ['signalProcess 9', 'removeContainer', 'destroySandbox']) {
      world.agent.faults.set(name, 'hang');
    }
    const from = performance.now();
    await sandbox.stop();
    assert.ok(performance.now() - from < 6000);
    assert.deepEqual(world.leftovers(), []);
  });

  test('the out-of-memory event comes before the end of the process', async () => {
    const order: string[] = [];
    const sandbox = await createSandbox(world.request({ observer: { onOom: (id) => order.push(`oom ${id}`) } }), world.deps);
    const container = sandbox.containers.get('one');
    await container?.start();
    world.agent.exit('one', 137);
    setTimeout(() => {
      world.agent.reportOom('one');
    }, 20);
    await container?.init.exited.then((exit) => order.push(`exit ${exit.status}`));
    assert.deepEqual(order, ['oom one', 'exit 137']);
    await sandbox.stop();
  });

  test('without sharing the root file system is copied', async () => {
    const base = world.request();
    const request = { ...base, config: { ...base.config, hypervisor: { ...base.config.hypervisor, sharedFs: 'none' as const } } };
    mkdirSync(join(world.root, 'bundles/one/rootfs/bin'), { recursive: true });
    const sandbox = await createSandbox(request, world.deps);
    assert.ok(world.agent.calls.some((name) => name.endsWith('rootfs/bin')));
    await sandbox.stop();
    assert.deepEqual(world.leftovers(), []);
  });
});
