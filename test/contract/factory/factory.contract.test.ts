/** What every kind of factory must do, over the mock hypervisor with our real agent. Needs root. */
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { KataError } from '../../../base/errors';
import { newFactory, type FactoryOptions } from '../../../factory/create';
import type { Factory } from '../../../factory/factory';
import { NO_MOUNTS } from '../../../factory/testing/fakes';
import type { BaseKind } from '../../../factory/types';
import type { BootedVm } from '../../../virtcontainers/sandbox/boot';
import { isPaused, MockWorld } from './mock-world';

const skip = !existsSync(join(__dirname, '../../../build/agent.cjs')) ? 'build/agent.cjs is missing: run make build' : process.getuid?.() === 0 ? false : 'needs root';
const GO = new AbortController().signal;

interface Kind {
  readonly kind: BaseKind;
  readonly source: 'direct' | 'template' | 'cache';
  /** What a VM that cannot be resumed is counted as. */
  readonly reason: string;
}

const KINDS: readonly Kind[] = [
  { kind: 'direct', source: 'direct', reason: 'prepare-failed' },
  { kind: 'template', source: 'template', reason: 'template-failed' },
  { kind: 'cache', source: 'cache', reason: 'cache-failed' },
  { kind: 'grpc-cache', source: 'cache', reason: 'cache-unreachable' },
];

function inMock(work: (world: MockWorld) => Promise<void>): () => Promise<void> {
  return async () => {
    const world = new MockWorld();
    try {
      await work(world);
    } finally {
      await world.dispose();
      assert.deepEqual(world.left(), []);
    }
  };
}

/** Not paused, and its agent answers. */
async function assertWorks({ vm, agent }: Pick<BootedVm, 'vm' | 'agent'>): Promise<void> {
  assert.equal(isPaused(vm), false);
  await agent.check();
  assert.notEqual((await agent.getGuestDetails()).agentVersion, '');
}

function hitsOf(factory: Factory): number {
  return Object.values(factory.status().counts.hits).reduce((sum, count) => sum + count, 0);
}

for (const { kind, source, reason } of KINDS) {
  describe(`factory: ${kind}`, { skip }, () => {
    test('getVm gives a running VM, reseeded and with the time, and counts it', inMock(async (world) => {
      const factory = await world.factory(kind);
      const calls: string[] = [];
      const got = await factory.getVm(world.spec('one'), GO, (call) => calls.push(call));
      assert.ok(got.vm !== undefined);
      await assertWorks(got);
      assert.equal(got.source, source);
      assert.deepEqual(calls.filter((call) => /Reseed|DateTime/.test(call)).sort(), ['ReseedRandomDevRequest', 'SetGuestDateTimeRequest']);
      assert.equal(hitsOf(factory), source === 'direct' ? 0 : 1);
      assert.deepEqual(factory.status().counts.fallbacks, {});
      got.agent.close();
      await got.vm.stop();
    }));

    test('config is what its VMs are made from; status names its kind and its stock', inMock(async (world) => {
      const factory = await world.factory(kind);
      assert.deepEqual(factory.config, world.base);
      const { kinds, stock } = factory.status();
      assert.deepEqual(kinds, [kind]);
      assert.equal(stock.length, kind === 'cache' ? 1 : 0);
      for (const { pid, vcpus, memoryMiB } of stock) {
        assert.deepEqual([vcpus, memoryMiB], [1, 256]);
        await world.until(() => world.vms.some((vm) => vm.pid === pid && isPaused(vm)));
      }
    }));

    test('a mismatch gives a working VM of its own, counted with its reason', inMock(async (world) => {
      const factory = await world.factory(kind);
      const config = { ...world.base.hypervisor, kernelParams: 'other' };
      const booted = await world.boot(factory, world.spec('other', { config }));
      await assertWorks(booted);
      assert.deepEqual([booted.source, booted.fallback], ['direct', 'config-mismatch']);
      assert.deepEqual(factory.status().counts.fallbacks, { 'config-mismatch': 1 });
      assert.match(world.log.join(''), /fallback to direct factory vm.*reason="hypervisor config does not match: kernelParams"/);
    }));

    test('a VM that cannot be resumed is freed, and the sandbox gets one that works', inMock(async (world) => {
      const factory = await world.factory(kind);
      world.faults.add('resume');
      const booted = await world.boot(factory, world.spec('unlucky'));
      await assertWorks(booted);
      assert.deepEqual([booted.source, booted.fallback], ['direct', reason]);
      assert.deepEqual(factory.status().counts.fallbacks, { [reason]: 1 });
      assert.equal(hitsOf(factory), 0);
      await world.until(() => factory.status().stock.length === (kind === 'cache' ? 1 : 0));
      const stocked = world.vms.filter((vm) => vm.id.startsWith('cache-') && vm.facts().alive);
      assert.deepEqual(world.left([booted.vm, ...stocked]), []);
    }));

    test('a request that is given up rejects with the reason and leaves nothing', inMock(async (world) => {
      const factory = await world.factory(kind);
      const controller = new AbortController();
      controller.abort(new KataError('Canceled', 'the caller went away'));
      await assert.rejects(factory.getVm(world.spec('gone'), controller.signal), { code: 'Canceled' });
      assert.deepEqual(factory.status().counts.fallbacks, {});
    }));

    test('close ends the stock, is idempotent, and leaves what was handed out alone', inMock(async (world) => {
      const factory = await world.factory(kind);
      const booted = await world.boot(factory, world.spec('kept'));
      await factory.close();
      await factory.close();
      assert.deepEqual(factory.status().stock, []);
      await assertWorks(booted);
    }));
  });
}

