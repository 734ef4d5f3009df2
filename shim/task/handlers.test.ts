import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { closeSync, constants, existsSync, openSync, readFileSync, readSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, test } from 'node:test';
import { codecFromTsProto } from 'ttrpc-ts';
import { defer } from '../../base/deadline';
import { KataError } from '../../base/errors';
import { Metrics } from '../../gen/containerd/cgroups/v2';
import { WaitRequest, WaitResponse } from '../../gen/containerd/task/v2';
import { Status } from '../../gen/containerd/types/process';
import { Options } from '../../gen/containerd/runtimeoptions/options';
import { PROCESS, TaskHarness, withCode } from '../testing/task-harness';
import { DeleteResponse } from '../../gen/containerd/task/v2';
import { RECEIPT } from './receipt';

let h: TaskHarness;

beforeEach(async () => {
  h = await new TaskHarness().listen();
});

afterEach(async () => {
  await h.close();
});

async function runningExec(execId: string): Promise<void> {
  await h.call('Exec', { id: 'box', execId, spec: PROCESS });
  await h.call('Start', { id: 'box', execId });
}

for (const service of ['containerd.task.v2.Task', 'containerd.task.v3.Task']) {
  test(`a task lives from create to delete over ${service}`, async () => {
    await h.create('box');
    assert.equal((await h.call('State', { id: 'box' }, service)).status, Status.CREATED);
    assert.deepEqual(await h.call('Start', { id: 'box' }, service), { pid: 4242 });
    assert.equal((await h.call('State', { id: 'box' }, service)).status, Status.RUNNING);
    const waiting = [h.call('Wait', { id: 'box' }, service), h.call('Wait', { id: 'box' }, service)];
    h.guest.process('box').exit(7);
    for (const exit of await Promise.all(waiting)) {
      assert.equal(exit.exitStatus, 7);
      assert.ok((exit.exitedAt?.seconds ?? 0n) > 1_600_000_000n);
    }
    assert.equal((await h.call('Wait', { id: 'box' }, service)).exitStatus, 7);
    const state = await h.call('State', { id: 'box' }, service);
    assert.deepEqual([state.status, state.exitStatus, state.pid], [Status.STOPPED, 7, 4242]);
    assert.equal((await h.call('Delete', { id: 'box' }, service)).exitStatus, 7);
    assert.deepEqual(h.told, ['create box', 'start box', 'exit box/box 7', 'delete box']);
    await assert.rejects(h.call('Delete', { id: 'box' }, service), withCode('NotFound'));
    await assert.rejects(h.call('Wait', { id: 'box' }, service), withCode('NotFound'));
  });
}

test('a process that ends while it starts is told as started first', async () => {
  await h.create('box');
  h.guest.process('box').exit(0);
  await h.call('Start', { id: 'box' });
  await h.call('Wait', { id: 'box' });
  await h.call('Delete', { id: 'box' });
  assert.deepEqual(h.told, ['create box', 'start box', 'exit box/box 0', 'delete box']);
});

test('a start that fails publishes no end, and keeps the words of the guest', async () => {
  await h.create('box');
  h.guest.startErrors.set('box', new KataError('NotFound', 'start container "box"', { cause: new Error('exec: "nope": executable file not found in $PATH') }));
  await assert.rejects(h.call('Start', { id: 'box' }), withCode('NotFound', /executable file not found/));
  assert.equal((await h.call('Wait', { id: 'box' })).exitStatus, 255);
  await h.call('Delete', { id: 'box' });
  assert.deepEqual(h.told, ['create box', 'delete box']);
});

test('a second create of a live id is refused and changes nothing', async () => {
  await h.create('box');
  await assert.rejects(h.call('Create', { id: 'box', bundle: join(h.folder, 'box') }), withCode('AlreadyExists'));
  assert.equal((await h.call('State', { id: 'box' })).status, Status.CREATED);
});

