import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Child, isProcessAlive, processStartTime, run } from './child';
import { isCode } from './errors';

test('run returns stdout, and a failure carries exit and stderr', async () => {
  assert.equal(await run('sh', ['-c', 'cat; echo out'], { timeoutMs: 10_000, input: 'in ' }), 'in out\n');
  await assert.rejects(run('sh', ['-c', 'echo broken >&2; exit 3'], { timeoutMs: 10_000 }), /exit code 3: broken/);
});

test('run kills what does not end in time', async () => {
  await assert.rejects(run('sleep', ['100'], { timeoutMs: 20 }), (error) => isCode(error, 'DeadlineExceeded'));
});

test('a program that is not there is NotFound and named', () => {
  assert.throws(() => Child.start('/no/such/qemu', []), (error) => isCode(error, 'NotFound') && /\/no\/such\/qemu/.test(String(error)));
  assert.throws(() => Child.start('no-such-program-at-all', []), (error) => isCode(error, 'NotFound'));
});

test('stop asks first and kills one that does not listen', async () => {
  const polite = Child.start('sleep', ['100']);
  assert.deepEqual(await polite.stop(5000), { code: null, signal: 'SIGTERM' });
  const deaf = Child.start('sh', ['-c', 'trap "" TERM; echo ready; while :; do sleep 0.05; done']);
  while (deaf.stdout === '') {
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
  assert.deepEqual(await deaf.stop(20), { code: null, signal: 'SIGKILL' });
  assert.equal(deaf.kill(), false);
});

test('a process is known by pid and start time; a zombie is not alive', async () => {
  const child = Child.start('sleep', ['100']);
  const start = processStartTime(child.pid);
  assert.ok(start !== undefined);
  assert.equal(isProcessAlive(child.pid, start), true);
  assert.equal(isProcessAlive(child.pid, '1'), false);
  child.kill();
  await child.exited;
  assert.equal(isProcessAlive(child.pid, start), false);
});
