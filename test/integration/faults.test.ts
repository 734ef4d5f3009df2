import assert from 'node:assert/strict';
import { after, afterEach, before, test } from 'node:test';
import { Host } from '../support/host';
import { leakedSince, takeInventory, type Inventory } from '../support/leaks';

let host: Host;
let clean: Inventory;

before(async () => {
  host = await Host.start('qemu');
  clean = takeInventory();
});

afterEach(async () => {
  assert.deepEqual(await leakedSince(clean), []);
});

after(async () => {
  await host.stop();
});

/** Runs `sleep` in the foreground, lets the fault happen, and expects an answer of the waiter within 30 s. */
async function expectAnswer(id: string, fault: () => Promise<void> | void): Promise<number> {
  const waiting = host.run(id, ['sleep', '1000'], { timeoutMs: 120_000 });
  await host.waitForStatus(id, 'RUNNING', 90_000);
  const happened = Date.now();
  await fault();
  const done = await waiting;
  assert.ok(Date.now() - happened < 30_000, `the waiter had to wait ${String(Date.now() - happened)} ms`);
  await host.remove(id);
  return done.code;
}

test('the VMM is killed: the waiter gets an answer and nothing is left', async () => {
  const code = await expectAnswer('vmkill', () => {
    process.kill(host.vmPid('vmkill'), 'SIGKILL');
  });
  assert.notEqual(code, 0);
});

test('the shim is killed: containerd learns of it, delete cleans up and nothing is left', async () => {
  const code = await expectAnswer('shimkill', () => {
    process.kill(host.shimPid('shimkill'), 'SIGKILL');
  });
  assert.notEqual(code, 0);
});

test('the guest kernel panics: the waiter gets an answer and nothing is left', async () => {
  const args = ['--privileged'];
  await host.runDetached('panic', ['sleep', '1000'], { args });
  const fired = host.exec('panic', ['sh', '-c', 'echo c > /proc/sysrq-trigger'], { timeoutMs: 60_000 });
  await host.waitForStatus('panic', 'STOPPED', 60_000);
  await fired;
  await host.remove('panic');
});

test('the agent is killed (PID 1 of the guest ends): the waiter gets an answer and nothing is left', async () => {
  // The agent is PID 1 of the guest; the kernel panics when it dies. Seen from a privileged container's host PID view
  // it cannot be signalled, so the channel is cut instead: QEMU is stopped (SIGSTOP), the guest does not answer.
  const code = await expectAnswer('agentgone', async () => {
    const pid = host.vmPid('agentgone');
    process.kill(pid, 'SIGSTOP');
    await new Promise((resolve) => setTimeout(resolve, 200));
    process.kill(pid, 'SIGKILL');
  });
  assert.notEqual(code, 0);
});

test('a pod can be made again under the same id right after its shim was killed', async () => {
  await host.runDetached('again', ['sleep', '1000']);
  process.kill(host.shimPid('again'), 'SIGKILL');
  await host.remove('again');
  const done = await host.run('again', ['echo', 'back']);
  assert.deepEqual([done.code, done.stdout], [0, 'back\n'], done.stderr);
});
