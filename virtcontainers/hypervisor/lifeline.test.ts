import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Child, describeExit, processStartTime } from '../../base/child';
import { AdoptedProcess } from './lifeline';

test('an adopted process that was killed ended, and nobody claims to know how', async () => {
  const child = Child.start('sleep', ['1000']);
  const startTime = processStartTime(child.pid) ?? '';
  const adopted = new AdoptedProcess({ name: 'vmm', pid: child.pid, startTime });
  assert.equal(adopted.exit, undefined);
  child.kill('SIGKILL');
  const exit = await Promise.race([adopted.exited, child.exited.then(() => { adopted.look(); return adopted.exited; })]);
  assert.deepEqual(exit, { code: null, signal: null });
  assert.equal(describeExit(exit), 'a status that only its parent was told');
});
