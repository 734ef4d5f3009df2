import assert from 'node:assert/strict';
import { test } from 'node:test';
import { defer } from '../../base/deadline';
import { KataError } from '../../base/errors';
import { Logger } from '../../base/log';
import type { VmSpec } from '../hypervisor/types';
import { Monitor } from './monitor';
import { OomWatch } from './oom';
import { FakeAgent } from './testing/fake-agent';
import { FakeVm } from './testing/fake-vm';

const PERIOD_MS = 1;

/** The monitor's timer does not keep a process alive; a test does. */
async function kept<T>(work: Promise<T>): Promise<T> {
  const timer = setInterval(() => undefined, 1000);
  try {
    return await work;
  } finally {
    clearInterval(timer);
  }
}

test('a VMM that says the guest is not well is reported once', async () => {
  const vm = new FakeVm({} as VmSpec);
  vm.failCheck = new KataError('Internal', 'guest-panicked');
  const failed = defer<KataError>();
  const monitor = new Monitor(vm, new FakeAgent(), (reason) => {
    failed.resolve(reason);
  }, PERIOD_MS);
  monitor.start();
  assert.match((await kept(failed.promise)).message, /failed to ping hypervisor process: guest-panicked/);
});

test('an agent is given a second chance', async () => {
  const agent = new FakeAgent();
  const failed = defer<KataError>();
  agent.faults.set('check', new KataError('DeadlineExceeded', 'no answer'));
  const monitor = new Monitor(new FakeVm({} as VmSpec), agent, (reason) => {
    failed.resolve(reason);
  }, PERIOD_MS);
  monitor.start();
  assert.match((await kept(failed.promise)).message, /failed to ping agent: no answer/);
  assert.equal(agent.calls.length, 2);
});

test('after stop nothing is reported', async () => {
  const vm = new FakeVm({} as VmSpec);
  const asked = defer<undefined>();
  const answer = defer<undefined>();
  vm.check = () => {
    asked.resolve(undefined);
    return answer.promise;
  };
  let reports = 0;
  const monitor = new Monitor(vm, new FakeAgent(), () => reports++, PERIOD_MS);
  monitor.start();
  await kept(asked.promise);
  monitor.stop();
  answer.reject(new KataError('Internal', 'too late'));
  await new Promise((resolve) => {
    setImmediate(resolve);
  });
  assert.equal(reports, 0);
});

test('an agent that knows no out-of-memory events holds no exit back', async () => {
  const agent = new FakeAgent();
  agent.faults.set('getOomEvent', new KataError('Unimplemented', 'no'));
  const watch = new OomWatch(agent, Logger.none(), () => undefined);
  await watch.run();
  const from = performance.now();
  await watch.settled('c1');
  assert.ok(performance.now() - from < 50);
});

test('without an event the wait ends by itself, with one at once', async () => {
  const agent = new FakeAgent();
  const seen: string[] = [];
  const watch = new OomWatch(agent, Logger.none(), (id) => seen.push(id));
  const running = watch.run();
  await watch.settled('c1');
  const settled = watch.settled('c2');
  agent.reportOom('c2');
  await settled;
  assert.deepEqual(seen, ['c2']);
  watch.stop();
  await running;
});
