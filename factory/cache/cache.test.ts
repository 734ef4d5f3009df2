import assert from 'node:assert/strict';
import { existsSync, statSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { test } from 'node:test';
import { credentials, makeGenericClientConstructor } from '@grpc/grpc-js';
import { GrpcStatus, GrpcVMConfig } from '../../gen/cache/cache';
import { DirectFactory } from '../direct/direct';
import { newFactory } from '../create';
import { callCache } from '../grpc-cache/call';
import type { Factory } from '../factory';
import { CacheServer } from '../grpc-cache/server';
import { RPC } from '../grpc-cache/wire';
import { inWorld, NO_MOUNTS, type FactoryWorld } from '../testing/fakes';
import type { BaseConfig } from '../types';
import { CacheFactory } from './cache';

const GO = new AbortController().signal;

function cacheOf(world: FactoryWorld, count: number): CacheFactory {
  return new CacheFactory(new DirectFactory(world.base(), world.deps), world.deps, { count, firstRetryMs: 5 });
}

async function until(done: () => boolean): Promise<void> {
  for (let i = 0; i < 1000 && !done(); i++) {
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
  assert.ok(done(), 'it never came true');
}

async function serve(world: FactoryWorld, count: number, takeTimeoutMs = 1000): Promise<{ cache: CacheFactory; server: CacheServer; endpoint: string }> {
  const cache = cacheOf(world, count);
  const endpoint = join(world.root, 'run', 'cache.sock');
  const server = await CacheServer.start({ endpoint, cache, logger: world.logger, quitDelayMs: 1, takeTimeoutMs });
  return { cache, server, endpoint };
}

test('the stock is filled with paused VMs, and refilled when one is taken', inWorld(async (world) => {
  const cache = cacheOf(world, 2);
  await until(() => cache.stock().length === 2);
  assert.deepEqual(world.vms.map(({ calls }) => calls.at(-1)), ['pause', 'pause']);
  const taken = await cache.getBaseVm();
  await until(() => cache.stock().length === 2);
  assert.equal(cache.stock().some(({ id }) => id === taken.vm.id), false);
  await cache.close();
  assert.equal(world.vms.filter(({ stopped }) => stopped).length, 2, 'what was taken lives on');
}));

test('an empty cache answers at once', inWorld(async (world) => {
  world.beforeStart = () => new Promise(() => undefined);
  const cache = new CacheFactory(new DirectFactory(world.base(), world.deps), world.deps, { count: 1 });
  await assert.rejects(cache.getBaseVm(), { code: 'ResourceExhausted', message: /no virtual machine in stock/ });
}));

test('VMs that cannot be made never close the cache', inWorld(async (world) => {
  let failures = 3;
  world.beforeStart = () => {
    if (failures-- > 0) {
      world.faults.add('start');
    }
    return Promise.resolve();
  };
  const cache = cacheOf(world, 1);
  await until(() => cache.stock().length === 1);
  assert.equal(world.vms.length, 4);
  assert.equal(world.vms.slice(0, 3).every(({ stopped }) => stopped), true);
  await cache.close();
}));

test('a VM that dies in stock is replaced', inWorld(async (world) => {
  const cache = cacheOf(world, 1);
  await until(() => cache.stock().length === 1);
  world.vms[0]?.die();
  await until(() => cache.stock()[0]?.id === world.vms[1]?.id);
  await cache.close();
}));

test('a VM goes from the server to a client and outlives the server; what is in stock does not', inWorld(async (world) => {
  const { cache, server, endpoint } = await serve(world, 1);
  await until(() => cache.stock().length === 1);
  const factory = newFactory({
    base: world.base(), template: false, templatePath: world.templatePath, vmCache: true, cacheCount: 0, cacheEndpoint: endpoint, fetchOnly: false, deps: world.deps, mounts: NO_MOUNTS,
  });
  const got = await factory.getVm(world.spec('box', { vcpus: 2 }), GO);
  assert.ok(got.vm !== undefined);
  assert.equal(got.source, 'cache');
  assert.deepEqual(world.vms[0]?.calls.slice(-5), ['resume', 'reseed', 'clock', 'vcpus 2', 'online 1']);
  await until(() => cache.stock().length === 1);
  await server.stop();
  assert.equal(world.vms[0].stopped, false);
  assert.equal(world.vms[1]?.stopped, true);
  assert.equal(existsSync(endpoint), false);
  assert.deepEqual(factory.status().counts.hits, { template: 0, cache: 1 });
  got.agent.close();
}));

test('a client whose VMs would be others is refused, one that only wants another size is not', inWorld(async (world) => {
  const { cache, server, endpoint } = await serve(world, 1);
  await until(() => cache.stock().length === 1);
  const factoryOf = (base: BaseConfig): Factory => newFactory({
    base, template: false, templatePath: world.templatePath, vmCache: true, cacheCount: 0, cacheEndpoint: endpoint, fetchOnly: false, deps: world.deps, mounts: NO_MOUNTS,
  });
  const others: BaseConfig[] = [world.base({ kernelParams: ['agent.log=trace'] }), world.base({ hypervisor: { ...world.base().hypervisor, kernel: '/other/vmlinux' } })];
  for (const [at, base] of others.entries()) {
    const factory = factoryOf(base);
    const spec = world.spec(`other${String(at)}`, { config: base.hypervisor, kernelParams: base.kernelParams });
    assert.deepEqual(await factory.getVm(spec, GO), { vm: undefined, fallback: 'config-mismatch' });
    assert.deepEqual(factory.status().counts.fallbacks, { 'config-mismatch': at + 1 });
  }
  assert.equal(cache.stock().length, 1);
  const got = await factoryOf(world.base({ vcpus: 2 })).getVm(world.spec('larger', { vcpus: 2 }), GO);
  assert.ok(got.vm !== undefined);
  assert.equal(got.source, 'cache');
  got.agent.close();
  await server.stop();
}));

test('a VM that nobody takes is ended', inWorld(async (world) => {
  const { cache, server, endpoint } = await serve(world, 1, 20);
  await until(() => cache.stock().length === 1);
  await callCache(endpoint, RPC.GetBaseVM, {}, { timeoutMs: 2000 });
  await until(() => world.vms[0]?.stopped === true);
  await server.stop();
}));

test('the server speaks to any gRPC client', inWorld(async (world) => {
  const { cache, server, endpoint } = await serve(world, 2);
  await until(() => cache.stock().length === 2);
  assert.equal(statSync(endpoint).mode & 0o777, 0o600);
  const method = (path: string, decode: (bytes: Buffer) => unknown): object => ({
    path, requestStream: false, responseStream: false, requestSerialize: () => Buffer.alloc(0), requestDeserialize: () => ({}), responseSerialize: () => Buffer.alloc(0), responseDeserialize: decode,
  });
  const Client = makeGenericClientConstructor(
    { config: method('/cache.CacheService/Config', (bytes) => GrpcVMConfig.decode(bytes)), status: method('/cache.CacheService/Status', (bytes) => GrpcStatus.decode(bytes)) } as never, 'cache.CacheService',
  );
  const client = new Client(`unix:${endpoint}`, credentials.createInsecure());
  const ask = (name: 'config' | 'status'): Promise<unknown> => new Promise((resolve, reject) => {
    (client as unknown as Record<string, (request: object, done: (error: Error | null, value: unknown) => void) => void>)[name]?.({}, (error, value) => {
      if (error === null) {
        resolve(value);
      } else {
        reject(error);
      }
    });
  });
  const status = (await ask('status')) as GrpcStatus;
  assert.equal(status.pid, BigInt(process.pid));
  assert.deepEqual(status.vmstatus.map(({ cpu, memory }) => [cpu, memory]), [[1, 256], [1, 256]]);
  const config = JSON.parse(Buffer.from(((await ask('config')) as GrpcVMConfig).data).toString()) as { HypervisorType: string };
  assert.equal(config.HypervisorType, 'mock');
  client.close();
  await callCache(endpoint, RPC.Quit, {}, { timeoutMs: 2000 });
  await server.quit.promise;
  await server.stop();
}));

test('a second server is refused, a stale socket is not', inWorld(async (world) => {
  const { server, endpoint } = await serve(world, 1);
  await assert.rejects(CacheServer.checkEndpoint(endpoint), { code: 'AlreadyExists', message: `${endpoint} already exist.  Please stop running VMCache server and remove ${endpoint}` });
  await server.stop();
  writeFileSync(endpoint, '');
  await CacheServer.checkEndpoint(endpoint);
  assert.equal(existsSync(endpoint), false);
}));

test('a server that is silent, gone or talks nonsense costs a bounded time', inWorld(async (world) => {
  const path = join(world.root, 'odd.sock');
  await assert.rejects(callCache(path, RPC.Status, {}, { timeoutMs: 1000 }), { code: 'Unavailable' });
  const silent = createServer((socket) => socket.on('error', () => undefined));
  await new Promise<void>((resolve) => silent.listen(path, resolve));
  await assert.rejects(callCache(path, RPC.Status, {}, { timeoutMs: 30 }), { code: 'DeadlineExceeded' });
  silent.removeAllListeners('connection').on('connection', (socket) => socket.on('error', () => undefined).end('HTTP/1.1 400 no\r\n\r\n'));
  await assert.rejects(callCache(path, RPC.Status, {}, { timeoutMs: 1000 }), { name: 'KataError' });
  silent.close();
}));
