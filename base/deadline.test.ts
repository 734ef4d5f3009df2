import assert from 'node:assert/strict';
import { test } from 'node:test';
import { defer, sleep, timeoutSignal, withTimeout } from './deadline';
import { isCode, KataError } from './errors';

const late = (): KataError => new KataError('DeadlineExceeded', 'late');

test('withTimeout gives the result, the time-out or the abort reason, whichever is first', async () => {
  assert.equal(await withTimeout(Promise.resolve(7), 1000, late), 7);
  await assert.rejects(withTimeout(new Promise(() => undefined), 5, late), /late/);
  const controller = new AbortController();
  const waiting = withTimeout(new Promise(() => undefined), 10_000, late, controller.signal);
  controller.abort(new KataError('Unavailable', 'the VM is gone'));
  await assert.rejects(waiting, (error) => isCode(error, 'Unavailable'));
  await assert.rejects(withTimeout(new Promise(() => undefined), 10_000, late, controller.signal), /the VM is gone/);
});

test('a promise that fails after its time-out is no unhandled rejection', async () => {
  const slow = defer<number>();
  await assert.rejects(withTimeout(slow.promise, 1, late), /late/);
  slow.reject(new KataError('Internal', 'too late to matter'));
  await sleep(1);
});

test('sleep ends at once when the signal fires', async () => {
  const controller = new AbortController();
  const sleeping = sleep(60_000, controller.signal);
  controller.abort();
  await assert.rejects(sleeping, (error) => isCode(error, 'Canceled'));
});

test('timeoutSignal fires by time and by its parent, and disposing frees it', async () => {
  const timed = timeoutSignal(1, late);
  await sleep(10);
  assert.equal(timed.signal.aborted, true);
  const parent = new AbortController();
  const child = timeoutSignal(60_000, late, parent.signal);
  parent.abort(late());
  assert.equal(child.signal.aborted, true);
  child.dispose();
});