test('a create that fails leaves an id that can be created again', async () => {
  h.createError = new KataError('Unavailable', 'boot: no VM today');
  await assert.rejects(h.create('box'), withCode('Unavailable', /no VM today/));
  await assert.rejects(h.call('State', { id: 'box' }), withCode('NotFound'));
  await assert.rejects(h.call('Delete', { id: 'box' }), withCode('NotFound'));
  h.createError = undefined;
  await h.create('box');
});

for (const id of ['', ' ', '.a', '-a', 'a', 'a/b', '../x', 'a b']) {
  test(`create refuses the id ${JSON.stringify(id)}`, async () => {
    await assert.rejects(h.call('Create', { id, bundle: h.folder }), withCode('InvalidArgument', /id/));
  });
}

test('create with a checkpoint and checkpoint itself are not implemented', async () => {
  await assert.rejects(h.call('Create', { id: 'box', bundle: h.folder, checkpoint: '/x' }), withCode('Unimplemented'));
  await h.create('box');
  await assert.rejects(h.call('Checkpoint', { id: 'box' }), withCode('Unimplemented'));
});

test('create refuses a stdio scheme that it does not know', async () => {
  await assert.rejects(h.call('Create', { id: 'box', bundle: h.folder, stdout: 'carrier-pigeon:///coop' }), withCode('InvalidArgument', /unknown STDIO scheme/));
});

test('runtime options give the configuration file; runc options and unknown ones are no error', async () => {
  const value = Options.encode(Options.fromPartial({ configPath: '/etc/x.toml', configBody: Buffer.from('x') })).finish();
  await h.create('box', { options: { typeUrl: 'type.googleapis.com/cri.runtimeoptions.v1.Options', value } });
  assert.equal(h.configPath, '/etc/x.toml');
  for (const typeUrl of ['containerd.runc.v1.Options', 'who.knows.v9.What']) {
    const other = await new TaskHarness().listen();
    await other.create('box', { options: { typeUrl, value: Buffer.from('zzzz') } });
    assert.equal(other.configPath, undefined);
    await other.close();
  }
});

test('a container joins the sandbox; without a sandbox it is refused', async () => {
  const member = { 'io.kubernetes.cri.container-type': 'container', 'io.kubernetes.cri.sandbox-id': 'box' };
  await assert.rejects(h.create('app', {}, member), withCode('FailedPrecondition', /sandbox "box" does not exist/));
  await h.create('box', {}, { 'io.kubernetes.cri.container-type': 'sandbox' });
  await h.create('app', {}, member);
  await h.call('Start', { id: 'app' });
  await h.call('Kill', { id: 'app', signal: 9 });
  await h.call('Wait', { id: 'app' });
  await h.call('Delete', { id: 'app' });
  await h.call('Shutdown', { id: 'app' });
  assert.equal(h.shutDowns, 0, 'a task is left');
  await h.create('app', {}, member);
});

test('shutdown with tasks left changes nothing; with the last gone it ends the sandbox', async () => {
  await h.create('box');
  await h.call('Shutdown', { id: 'box' });
  assert.equal(h.shutDowns, 0);
  await h.call('Delete', { id: 'box' });
  await h.call('Shutdown', { id: 'box' });
  assert.equal(h.shutDowns, 1);
  assert.equal(h.sandbox?.state, 'stopped');
});

test('a shim whose only caller dies during the first create leaves; nobody else would end it', async () => {
  h.createHangs = true;
  const creating = assert.rejects(h.create('box'));
  await h.until(() => !h.pod.isEmpty);
  h.disconnect();
  await creating;
  await h.until(() => h.shutDowns === 1);
  assert.equal(h.pod.isEmpty, true);
});

test('delete does not wait for the end of the VM', async () => {
  await h.create('box');
  const gate = defer<undefined>();
  assert.ok(h.sandbox);
  h.sandbox.stopGate = gate.promise;
  await h.call('Delete', { id: 'box' });
  assert.equal(h.sandbox.state, 'ready');
  gate.resolve(undefined);
});

