/** Factories whose guests are reached by vsock: real bytes over real sockets, the addresses made up. */
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { CacheFactory } from '../../../factory/cache/cache';
import { newFactory, type FactoryOptions } from '../../../factory/create';
import { DirectFactory } from '../../../factory/direct/direct';
import { callCache } from '../../../factory/grpc-cache/call';
import { CacheServer } from '../../../factory/grpc-cache/server';
import { decodeVm, RPC } from '../../../factory/grpc-cache/wire';
import { templateKey } from '../../../factory/template/key';
import { FakeVsock, inWorld, NO_MOUNTS, type FactoryWorld } from '../../../factory/testing/fakes';
import { openChannel } from '../../../virtcontainers/hypervisor/qemu/vsock';

const GO = new AbortController().signal;

function inVsockWorld(work: (world: FactoryWorld, vsock: FakeVsock) => Promise<void>): () => Promise<void> {
  return inWorld(async (world) => {
    world.vsock = new FakeVsock();
    await work(world, world.vsock);
  });
}

function options(world: FactoryWorld, changes: Partial<FactoryOptions>): FactoryOptions {
  return {
    base: world.base(), template: false, templatePath: world.templatePath, vmCache: false, cacheCount: 0, cacheEndpoint: join(world.root, 'cache.sock'), fetchOnly: false,
    deps: world.deps, mounts: NO_MOUNTS, ...changes,
  };
}

test('a clone is reached at its own address, never at the template\'s', inVsockWorld(async (world, vsock) => {
  const factory = newFactory(options(world, { template: true }));
  const one = await factory.getVm(world.spec('one'), GO);
  const two = await factory.getVm(world.spec('two'), GO);
  assert.ok(one.vm !== undefined && two.vm !== undefined);
  const [template, first, second] = vsock.cids;
  assert.equal(new Set(vsock.cids).size, 3);
  assert.deepEqual(vsock.dialled, [template, first, second], 'the template while it was made, then each clone once');
  assert.deepEqual([one.vm.agentUrl, two.vm.agentUrl], [`vsock://${String(first)}:1024`, `vsock://${String(second)}:1024`]);
  assert.deepEqual([one.vm.state().agentUrl, two.vm.state().agentUrl], [one.vm.agentUrl, two.vm.agentUrl], 'and so it is on disk');
  await Promise.all([one.agent.check(), two.agent.check()]);
  one.agent.close();
  two.agent.close();
}));

test('a VM of the cache server brings its address with it', inVsockWorld(async (world, vsock) => {
  const cache = new CacheFactory(new DirectFactory(world.base(), world.deps), world.deps, { count: 2, transferable: true });
  const endpoint = join(world.root, 'cache.sock');
  const server = await CacheServer.start({ endpoint, cache, logger: world.logger, quitDelayMs: 1, takeTimeoutMs: 2000 });
  try {
    while (cache.stock().length < 2) {
      await new Promise((resolve) => setTimeout(resolve, 2));
    }
    const raw = await callCache(endpoint, RPC.GetBaseVM, {}, { timeoutMs: 2000 });
    assert.equal(raw.proxyUrl, `vsock://${String(vsock.cids[0])}:1024`);
    assert.equal(decodeVm(raw).state.agentUrl, raw.proxyUrl);
    const factory = newFactory(options(world, { vmCache: true }));
    const got = await factory.getVm(world.spec('box'), GO);
    assert.ok(got.vm !== undefined);
    assert.equal(got.source, 'cache');
    assert.equal(got.vm.agentUrl, `vsock://${String(vsock.cids[1])}:1024`);
    assert.equal(vsock.dialled.at(-1), vsock.cids[1]);
    await got.agent.check();
    got.agent.close();
  } finally {
    await server.stop();
  }
}));

test('a clone that nobody reaches at its address is ended, and the sandbox boots', inVsockWorld(async (world, vsock) => {
  const factory = newFactory(options(world, { template: true }));
  const first = await factory.getVm(world.spec('one'), GO);
  assert.ok(first.vm !== undefined);
  first.agent.close();
  vsock.listen = () => 'vsock://4294967294:1024';
  assert.deepEqual(await factory.getVm(world.spec('lost'), GO), { vm: undefined, fallback: 'template-failed' });
  assert.equal(world.vms.at(-1)?.stopped, true);
}));

test('the channel is chosen by fact, and a host that changes its mind makes another template', inVsockWorld(async (world) => {
  assert.deepEqual(openChannel('serial'), { kind: 'serial' });
  if (!existsSync('/dev/vhost-vsock')) {
    assert.deepEqual(openChannel('auto'), { kind: 'serial' });
    assert.throws(() => openChannel('vsock'), { hint: 'modprobe vhost_vsock, or set agent_channel = "auto"' });
  }
  const host = (vsock: number): string => `boot x64 0 ${String(vsock)}`;
  assert.notEqual(templateKey(world.base(), host(0)), templateKey(world.base(), host(2804)));
  return Promise.resolve();
}));
