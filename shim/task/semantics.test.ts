/** What hosts rely on beyond the plain life of a task: fields, races, and what a call must not do. */
import assert from 'node:assert/strict';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, test } from 'node:test';
import { codecFromTsProto, TtrpcError } from 'ttrpc-ts';
import { defer } from '../../base/deadline';
import { KataError } from '../../base/errors';
import { TaskCreate, TaskDelete, TaskExecStarted, TaskExit, TaskStart } from '../../gen/containerd/events/task';
import { ProcessDetails } from '../../gen/containerd/runc/options';
import { CreateTaskRequest, CreateTaskResponse, DeleteResponse, WaitRequest, WaitResponse } from '../../gen/containerd/task/v2';
import { Status } from '../../gen/containerd/types/process';
import { PROCESS, TaskHarness, withCode } from '../testing/task-harness';
import { RECEIPT } from './receipt';
import { toWireStatus } from './status';

let h: TaskHarness;

beforeEach(async () => {
  h = await new TaskHarness().listen();
});

afterEach(async () => {
  await h.close();
});

/** The event of this topic, decoded. */
function eventOf<T>(topic: string, message: { decode(bytes: Uint8Array): T }): T {
  const found = h.events.find((event) => event.topic === topic);
  assert.ok(found, `no ${topic} in ${h.told.join(', ')}`);
  return message.decode(found.value);
}

test('State repeats bundle, streams, terminal and exec id, for init and exec', async () => {
  const container = await h.create('box', { stdin: '/dev/null', stdout: '/dev/zero', stderr: '', terminal: true });
  await h.call('Start', { id: 'box' });
  await h.call('Exec', { id: 'box', execId: 'e1', spec: PROCESS, stdout: '/dev/null', stderr: '/dev/full' });
  const init = await h.call('State', { id: 'box' });
  assert.deepEqual(
    [init.id, init.bundle, init.stdin, init.stdout, init.stderr, init.terminal, init.execId, init.exitedAt],
    ['box', container.bundle, '/dev/null', '/dev/zero', '', true, '', undefined],
  );
  const exec = await h.call('State', { id: 'box', execId: 'e1' });
  assert.deepEqual(
    [exec.id, exec.bundle, exec.stdin, exec.stdout, exec.stderr, exec.terminal, exec.execId, exec.status],
    ['box', container.bundle, '', '/dev/null', '/dev/full', false, 'e1', Status.CREATED],
  );
});

test('events carry what hosts read: streams, root mounts, pids, statuses, times', async () => {
  const rootfs = [{ type: 'overlay', source: 'overlay', target: '', options: ['lowerdir=/a:/b'] }];
  const container = await h.create('box', { rootfs, stdin: '/dev/null', stdout: '/dev/zero', terminal: true });
  const created = eventOf('/tasks/create', TaskCreate);
  assert.deepEqual([created.containerId, created.bundle, created.pid, created.rootfs], ['box', container.bundle, 4242, rootfs]);
  assert.deepEqual(created.io, { stdin: '/dev/null', stdout: '/dev/zero', stderr: '', terminal: true });
  await h.call('Start', { id: 'box' });
  assert.equal(eventOf('/tasks/start', TaskStart).pid, 4242);
  await h.call('Exec', { id: 'box', execId: 'e1', spec: PROCESS });
  await h.call('Start', { id: 'box', execId: 'e1' });
  assert.deepEqual(eventOf('/tasks/exec-started', TaskExecStarted), { containerId: 'box', execId: 'e1', pid: 4242 });
  h.guest.process('e1').exit(6);
  const ended = await h.call('Wait', { id: 'box', execId: 'e1' });
  const exit = eventOf('/tasks/exit', TaskExit);
  assert.deepEqual(exit, { containerId: 'box', id: 'e1', pid: 4242, exitStatus: 6, exitedAt: ended.exitedAt });
  h.guest.process('box').exit(5);
  const init = await h.call('Wait', { id: 'box' });
  const answer = await h.call('Delete', { id: 'box' });
  assert.deepEqual([answer.pid, answer.exitStatus, answer.exitedAt], [4242, 5, init.exitedAt]);
  const deleted = eventOf('/tasks/delete', TaskDelete);
  assert.deepEqual([deleted.containerId, deleted.pid, deleted.exitStatus, deleted.exitedAt], ['box', 4242, 5, init.exitedAt]);
});