test('a task that never ran is deleted without an end being told', async () => {
  await h.create('box');
  const deleted = await h.call('Delete', { id: 'box' });
  assert.deepEqual([deleted.exitStatus, deleted.exitedAt], [0, undefined]);
  assert.deepEqual(h.told, ['create box', 'delete box']);
});

test('kill of a created task ends it and tells so', async () => {
  await h.create('box');
  await h.call('Kill', { id: 'box', signal: 9 });
  assert.equal((await h.call('Wait', { id: 'box' })).exitStatus, 137);
  await h.call('Delete', { id: 'box' });
  assert.deepEqual(h.told, ['create box', 'exit box/box 137', 'delete box']);
});

test('kill: running, probe with signal 0, stopped, unknown', async () => {
  await h.create('box');
  await h.call('Start', { id: 'box' });
  await h.call('Kill', { id: 'box', signal: 0 });
  await h.call('Kill', { id: 'box', signal: 10 });
  assert.deepEqual(h.guest.process('box').signals, [10]);
  await h.call('Kill', { id: 'box', signal: 9, all: true });
  await h.call('Wait', { id: 'box' });
  for (const signal of [0, 9, 15]) {
    await assert.rejects(h.call('Kill', { id: 'box', signal }), withCode('NotFound', /process already finished/));
  }
  await assert.rejects(h.call('Kill', { id: 'nobody', signal: 9 }), withCode('NotFound'));
  await assert.rejects(h.call('Kill', { id: 'box', execId: 'nope', signal: 9 }), withCode('NotFound'));
});

test('a running task cannot be deleted', async () => {
  await h.create('box');
  await h.call('Start', { id: 'box' });
  await assert.rejects(h.call('Delete', { id: 'box' }), withCode('FailedPrecondition', /running/));
  assert.equal((await h.call('State', { id: 'box' })).status, Status.RUNNING);
});

test('execs: added, started, ended, deleted, each told once', async () => {
  await h.create('box');
  await h.call('Start', { id: 'box' });
  await h.call('Exec', { id: 'box', execId: 'e1', spec: PROCESS });
  await assert.rejects(h.call('Exec', { id: 'box', execId: 'e1', spec: PROCESS }), withCode('AlreadyExists'));
  assert.equal((await h.call('State', { id: 'box', execId: 'e1' })).status, Status.CREATED);
  await assert.rejects(h.call('Kill', { id: 'box', execId: 'e1', signal: 9 }), withCode('FailedPrecondition'));
  await h.call('Start', { id: 'box', execId: 'e1' });
  await assert.rejects(h.call('Delete', { id: 'box', execId: 'e1' }), withCode('FailedPrecondition'));
  assert.deepEqual((await h.call('Pids', { id: 'box' })).processes.map((p) => p.pid), [4242, 4242]);
  h.guest.process('e1').exit(3);
  assert.equal((await h.call('Wait', { id: 'box', execId: 'e1' })).exitStatus, 3);
  assert.equal((await h.call('Delete', { id: 'box', execId: 'e1' })).exitStatus, 3);
  await assert.rejects(h.call('State', { id: 'box', execId: 'e1' }), withCode('NotFound'));
  assert.deepEqual(h.told, ['create box', 'start box', 'exec-added e1', 'exec-started e1', 'exit box/e1 3']);
});

test('exec needs a running container and a process', async () => {
  await h.create('box');
  await assert.rejects(h.call('Exec', { id: 'box', execId: 'e1', spec: PROCESS }), withCode('FailedPrecondition'));
  await h.call('Start', { id: 'box' });
  await assert.rejects(h.call('Exec', { id: 'box', execId: 'e1' }), withCode('InvalidArgument'));
  await assert.rejects(h.call('Exec', { id: 'box', execId: 'e1', spec: { typeUrl: 'x/Spec', value: PROCESS.value } }), withCode('InvalidArgument', /invalid spec type/));
  await assert.rejects(h.call('Exec', { id: 'box', execId: 'e/1', spec: PROCESS }), withCode('InvalidArgument'));
});

