/** Faults in the middle of things: while a pod of several containers runs, and while one is being made. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { after, before, test } from 'node:test';
import { Host } from '../support/host';
import { leftOf } from '../support/leaks';

let host: Host;

before(async () => {
  host = await Host.start('qemu', { hypervisor: { default_memory: '512' } });
});

after(async () => {
  await host.stop();
  assert.deepEqual(await leftOf([host.containerd.folder]), []);
});

const sandbox = (id: string): string[] => ['--annotation', 'io.kubernetes.cri.container-type=sandbox', '--annotation', `io.kubernetes.cri.sandbox-id=${id}`];
const member = (id: string): string[] => ['--annotation', 'io.kubernetes.cri.container-type=container', '--annotation', `io.kubernetes.cri.sandbox-id=${id}`];

/** The first process whose command line matches, as soon as there is one. */
async function pidOf(pattern: string, timeoutMs = 30_000): Promise<number> {
  const deadline = Date.now() + timeoutMs;
  while (Date.now() < deadline) {
    try {
      return Number(execFileSync('pgrep', ['-o', '-f', pattern], { encoding: 'utf8' }).trim());
    } catch {
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  }
  throw new Error(`no process matches ${pattern}`);
}

const unique = (name: string): string => `${name}${String(process.pid)}`;

test('the shim of a pod with two containers is killed: both waiters get an answer and nothing is left', async () => {
  const [pod, one, two] = [unique('kpod'), unique('kone'), unique('ktwo')];
  await host.runDetached(pod, ['sleep', '100000'], { args: sandbox(pod) });
  const waiting = [one, two].map((id) => host.run(id, ['sleep', '1000'], { args: member(pod), timeoutMs: 120_000 }));
  await host.waitForStatus(one, 'RUNNING', 60_000);
  await host.waitForStatus(two, 'RUNNING', 60_000);
  const killedAt = Date.now();
  process.kill(host.shimPid(pod), 'SIGKILL');
  const ends = await Promise.all(waiting);
  assert.ok(Date.now() - killedAt < 30_000, `the waiters had to wait ${String(Date.now() - killedAt)} ms`);
  assert.deepEqual(ends.map(({ code }) => code !== 0), [true, true]);
  for (const id of [one, two, pod]) {
    await host.remove(id);
  }
  assert.deepEqual(await leftOf([pod, one, two]), []);
});

test('virtiofsd is killed: the waiter gets an answer, the log names it, and nothing is left', async () => {
  const id = unique('vfs');
  const waiting = host.run(id, ['sleep', '1000'], { timeoutMs: 120_000 });
  await host.waitForStatus(id, 'RUNNING', 60_000);
  const pid = await pidOf(`virtiofsd.*/${id}/`);
  const killedAt = Date.now();
  process.kill(pid, 'SIGKILL');
  assert.notEqual((await waiting).code, 0);
  assert.ok(Date.now() - killedAt < 30_000, `the waiter had to wait ${String(Date.now() - killedAt)} ms`);
  assert.match(host.containerd.log, new RegExp(`virtiofsd ended.*sandbox=${id}.*SIGKILL`));
  await host.remove(id);
  assert.deepEqual(await leftOf([id]), []);
});

test('QEMU is killed while the guest boots: Create fails at once and says so, nothing is left', async () => {
  const id = unique('bootkill');
  const running = host.run(id, ['sleep', '1000'], { timeoutMs: 120_000 });
  const pid = await pidOf(`qemu-system.*sandbox-${id}`);
  await new Promise((resolve) => setTimeout(resolve, 300));
  const killedAt = Date.now();
  process.kill(pid, 'SIGKILL');
  const done = await running;
  assert.ok(Date.now() - killedAt < 10_000, `took ${String(Date.now() - killedAt)} ms`);
  assert.notEqual(done.code, 0);
  assert.match(done.stderr, /SIGKILL|killed/);
  await host.ctr(['containers', 'rm', id]);
  assert.deepEqual(await leftOf([id]), []);
});

test('the shim is killed while the guest boots: Create fails and nothing is left', async () => {
  const id = unique('createkill');
  const running = host.run(id, ['sleep', '1000'], { timeoutMs: 120_000 });
  await pidOf(`qemu-system.*sandbox-${id}`);
  process.kill(host.shimPid(id), 'SIGKILL');
  const done = await running;
  assert.notEqual(done.code, 0);
  await host.remove(id);
  assert.deepEqual(await leftOf([id]), []);
});

test('containerd is killed while the guest boots: the next one cleans up, and the id is free again', async () => {
  const id = unique('cdkill');
  const running = host.run(id, ['sleep', '1000'], { timeoutMs: 60_000 });
  await pidOf(`qemu-system.*sandbox-${id}`);
  await host.containerd.end('SIGKILL');
  assert.notEqual((await running).code, 0);
  await host.containerd.launch();
  await host.remove(id);
  await host.ctr(['snapshots', 'rm', id]);
  assert.deepEqual(await leftOf([id], 20_000), []);
  const done = await host.run(id, ['echo', 'again']);
  assert.deepEqual([done.code, done.stdout], [0, 'again\n'], done.stderr);
});