test('the end of an exec is its own, not that of its container', async () => {
  await h.create('box');
  await h.call('Start', { id: 'box' });
  await h.call('Exec', { id: 'box', execId: 'e1', spec: PROCESS });
  await h.call('Start', { id: 'box', execId: 'e1' });
  h.guest.process('e1').exit(3);
  const exit = await h.call('Wait', { id: 'box', execId: 'e1' });
  const state = await h.call('State', { id: 'box', execId: 'e1' });
  assert.deepEqual([state.status, state.exitStatus, state.exitedAt], [Status.STOPPED, 3, exit.exitedAt]);
  const deleted = await h.call('Delete', { id: 'box', execId: 'e1' });
  assert.deepEqual([deleted.exitStatus, deleted.exitedAt], [3, exit.exitedAt]);
  await assert.rejects(h.call('Delete', { id: 'box', execId: 'e1' }), withCode('NotFound'));
  assert.equal((await h.call('State', { id: 'box' })).status, Status.RUNNING);
  await h.call('Exec', { id: 'box', execId: 'e1', spec: PROCESS });
});

test('an exec that was added, and whose container ended before its start, cannot be started', async () => {
  await h.create('box');
  await h.call('Start', { id: 'box' });
  await h.call('Exec', { id: 'box', execId: 'e1', spec: PROCESS });
  h.guest.process('box').exit(0);
  await h.call('Wait', { id: 'box' });
  await assert.rejects(h.call('Start', { id: 'box', execId: 'e1' }), withCode('FailedPrecondition', /stopped/));
  assert.ok(!h.guest.calls.includes('start e1'));
  await h.call('Delete', { id: 'box', execId: 'e1' });
  assert.ok(!h.told.some((line) => line.startsWith('exit box/e1')), 'it never ran');
});

test('an exec that never ran holds nobody back, and its deletion tells no end', async () => {
  await h.create('box');
  await h.call('Start', { id: 'box' });
  await h.call('Exec', { id: 'box', execId: 'idle', spec: PROCESS });
  await h.call('Exec', { id: 'box', execId: 'gone', spec: PROCESS });
  await h.call('Delete', { id: 'box', execId: 'gone' });
  const began = Date.now();
  h.guest.process('box').exit(0);
  await h.until(() => h.told.includes('exit box/box 0'));
  assert.ok(Date.now() - began < 900, 'the end was held back');
  assert.deepEqual(h.told, ['create box', 'start box', 'exec-added idle', 'exec-added gone', 'exit box/box 0']);
});

test('a deletion is told after the end, even where the ends of execs are late', async () => {
  await h.create('box');
  await h.call('Start', { id: 'box' });
  await h.call('Exec', { id: 'box', execId: 'e1', spec: PROCESS });
  await h.call('Start', { id: 'box', execId: 'e1' });
  h.guest.process('box').exit(0);
  await h.call('Wait', { id: 'box' });
  const deleting = h.call('Delete', { id: 'box' });
  await new Promise((resolve) => setTimeout(resolve, 50));
  h.guest.process('e1').exit(137);
  await deleting;
  assert.deepEqual(h.told.slice(-3), ['exit box/e1 137', 'exit box/box 0', 'delete box']);
});

test('a kill that comes while the start is under way reaches the started process', async () => {
  await h.create('box');
  const container = h.sandbox?.containers.get('box');
  assert.ok(container);
  const gate = defer<undefined>();
  const start = container.start.bind(container);
  container.start = async () => {
    await gate.promise;
    await start();
  };
  const starting = h.call('Start', { id: 'box' });
  await h.call('State', { id: 'box' });
  const killing = h.call('Kill', { id: 'box', signal: 9 });
  await h.call('State', { id: 'box' });
  gate.resolve(undefined);
  await Promise.all([starting, killing]);
  assert.equal((await h.call('Wait', { id: 'box' })).exitStatus, 137);
  await h.until(() => h.told.length === 3);
  assert.deepEqual(h.told, ['create box', 'start box', 'exit box/box 137']);
});

test('of two starts at once one is refused, and the end is told all the same', async () => {
  await h.create('box');
  const answers = await Promise.allSettled([h.call('Start', { id: 'box' }), h.call('Start', { id: 'box' })]);
  assert.deepEqual(answers.map(({ status }) => status).sort(), ['fulfilled', 'rejected']);
  await assert.rejects(h.call('Start', { id: 'box' }), withCode('FailedPrecondition'));
  h.guest.process('box').exit(4);
  await h.call('Wait', { id: 'box' });
  await h.call('Delete', { id: 'box' });
  assert.deepEqual(h.told, ['create box', 'start box', 'exit box/box 4', 'delete box']);
});

test('a pause that is under way shows as PAUSING; a failed one leaves RUNNING', async () => {
  await h.create('box');
  await h.call('Start', { id: 'box' });
  const container = h.sandbox?.containers.get('box');
  assert.ok(container);
  const gate = defer<undefined>();
  container.pause = async () => {
    await gate.promise;
    throw new TtrpcError('Internal', 'cannot freeze');
  };
  const pausing = assert.rejects(h.call('Pause', { id: 'box' }), withCode('Internal', /cannot freeze/));
  await h.call('Connect', { id: 'box' });
  assert.equal((await h.call('State', { id: 'box' })).status, Status.PAUSING);
  gate.resolve(undefined);
  await pausing;
  assert.equal((await h.call('State', { id: 'box' })).status, Status.RUNNING);
  assert.ok(!h.told.includes('paused box'));
});

