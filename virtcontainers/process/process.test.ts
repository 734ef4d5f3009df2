import assert from 'node:assert/strict';
import { beforeEach, test } from 'node:test';
import { defer } from '../../base/deadline';
import { KataError } from '../../base/errors';
import { Logger } from '../../base/log';
import { FakeAgent } from '../sandbox/testing/fake-agent';
import { FakeIo } from '../sandbox/testing/world';
import { GuestProcess, type ProcessOptions } from './process';

let agent: FakeAgent;
let io: FakeIo;
beforeEach(() => {
  agent = new FakeAgent();
  io = new FakeIo();
});

function make(over: Partial<ProcessOptions> = {}): GuestProcess {
  return new GuestProcess({
    ref: { containerId: 'c1', execId: 'c1' }, name: 'container "c1"', terminal: false, io, agent, logger: Logger.none(),
    launch: () => agent.startContainer('c1'), ...over,
  });
}

test('an exit that comes before start returns is held, not lost', async () => {
  const process = make({
    launch: async () => {
      await agent.startContainer('c1');
      agent.exit('c1', 5);
    },
  });
  await process.start();
  assert.equal((await process.exited).status, 5);
  assert.equal(io.closed, true);
});

test('streams that cannot be opened fail the start before the guest runs anything', async () => {
  io.openFault = new KataError('NotFound', 'open /no/fifo');
  const process = make();
  await assert.rejects(process.start(), /open \/no\/fifo/);
  assert.deepEqual(agent.calls, []);
  assert.equal((await process.exited).status, 255);
  assert.equal(io.closed, true);
});

test('a launch whose answer is lost is killed in the guest', async () => {
  const process = make({ launch: () => Promise.reject(new KataError('DeadlineExceeded', 'no answer')) });
  await assert.rejects(process.start(), /no answer/);
  assert.deepEqual(agent.calls, ['signalProcess 9']);
  assert.equal(process.state, 'stopped');
});

test('signals: not before the start, not after the end', async () => {
  const process = make();
  await assert.rejects(process.signal(15), { code: 'FailedPrecondition' });
  await process.start();
  await process.signal(15);
  agent.exit('c1', 143);
  await process.exited;
  await assert.rejects(process.signal(9), /process already finished/);
  await assert.rejects(process.start(), { code: 'FailedPrecondition' });
});

test('the window size is kept until there is a console, and a pipe has none', async () => {
  const process = make({ terminal: true });
  await process.resize(24, 80);
  assert.equal(agent.calls.length, 0);
  await process.start();
  // A program may ask for the size first thing: its console, which a created container has, must have it by then.
  assert.deepEqual(agent.calls.slice(0, 2), ['ttyWinResize', 'startContainer']);
  agent.exit('c1', 0);
  await process.exited;
  const plain = make();
  await plain.resize(1, 1);
  assert.equal(agent.calls.filter((name) => name === 'ttyWinResize').length, 1);
});

test('output is delivered before the end is known', async () => {
  const order: string[] = [];
  const delivered = defer<undefined>();
  io.copy = async (streams) => {
    await streams.readStdout(1);
    await delivered.promise;
    order.push('output');
  };
  const process = make();
  await process.start();
  void process.exited.then(() => order.push('exit'));
  agent.exit('c1', 0);
  setImmediate(() => {
    delivered.resolve(undefined);
  });
  await process.exited;
  assert.deepEqual(order, ['output', 'exit']);
});

test('when the guest is gone, undelivered output does not hold the end back', async () => {
  io.copy = () => defer<undefined>().promise;
  const process = make();
  await process.start();
  process.lose();
  assert.equal((await process.exited).status, 255);
});

test('lost before it ran, and ended twice: one end', async () => {
  let ends = 0;
  const process = make({ onExit: () => ends++ });
  process.lose();
  process.end({ status: 1, at: new Date() });
  assert.equal((await process.exited).status, 255);
  assert.equal(ends, 1);
});

test('an agent that fails the wait gives 255', async () => {
  agent.faults.set('waitProcess', new KataError('Internal', 'nonsense'));
  const process = make();
  await process.start();
  agent.exit('c1', 3);
  assert.equal((await process.exited).status, 255);
});
