import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { AgentClient, GuestDetails } from '../agent-client/types';
import { KataError } from '../base/errors';
import { Logger } from '../base/log';
import { warmUp } from './warm-up';

const GO = new AbortController().signal;
const logger = Logger.to(() => undefined, 'debug');

/** An agent that notes its calls; `failing` rejects. */
function agentWith(extraFeatures: readonly string[], calls: string[], failing?: string): AgentClient {
  const details: Partial<GuestDetails> = { extraFeatures };
  return new Proxy({} as AgentClient, {
    get: (_, name) => (): Promise<unknown> => {
      calls.push(String(name));
      return name === failing ? Promise.reject(new KataError('Internal', 'refused')) : Promise.resolve(name === 'getGuestDetails' ? details : undefined);
    },
  });
}

function count(calls: readonly string[], name: string): number {
  return calls.filter((call) => call === name).length;
}

test('what the warm-up makes in our guest is gone when it answers', async () => {
  const calls: string[] = [];
  await warmUp(agentWith(['kata-ts'], calls), Date.now(), logger, GO);
  assert.ok(count(calls, 'startContainer') > 1);
  assert.equal(count(calls, 'createContainer'), count(calls, 'removeContainer'));
  assert.equal(count(calls, 'createSandbox'), count(calls, 'destroySandbox'));
  assert.equal(calls.at(-1), 'destroySandbox');
});

test('a warm-up that fails half way leaves nothing and does not reject', async () => {
  for (const failing of ['createContainer', 'startContainer', 'waitProcess']) {
    const calls: string[] = [];
    await warmUp(agentWith(['kata-ts'], calls, failing), Date.now(), logger, GO);
    assert.equal(count(calls, 'removeContainer'), failing === 'createContainer' ? 0 : 1, failing);
    assert.equal(calls.at(-1), 'destroySandbox', failing);
  }
});

test('an agent that is not ours is asked to make nothing', async () => {
  const calls: string[] = [];
  await warmUp(agentWith([], calls), Date.now(), logger, GO);
  assert.deepEqual(calls.sort(), ['getGuestDetails', 'reseedRandom', 'setGuestDateTime', 'updateRoutes']);
});

test('a guest in which something of the warm-up stays is refused', async () => {
  await assert.rejects(warmUp(agentWith(['kata-ts'], [], 'destroySandbox'), Date.now(), logger, GO), { code: 'Internal', message: /warm the guest up: .*refused/ });
});

test('a warm-up is ended at once when nobody wants the guest any more', async () => {
  const gone = new KataError('Canceled', 'the cache is closed');
  const controller = new AbortController();
  let hangUp: (reason: KataError) => void = () => undefined;
  const hanging = new Promise<never>((_, reject) => {
    hangUp = reject;
  });
  const plain = agentWith(['kata-ts'], []);
  const agent = new Proxy(plain, {
    get: (target, name) => {
      if (name === 'close') {
        return () => {
          hangUp(new KataError('Unavailable', 'closed'));
        };
      }
      return name === 'startContainer' ? () => { controller.abort(gone); return hanging; } : name === 'destroySandbox' ? () => hanging : Reflect.get(target, name) as unknown;
    },
  });
  await assert.rejects(warmUp(agent, Date.now(), logger, controller.signal), (reason) => reason === gone);
  await assert.rejects(warmUp(agent, Date.now(), logger, controller.signal), (reason) => reason === gone);
});