test('a paused task is neither deleted nor given execs; resumed it is as before', async () => {
  await h.create('box');
  await h.call('Start', { id: 'box' });
  await h.call('Pause', { id: 'box' });
  await assert.rejects(h.call('Delete', { id: 'box' }), withCode('FailedPrecondition'));
  await assert.rejects(h.call('Exec', { id: 'box', execId: 'e1', spec: PROCESS }), withCode('FailedPrecondition', /paused/));
  await assert.rejects(h.call('Pause', { id: 'box' }), withCode('FailedPrecondition'));
  await h.call('Resume', { id: 'box' });
  await h.call('Exec', { id: 'box', execId: 'e1', spec: PROCESS });
});

test('every call about an unknown container or exec is NotFound, except Connect and Shutdown', async () => {
  await h.create('box');
  await h.call('Start', { id: 'box' });
  const calls = ['State', 'Start', 'Wait', 'Kill', 'Delete', 'ResizePty', 'CloseIO', 'Pids', 'Pause', 'Resume', 'Update', 'Stats', 'Exec', 'Checkpoint'] as const;
  for (const name of calls) {
    await assert.rejects(h.call(name, { id: 'nobody' }), withCode('NotFound', /nobody/), name);
  }
  for (const name of ['State', 'Start', 'Wait', 'Kill', 'Delete', 'ResizePty', 'CloseIO'] as const) {
    await assert.rejects(h.call(name, { id: 'box', execId: 'nothing' }), withCode('NotFound', /nothing/), name);
  }
  assert.deepEqual([(await h.call('Connect', { id: 'nobody' })).shimPid, (await h.call('Connect', { id: 'box' })).taskPid], [process.pid, 4242]);
  await h.call('Shutdown', { id: 'nobody' });
  assert.equal(h.shutDowns, 0);
});

test('CloseIO without the stdin flag closes nothing', async () => {
  await h.create('box', { stdin: '/dev/null' });
  const container = h.sandbox?.containers.get('box');
  assert.ok(container);
  let closed = 0;
  container.init.closeStdin = () => {
    closed++;
  };
  await h.call('CloseIO', { id: 'box' });
  assert.equal(closed, 0);
  await h.call('CloseIO', { id: 'box', stdin: true });
  assert.equal(closed, 1);
});

test('Pids names the execs that run', async () => {
  await h.create('box');
  await h.call('Start', { id: 'box' });
  for (const execId of ['e1', 'e2', 'e3']) {
    await h.call('Exec', { id: 'box', execId, spec: PROCESS });
  }
  await h.call('Start', { id: 'box', execId: 'e1' });
  await h.call('Start', { id: 'box', execId: 'e2' });
  h.guest.process('e1').exit(0);
  await h.call('Wait', { id: 'box', execId: 'e1' });
  const { processes } = await h.call('Pids', { id: 'box' });
  const named = processes.map(({ info }) => (info === undefined ? 'init' : `${info.typeUrl} ${ProcessDetails.decode(info.value).execId}`));
  assert.deepEqual(named, ['init', 'containerd.runc.v1.ProcessDetails e2']);
});

test('Create: an id that is being made exists already; a relative bundle is refused', async () => {
  await assert.rejects(h.call('Create', { id: 'box', bundle: 'relative/path' }), withCode('InvalidArgument', /bundle/));
  h.createHangs = true;
  const creating = assert.rejects(h.create('box'));
  await h.until(() => !h.pod.isEmpty);
  const other = h.client();
  const codecs = { request: codecFromTsProto(CreateTaskRequest), response: codecFromTsProto(CreateTaskResponse) };
  const again = CreateTaskRequest.fromPartial({ id: 'box', bundle: join(h.folder, 'box') });
  await assert.rejects(other.call('containerd.task.v2.Task', 'Create', codecs, again), withCode('AlreadyExists'));
  h.disconnect();
  await creating;
});

test('a Create whose deadline passes is undone, and the shim stays for the next one', async () => {
  h.createHangs = true;
  const codecs = { request: codecFromTsProto(CreateTaskRequest), response: codecFromTsProto(CreateTaskResponse) };
  const request = CreateTaskRequest.fromPartial({ id: 'box', bundle: join(h.folder, 'box') });
  await assert.rejects(h.client().call('containerd.task.v2.Task', 'Create', codecs, request, { timeoutMs: 50 }), withCode('DeadlineExceeded'));
  await h.until(() => h.pod.isEmpty);
  await new Promise((resolve) => setTimeout(resolve, 50));
  assert.equal(h.shutDowns, 0);
  h.createHangs = false;
  await h.create('box');
});