test('the ends of execs are told before the end of init', async () => {
  await h.create('box');
  await h.call('Start', { id: 'box' });
  await runningExec('e1');
  await runningExec('e2');
  h.guest.process('box').exit(0);
  await h.call('Wait', { id: 'box' });
  h.guest.process('e2').exit(137);
  h.guest.process('e1').exit(137);
  await h.call('Delete', { id: 'box' });
  assert.deepEqual(h.told.slice(-4), ['exit box/e2 137', 'exit box/e1 137', 'exit box/box 0', 'delete box']);
});

test('out of memory is told before the end, and in a file for cri-o', async () => {
  const container = await h.create('box', {}, { 'io.container.manager': 'cri-o' });
  await h.call('Start', { id: 'box' });
  h.sandbox?.request.observer.onOom?.('box');
  h.guest.process('box').exit(137);
  await h.call('Wait', { id: 'box' });
  await h.call('Delete', { id: 'box' });
  assert.deepEqual(h.told.slice(2), ['oom box', 'exit box/box 137', 'delete box']);
  assert.ok(existsSync(join(container.bundle, 'oom')));
});

test('pause and resume change the state and are told', async () => {
  await h.create('box');
  await assert.rejects(h.call('Pause', { id: 'box' }), withCode('FailedPrecondition'));
  await h.call('Start', { id: 'box' });
  await h.call('Pause', { id: 'box' });
  assert.equal((await h.call('State', { id: 'box' })).status, Status.PAUSED);
  await h.call('Resume', { id: 'box' });
  assert.equal((await h.call('State', { id: 'box' })).status, Status.RUNNING);
  assert.deepEqual(h.told.slice(2), ['paused box', 'resumed box']);
});

test('the window size that comes before the start is set once there is a console', async () => {
  await h.create('box', { terminal: true });
  await h.call('ResizePty', { id: 'box', width: 80, height: 25 });
  await h.call('Start', { id: 'box' });
  await h.call('ResizePty', { id: 'box', width: 100, height: 30 });
  assert.deepEqual(h.guest.process('box').sizes, ['25x80', '30x100']);
  h.guest.process('box').exit(0);
  await h.call('Wait', { id: 'box' });
  await h.call('ResizePty', { id: 'box', width: 1, height: 1 });
});

test('stats, update, pids and connect', async () => {
  const container = await h.create('box');
  await h.call('Start', { id: 'box' });
  const stats = await h.call('Stats', { id: 'box' });
  assert.equal(stats.stats?.typeUrl, 'io.containerd.cgroups.v2.Metrics');
  const metrics = Metrics.decode(stats.stats.value);
  assert.deepEqual([metrics.cpu?.userUsec, metrics.cpu?.systemUsec, metrics.memory?.usage], [7n, 2n, 100n]);
  const resources = { typeUrl: 'types.containerd.io/opencontainers/runtime-spec/1/LinuxResources', value: Buffer.from('{"memory":{"limit":5}}') };
  await h.call('Update', { id: 'box', resources });
  assert.deepEqual(container.updated, { memory: { limit: 5 } });
  await assert.rejects(h.call('Update', { id: 'box' }), withCode('InvalidArgument'));
  assert.deepEqual((await h.call('Connect', { id: 'whoever' })).taskPid, 0);
  assert.deepEqual((await h.call('Connect', { id: 'box' })).taskPid, 4242);
  await assert.rejects(h.call('Pids', { id: 'whoever' }), withCode('NotFound'));
  h.guest.process('box').exit(0);
  await h.call('Wait', { id: 'box' });
  assert.equal((await h.call('Pids', { id: 'box' })).processes.length, 1, 'a stopped task keeps its pid');
  await assert.rejects(h.call('Stats', { id: 'box' }), withCode('NotFound'));
});

