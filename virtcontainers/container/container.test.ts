import assert from 'node:assert/strict';
import { afterEach, beforeEach, test } from 'node:test';
import { KataError } from '../../base/errors';
import { createSandbox } from '../sandbox/sandbox';
import { FakeIo, World } from '../sandbox/testing/world';
import type { Sandbox } from '../sandbox/types';
import { mergeResources } from './resources';
import type { Container } from './types';

let world: World;
let sandbox: Sandbox;
let container: Container;
beforeEach(async () => {
  world = new World();
  sandbox = await createSandbox(world.request(), world.deps);
  container = await sandbox.createContainer(world.container('c1'));
});
afterEach(async () => {
  await sandbox.stop();
  assert.deepEqual(world.leftovers(), []);
  world.dispose();
});

for (const signal of [9, 15]) {
  test(`a created container dies of signal ${signal} with 128 + its number`, async () => {
    await container.kill(0, false);
    await container.kill(signal, false);
    assert.equal((await container.init.exited).status, 128 + signal);
    assert.equal(container.state, 'stopped');
    assert.ok(world.agent.calls.includes('removeContainer'));
    await assert.rejects(container.kill(9, false), /process already finished/);
    await sandbox.deleteContainer('c1');
  });
}

test('start once, kill all, end', async () => {
  await container.start();
  await assert.rejects(container.start(), { code: 'FailedPrecondition' });
  await container.kill(9, true);
  assert.equal((await container.init.exited).status, 137);
});

test('a kill waits for a start that is under way', async () => {
  const starting = container.start();
  await container.kill(9, true);
  await starting;
  assert.equal((await container.init.exited).status, 137);
});

test('pause and resume only where they make sense', async () => {
  await assert.rejects(container.pause(), { code: 'FailedPrecondition' });
  await container.start();
  await container.pause();
  assert.equal(container.state, 'paused');
  assert.throws(() => container.addExec('e1', { args: ['sh'] }, false, new FakeIo()), { code: 'FailedPrecondition' });
  await container.resume();
  assert.equal(container.state, 'running');
});

test('execs: registered, started, forgotten; ids are checked', async () => {
  assert.throws(() => container.addExec('e1', { args: ['sh'] }, false, new FakeIo()), { code: 'FailedPrecondition' });
  await container.start();
  const exec = container.addExec('e1', { args: ['sh'] }, false, new FakeIo());
  assert.throws(() => container.addExec('e1', { args: ['sh'] }, false, new FakeIo()), { code: 'AlreadyExists' });
  assert.throws(() => container.addExec('../x', { args: ['sh'] }, false, new FakeIo()), { code: 'InvalidArgument' });
  await exec.start();
  world.agent.exit(exec.ref.execId, 4);
  assert.equal((await exec.exited).status, 4);
  await container.removeExec('e1');
  await assert.rejects(container.removeExec('e1'), { code: 'NotFound' });
});

test('an exec that runs is killed when it is removed', async () => {
  await container.start();
  const exec = container.addExec('e1', { args: ['sh'] }, false, new FakeIo());
  await exec.start();
  await container.removeExec('e1');
  assert.equal((await exec.exited).status, 137);
});

test('the end of an exec is known before the end of init', async () => {
  await container.start();
  const exec = container.addExec('e1', { args: ['sh'] }, false, new FakeIo());
  await exec.start();
  const order: string[] = [];
  void exec.exited.then(() => order.push('exec'));
  void container.init.exited.then(() => order.push('init'));
  world.agent.exit('c1', 0);
  world.agent.exit(exec.ref.execId, 137);
  await container.init.exited;
  assert.deepEqual(order, ['exec', 'init']);
});

test('an exec that was registered before init ended cannot start', async () => {
  await container.start();
  const exec = container.addExec('e1', { args: ['sh'] }, false, new FakeIo());
  world.agent.exit('c1', 0);
  await container.init.exited;
  await assert.rejects(exec.start(), { code: 'FailedPrecondition' });
  await assert.rejects(container.stats(), { code: 'NotFound' });
});

test('a failed update changes nothing', async () => {
  world.agent.faults.set('updateContainer', new KataError('InvalidArgument', 'no'));
  await container.start();
  await assert.rejects(container.update({ memory: { limit: 1 } }), /no/);
  world.agent.faults.clear();
  await container.update({ memory: { limit: 1 } });
});

test('resources merge field by field', () => {
  assert.deepEqual(mergeResources({ cpu: { shares: 2, quota: 5 }, memory: { limit: 1 } }, { cpu: { quota: 9 } }), { cpu: { shares: 2, quota: 9 }, memory: { limit: 1 } });
});