test('after the VM died "not found" stays short, all else says why', async () => {
  await h.create('box');
  await h.call('Start', { id: 'box' });
  h.sandbox?.fail('sandbox "box" failed (run)\nvirtual machine: ended with signal SIGKILL');
  await h.call('Wait', { id: 'box' });
  await assert.rejects(h.call('Kill', { id: 'box', signal: 9 }), (reason) => withCode('NotFound')(reason) && !String(reason).includes('SIGKILL'));
  await assert.rejects(h.call('Pause', { id: 'box' }), (reason) => reason instanceof TtrpcError && reason.message.includes('signal SIGKILL'));
});

test('a container that comes while its sandbox is being made waits for it', async () => {
  const gate = defer<undefined>();
  h.createGate = gate.promise;
  const creating = h.create('box', {}, { 'io.kubernetes.cri.container-type': 'sandbox' });
  await h.until(() => !h.pod.isEmpty);
  const joining = h.create('app', {}, { 'io.kubernetes.cri.container-type': 'container', 'io.kubernetes.cri.sandbox-id': 'box' });
  await new Promise((resolve) => setTimeout(resolve, 20));
  gate.resolve(undefined);
  await Promise.all([creating, joining]);
  assert.deepEqual(h.told.sort(), ['create app', 'create box']);
});

test('a sandbox that is made while the last one of this shim still ends comes after that end', async () => {
  await h.create('box');
  const gate = defer<undefined>();
  assert.ok(h.sandbox);
  const first = h.sandbox;
  first.stopGate = gate.promise;
  await h.call('Delete', { id: 'box' });
  const again = h.create('box');
  await new Promise((resolve) => setTimeout(resolve, 20));
  assert.equal(h.sandbox, first, 'not before');
  gate.resolve(undefined);
  await again;
  assert.notEqual(h.sandbox, first);
});

test('waiters that went away are forgotten while the process runs', async () => {
  await h.create('box');
  await h.call('Start', { id: 'box' });
  const other = h.client();
  const codecs = { request: codecFromTsProto(WaitRequest), response: codecFromTsProto(WaitResponse) };
  const lost = Array.from({ length: 50 }, () => assert.rejects(other.call('containerd.task.v2.Task', 'Wait', codecs, { id: 'box', execId: '' })));
  await h.until(() => h.pod.describe().includes('50 waiting'));
  other.close();
  await Promise.all(lost);
  await h.until(() => h.pod.describe().includes(':0 waiting'));
});

test('out of memory is in a file for cri-o, also where only its container type says who it is; nobody else gets one', async () => {
  const crio = await h.create('box', {}, { 'io.kubernetes.cri-o.ContainerType': 'sandbox' });
  h.sandbox?.request.observer.onOom?.('box');
  assert.ok(existsSync(join(crio.bundle, 'oom')));
  const other = await new TaskHarness().listen();
  try {
    const plain = await other.create('box');
    other.sandbox?.request.observer.onOom?.('box');
    assert.ok(!existsSync(join(plain.bundle, 'oom')));
  } finally {
    await other.close();
  }
});

test('runtime options of the right type that are damaged are refused, not guessed', async () => {
  const options = { typeUrl: 'runtimeoptions.v1.Options', value: Buffer.from([18, 200, 1, 47]) };
  await assert.rejects(h.create('box', { options }), withCode('InvalidArgument', /runtime options/));
});

test('the receipt of a task that never ran says 137, as a task without a record', async () => {
  await h.create('box');
  await h.call('Delete', { id: 'box' });
  await h.call('Shutdown', { id: 'box' });
  assert.equal(DeleteResponse.decode(readFileSync(join(h.folder, 'box', RECEIPT))).exitStatus, 137);
});

test('a status keeps the words of the guest, and says the ones that hosts look for where only an errno tells', () => {
  const errno = (code: string): Error => Object.assign(new Error(`${code}: x`), { code });
  const text = (cause: Error): string => toWireStatus(KataError.from(cause, 'start "x"')).message;
  assert.match(text(errno('ENOENT')), /no such file or directory/);
  assert.match(text(errno('EACCES')), /permission denied/);
  assert.match(text(errno('EPERM')), /permission denied/);
  assert.equal(text(new Error('exec: "x": executable file not found in $PATH')).match(/not found/g)?.length, 1);
  assert.equal(text(Object.assign(new Error('open: no such file or directory'), { code: 'ENOENT' })).match(/no such file/g)?.length, 1);
});