describe('factory: what it is built from', { skip }, () => {
  const options = (world: MockWorld, changes: Partial<FactoryOptions>): FactoryOptions => ({
    base: world.base, template: false, templatePath: world.templatePath, vmCache: false, cacheCount: 0, cacheEndpoint: join(world.root, 'none.sock'), fetchOnly: false,
    deps: world.deps, mounts: NO_MOUNTS, ...changes,
  });

  test('the rules of selection', inMock(async (world) => {
    const kinds = async (changes: Partial<FactoryOptions>): Promise<readonly BaseKind[]> => {
      const factory = newFactory(options(world, changes));
      const { kinds: chosen } = factory.status();
      await factory.close();
      return chosen;
    };
    assert.throws(() => newFactory(options(world, { fetchOnly: true, cacheCount: 1 })), { code: 'InvalidArgument', message: /cache factory does not support fetch/ });
    assert.throws(() => newFactory(options(world, { fetchOnly: true, template: true })), { code: 'NotFound' });
    assert.deepEqual(await kinds({}), ['direct']);
    assert.deepEqual(await kinds({ template: true }), ['template']);
    assert.deepEqual(await kinds({ vmCache: true }), ['grpc-cache']);
    assert.deepEqual(await kinds({ vmCache: true, template: true }), ['grpc-cache', 'template']);
    assert.deepEqual(await kinds({ vmCache: true, cacheCount: 1 }), ['cache']);
    assert.deepEqual(await kinds({ vmCache: true, template: true, cacheCount: 1 }), ['cache']);
  }));

  test('a cache over a template hands out warmed clones', inMock(async (world) => {
    const factory = newFactory(options(world, { template: true, cacheCount: 1 }));
    await world.until(() => factory.status().stock.length === 1);
    assert.equal(factory.status().stock[0]?.source, 'template');
    const booted = await world.boot(factory, world.spec('warm'));
    await assertWorks(booted);
    assert.equal(booted.source, 'cache');
    await factory.close();
  }));

  test('without a server the template serves, and the miss is counted', inMock(async (world) => {
    const factory = newFactory(options(world, { vmCache: true, template: true }));
    const booted = await world.boot(factory, world.spec('missed'));
    await assertWorks(booted);
    assert.equal(booted.source, 'template');
    assert.deepEqual(factory.status().counts, { hits: { template: 1, cache: 0 }, misses: 1, fallbacks: {} });
  }));

  test('a template that does not load costs one boot, and is made anew', inMock(async (world) => {
    const factory = await world.factory('template');
    await assertWorks(await world.boot(factory, world.spec('first')));
    world.faults.add('start');
    const booted = await world.boot(factory, world.spec('second'));
    await assertWorks(booted);
    assert.deepEqual([booted.source, booted.fallback], ['direct', 'template-failed']);
    assert.equal((await world.boot(factory, world.spec('third'))).source, 'template');
  }));
});
