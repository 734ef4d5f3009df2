import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { test } from 'node:test';
import { Host } from '../support/host';
import { hostForSuite } from '../support/suite';

let host: Host;

hostForSuite((started) => {
  host = started;
}, { checkEach: true });

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
  const started = await host.runWithSpec('panic', ['sleep', '1000'], (spec) => {
    spec.linux = { ...spec.linux, readonlyPaths: [], maskedPaths: [] };
  }, { detach: true });
  assert.equal(started.code, 0, started.stderr);
  const fired = host.exec('panic', ['sh', '-c', 'echo c > /proc/sysrq-trigger'], { timeoutMs: 60_000 });
  await host.waitForStatus('panic', 'STOPPED', 60_000);
  await fired;
  await host.remove('panic');
});

test('the virtual machine hangs and is then killed: the waiter gets an answer and nothing is left', async () => {
  const code = await expectAnswer('hang', async () => {
    const pid = host.vmPid('hang');
    process.kill(pid, 'SIGSTOP');
    await new Promise((resolve) => setTimeout(resolve, 200));
    process.kill(pid, 'SIGKILL');
  });
  assert.notEqual(code, 0);
});

test('the agent is killed: the waiter gets an answer and nothing is left', async () => {
  // In a VM the agent is PID 1, which its own kernel does not let be killed; its end is the panic above. As a host
  // process (mock) it can be.
  const mock = await Host.start('mock');
  try {
    const waiting = mock.run('agentkill', ['sleep', '1000'], { timeoutMs: 60_000 });
    await mock.waitForStatus('agentkill', 'RUNNING', 30_000);
    const pids = execFileSync('pgrep', ['-f', 'agent.cjs.*/vm/agentkill/agent.sock'], { encoding: 'utf8' }).trim().split('\n').map(Number);
    process.kill(Math.max(...pids), 'SIGKILL');
    assert.notEqual((await waiting).code, 0);
  } finally {
    await mock.stop();
  }
});

test('a pod can be made again under the same id right after its shim was killed', async () => {
  await host.runDetached('again', ['sleep', '1000']);
  process.kill(host.shimPid('again'), 'SIGKILL');
  const done = await host.runAgain('again', ['echo', 'back']);
  assert.deepEqual([done.code, done.stdout], [0, 'back\n'], done.stderr);
});
