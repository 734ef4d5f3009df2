import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Host } from '../support/host';
import { hostForSuite } from '../support/suite';

let host: Host;

hostForSuite(async (started) => {
  host = started;
  await host.runDetached('base', ['sh', '-c', 'trap "exit 9" TERM; while :; do sleep 0.1; done']);
});

test('stats of a running container are not zero', async () => {
  await host.exec('base', ['sh', '-c', 'i=0; while [ $i -lt 1000 ]; do i=$((i+1)); done']);
  const metrics = await host.ctr(['tasks', 'metrics', '--format', 'json', 'base']);
  assert.equal(metrics.code, 0, metrics.stderr);
  const text = JSON.stringify(JSON.parse(metrics.stdout));
  assert.match(text, /"(total|usage_usec|usageUsec)":"?[1-9]/);
  assert.match(text, /"usage":(\{[^}]*"usage":)?"?[1-9]/);
});

test('pids of a running container hold the task pid', async () => {
  const ps = await host.ctr(['tasks', 'ps', 'base']);
  assert.equal(ps.code, 0, ps.stderr);
  assert.match(ps.stdout, /\n\d+/);
});

test('pause stops it, resume lets it go on', async () => {
  assert.equal((await host.ctr(['tasks', 'pause', 'base'])).code, 0);
  assert.equal(await host.status('base'), 'PAUSED');
  const refused = await host.exec('base', ['true']);
  assert.notEqual(refused.code, 0);
  assert.equal((await host.ctr(['tasks', 'resume', 'base'])).code, 0);
  assert.equal(await host.status('base'), 'RUNNING');
  assert.equal((await host.exec('base', ['echo', 'awake'])).stdout, 'awake\n');
});

test('a signal reaches the process: its own exit code comes back', async () => {
  await host.runDetached('signal', ['sh', '-c', 'trap "exit 9" TERM; touch /trapped; while :; do sleep 0.1; done']);
  // Before its trap is set the signal ends it: 137.
  for (let tries = 0; tries < 100 && (await host.exec('signal', ['test', '-e', '/trapped'])).code !== 0; tries++) {
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  assert.equal((await host.ctr(['tasks', 'kill', '-s', 'TERM', 'signal'])).code, 0);
  await host.waitForStatus('signal', 'STOPPED');
  const removed = await host.ctr(['tasks', 'rm', 'signal']);
  assert.match(removed.stderr, /exit code 9/);
  await host.ctr(['containers', 'rm', 'signal']);
});

test('kill --all ends every process of the container', async () => {
  await host.runDetached('all', ['sh', '-c', 'sleep 1000 & sleep 1000 & wait']);
  assert.equal((await host.ctr(['tasks', 'kill', '-a', '-s', 'KILL', 'all'])).code, 0);
  await host.waitForStatus('all', 'STOPPED');
  await host.remove('all');
});

test('a second kill of a stopped task says that it is finished', async () => {
  await host.runDetached('twice', ['true']);
  await host.waitForStatus('twice', 'STOPPED');
  const killed = await host.ctr(['tasks', 'kill', '-s', 'USR1', 'twice']);
  assert.notEqual(killed.code, 0);
  assert.match(killed.stderr, /not found|finished/);
  await host.remove('twice');
});

test('out of memory: exit code 137 and an OOM event', async () => {
  const events = host.containerd.spawnCtr(['events']);
  let seen = '';
  events.stdout?.setEncoding('utf8').on('data', (text: string) => {
    seen += text;
  });
  try {
    const eater = 'x=aaaaaaaaaaaaaaaa; while :; do x=$x$x; done';
    const done = await host.run('oom', ['sh', '-c', eater], { args: ['--memory-limit', '33554432'], timeoutMs: 120_000 });
    assert.equal(done.code, 137, done.stderr);
    for (let tries = 0; tries < 50 && !seen.includes('/tasks/oom'); tries++) {
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
    assert.match(seen, /\/tasks\/oom/);
    assert.ok(seen.indexOf('/tasks/oom') < seen.lastIndexOf('/tasks/exit'), 'OOM before exit');
  } finally {
    events.kill('SIGKILL');
  }
});

test('events come in order: create, start, exit, delete; one exit', async () => {
  const events = host.containerd.spawnCtr(['events']);
  let seen = '';
  events.stdout?.setEncoding('utf8').on('data', (text: string) => {
    seen += text;
  });
  try {
    await host.run('ordered', ['true']);
    for (let tries = 0; tries < 50 && !seen.includes('/tasks/delete'); tries++) {
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
    const topics = [...seen.matchAll(/\/tasks\/(\S+) .*"ordered"/g)].map((match) => match[1]);
    assert.deepEqual(topics, ['create', 'start', 'exit', 'delete']);
  } finally {
    events.kill('SIGKILL');
  }
});
