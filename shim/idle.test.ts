import assert from 'node:assert/strict';
import { mock, test } from 'node:test';
import { IdleWatch } from './idle';

interface Watched {
  readonly watch: IdleWatch;
  isEmpty: boolean;
  ended: number;
}

function watched(): Watched {
  const state: { isEmpty: boolean; ended: number } = { isEmpty: true, ended: 0 };
  const watch = new IdleWatch({ timeoutMs: 1000, isEmpty: () => state.isEmpty, onIdle: () => state.ended++ });
  return Object.assign(state, { watch });
}

test('a shim ends when nobody calls: never, not any more; it stays for a caller, and for a task', (t) => {
  mock.timers.enable({ apis: ['setTimeout'] });
  t.after(() => mock.timers.reset());

  const uncalled = watched();
  mock.timers.tick(999);
  assert.equal(uncalled.ended, 0);
  mock.timers.tick(1);
  assert.equal(uncalled.ended, 1);

  const called = watched();
  const [leaveFirst, leaveSecond] = [called.watch.enter(), called.watch.enter()];
  mock.timers.tick(5000);
  leaveFirst();
  mock.timers.tick(5000);
  assert.equal(called.ended, 0, 'one caller is left');
  leaveSecond();
  mock.timers.tick(500);
  called.watch.enter()();
  mock.timers.tick(999);
  assert.equal(called.ended, 0, 'the time starts anew with each caller');
  mock.timers.tick(1);
  assert.equal(called.ended, 1);

  const busy = watched();
  const leave = busy.watch.enter();
  busy.isEmpty = false;
  leave();
  mock.timers.tick(100_000);
  assert.equal(busy.ended, 0, 'a task is there');
  const leaveAgain = busy.watch.enter();
  busy.isEmpty = true;
  leaveAgain();
  mock.timers.tick(1000);
  assert.equal(busy.ended, 1);
  busy.watch.enter()();
  mock.timers.tick(1000);
  assert.equal(busy.ended, 1, 'once');

  const stopped = watched();
  stopped.watch.stop();
  mock.timers.tick(5000);
  assert.equal(stopped.ended, 0);
});
