import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Host} from '../support/host';
import { IMAGE, RUNTIME } from '../support/host';
import { TasksClient } from '../support/tasks-client';
import { hostForSuite } from '../support/suite';

let host: Host;

hostForSuite((started) => {
  host = started;
});

test('containerd is killed and comes back: running and stopped tasks have their right status', async () => {
  await host.runDetached('running', ['sleep', '100000']);
  await host.runDetached('stopped', ['sh', '-c', 'exit 21']);
  await host.waitForStatus('stopped', 'STOPPED');
  await host.runDetached('ends-meanwhile', ['sh', '-c', 'sleep 4; exit 22']);
  await host.containerd.end('SIGKILL');
  await new Promise((resolve) => setTimeout(resolve, 6000));
  await host.containerd.launch();
  assert.equal(await host.status('running'), 'RUNNING');
  assert.equal(await host.status('stopped'), 'STOPPED');
  await host.waitForStatus('ends-meanwhile', 'STOPPED');
  assert.equal((await host.exec('running', ['echo', 'still here'])).stdout, 'still here\n');
  const removed = await host.ctr(['tasks', 'rm', 'stopped']);
  assert.match(removed.stderr, /exit code 21/);
  const meanwhile = await host.ctr(['tasks', 'rm', 'ends-meanwhile']);
  assert.match(meanwhile.stderr, /exit code 22/);
  for (const id of ['running', 'stopped', 'ends-meanwhile']) {
    await host.remove(id);
  }
});

test('containerd is killed: a task that was created and not started is CREATED afterwards, starts and ends', async () => {
  const id = 'created';
  const made = await host.ctr(['containers', 'create', '--runtime', RUNTIME, IMAGE, id, 'false']);
  assert.equal(made.code, 0, made.stderr);
  const mounts = await host.ctr(['snapshots', 'mounts', '/target', id]);
  const before = await TasksClient.connect(host.containerd.address);
  await before.create(id, mounts.stdout);
  before.close();
  await host.containerd.end('SIGKILL');
  await host.containerd.launch();
  assert.equal(await host.status(id), 'CREATED');
  const after = await TasksClient.connect(host.containerd.address);
  await after.start(id);
  after.close();
  await host.waitForStatus(id, 'STOPPED');
  assert.match((await host.ctr(['tasks', 'rm', id])).stderr, /exit code 1\b/);
  await host.ctr(['containers', 'rm', id]);
});