test('a VM that dies ends every process; later errors say why', async () => {
  await h.create('box');
  await h.call('Start', { id: 'box' });
  await runningExec('e1');
  const waiting = [h.call('Wait', { id: 'box' }), h.call('Wait', { id: 'box', execId: 'e1' })];
  h.sandbox?.fail('sandbox "box" failed (run)\nvirtual machine: ended with signal SIGKILL');
  assert.deepEqual((await Promise.all(waiting)).map((exit) => exit.exitStatus), [255, 255]);
  await assert.rejects(h.call('Exec', { id: 'box', execId: 'e2', spec: PROCESS }), withCode('Unavailable', /signal SIGKILL/));
  await h.call('Delete', { id: 'box' });
  assert.deepEqual(h.told.slice(-3), ['exit box/e1 255', 'exit box/box 255', 'delete box']);
});

test('state answers while a start hangs', async () => {
  await h.create('box');
  const container = h.sandbox?.containers.get('box');
  assert.ok(container);
  const gate = defer<undefined>();
  container.start = async () => {
    await gate.promise;
  };
  const starting = h.call('Start', { id: 'box' });
  assert.equal((await h.call('State', { id: 'box' })).status, Status.CREATED);
  gate.resolve(undefined);
  await starting;
});

test('a waiter whose connection goes away is forgotten, the others are answered', async () => {
  await h.create('box');
  await h.call('Start', { id: 'box' });
  const other = h.client();
  const codecs = { request: codecFromTsProto(WaitRequest), response: codecFromTsProto(WaitResponse) };
  const lost = other.call('containerd.task.v2.Task', 'Wait', codecs, { id: 'box', execId: '' });
  await h.call('State', { id: 'box' });
  other.close();
  await assert.rejects(lost, withCode('Unavailable', /ttrpc: closed$/));
  const waiting = h.call('Wait', { id: 'box' });
  h.guest.process('box').exit(1);
  assert.equal((await waiting).exitStatus, 1);
});

test('output is in the FIFO before wait answers, stdin comes in order and ends with CloseIO', async () => {
  const [stdin, stdout] = ['in', 'out'].map((name) => join(h.folder, name)) as [string, string];
  execFileSync('mkfifo', [stdin, stdout]);
  await h.create('box', { stdin, stdout });
  await h.call('Start', { id: 'box' });
  const writer = openSync(stdin, constants.O_WRONLY | constants.O_NONBLOCK);
  writeSync(writer, 'hello ');
  writeSync(writer, 'guest');
  await h.call('CloseIO', { id: 'box', stdin: true });
  await h.call('CloseIO', { id: 'box', stdin: true });
  await h.guest.process('box').stdinClosed.promise;
  assert.equal(h.guest.process('box').stdin, 'hello guest');
  closeSync(writer);
  h.guest.process('box').stdout.push('some output');
  h.guest.process('box').exit(0);
  await h.call('Wait', { id: 'box' });
  const reader = openSync(stdout, constants.O_RDONLY | constants.O_NONBLOCK);
  const buffer = Buffer.alloc(64);
  assert.equal(buffer.toString('utf8', 0, readSync(reader, buffer)), 'some output');
  closeSync(reader);
});

test('a deletion leaves its receipt when everything is freed: at once in a pod that lives on, with the sandbox for the last', async () => {
  const member = { 'io.kubernetes.cri.container-type': 'container', 'io.kubernetes.cri.sandbox-id': 'box' };
  await h.create('box', {}, { 'io.kubernetes.cri.container-type': 'sandbox' });
  await h.create('app', {}, member);
  for (const id of ['app', 'box']) {
    await h.call('Start', { id });
    await h.call('Kill', { id, signal: 9 });
    await h.call('Wait', { id });
    const path = join(h.folder, id, RECEIPT);
    assert.equal(existsSync(path), false);
    const deleted = await h.call('Delete', { id });
    await h.call('Shutdown', { id });
    assert.deepEqual(DeleteResponse.decode(readFileSync(path)), deleted);
  }
});
