import assert from 'node:assert/strict';
import { existsSync, mkdirSync, readdirSync, readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { KataError } from '../base/errors';
import type { HypervisorConfig } from '../virtcontainers/config/types';
import { mismatch } from './compare';
import { newFactory, type FactoryOptions } from './create';
import { TemplateStore } from './template/store';
import { templateKey } from './template/key';
import { FactoryWorld, inWorld, NO_MOUNTS } from './testing/fakes';
import type { Factory } from './factory';

const GO = new AbortController().signal;
const TEMPLATE_FAILED = { vm: undefined, fallback: 'template-failed' } as const;

/** What it came from; undefined if the sandbox is to boot. */
async function sourceOf(got: ReturnType<Factory['getVm']>): Promise<string | undefined> {
  const found = await got;
  return found.vm === undefined ? undefined : found.source;
}

function make(world: FactoryWorld, over: Partial<FactoryOptions> = {}): Factory {
  return newFactory({
    base: world.base(), template: true, templatePath: world.templatePath, vmCache: false, cacheCount: 0, cacheEndpoint: join(world.root, 'cache.sock'),
    fetchOnly: false, deps: world.deps, mounts: NO_MOUNTS, ...over,
  });
}

test('a clone is resumed, reseeded and given the time before it is handed out', inWorld(async (world) => {
  const factory = make(world);
  assert.equal(await sourceOf(factory.getVm(world.spec('one'), GO)), 'template');
  assert.equal(await sourceOf(factory.getVm(world.spec('two'), GO)), 'template');
  assert.deepEqual(world.vms.map(({ spec }) => spec.template?.use), ['become', 'clone', 'clone']);
  assert.deepEqual(world.vms[1]?.calls, ['clone', 'resume', 'reseed', 'clock']);
  const [, seedOne, seedTwo] = world.seeds;
  assert.equal(seedOne?.length, 1024);
  assert.notEqual(seedOne, seedTwo);
  assert.equal(world.clocks.at(-1), world.now);
  assert.equal(world.vms[0]?.stopped, true, 'the template itself does not run on');
  assert.deepEqual(factory.status().counts, { hits: { template: 2, cache: 0 }, misses: 0, fallbacks: {} });
}));

test('a template that is hours old gives the time of now', inWorld(async (world) => {
  const factory = make(world);
  await factory.getVm(world.spec('one'), GO);
  world.now += 5 * 3600 * 1000;
  await factory.getVm(world.spec('two'), GO);
  assert.equal(world.clocks.at(-1), world.now);
}));

test('a clock that was long under way is set again, a few times at most', inWorld(async (world) => {
  const factory = make(world);
  await factory.getVm(world.spec('one'), GO);
  const late = async (...takes: number[]): Promise<number[]> => {
    const before = [world.clocks.length, world.now] as const;
    world.clockCallsTake.push(...takes);
    await factory.getVm(world.spec(`late-${String(takes.length)}`), GO);
    return world.clocks.slice(before[0]).map((clock) => clock - before[1]);
  };
  assert.deepEqual(await late(499), [0]);
  assert.deepEqual(await late(2000, 30), [0, 2000]);
  assert.deepEqual(await late(600, 600, 600), [0, 600, 1200]);
}));

test('a sandbox that wants more gets it added, one that wants less gets the base', inWorld(async (world) => {
  const factory = make(world);
  await factory.getVm(world.spec('big', { vcpus: 3, memoryMiB: 1024 }), GO);
  assert.deepEqual(world.vms[1]?.calls.slice(4), ['vcpus 3', 'memory 1024 by 128', 'online 2']);
  await factory.getVm(world.spec('small', { memoryMiB: 128 }), GO);
  assert.deepEqual(world.vms[2]?.calls, ['clone', 'resume', 'reseed', 'clock']);
}));

test('a sandbox of another configuration is left to boot, counted and logged with the field', inWorld(async (world) => {
  const factory = make(world);
  const config: HypervisorConfig = { ...world.base().hypervisor, kernelParams: 'quiet' };
  assert.deepEqual(await factory.getVm(world.spec('other', { config }), GO), { vm: undefined, fallback: 'config-mismatch' });
  assert.deepEqual(factory.status().counts.fallbacks, { 'config-mismatch': 1 });
  assert.match(world.log.join(''), /level=warning msg="fallback to direct factory vm".*kernelParams/);
  assert.equal(world.vms.length, 0);
}));

test('a configuration without a kernel, or with none or two root file systems, is refused in upstream\'s words', inWorld(async (world) => {
  const factory = make(world);
  const config = (over: Partial<HypervisorConfig>): HypervisorConfig => ({ ...world.base().hypervisor, type: 'qemu', kernel: '/k', initrd: '/i', ...over });
  for (const [over, text] of [[{ kernel: '' }, 'Missing kernel path'], [{ initrd: '' }, 'Missing image and initrd path'], [{ image: '/x' }, 'Image and initrd path cannot be both set']] as const) {
    await assert.rejects(factory.getVm(world.spec('bad', { config: config(over) }), GO), { code: 'InvalidArgument', message: new RegExp(text) });
    assert.throws(() => make(world, { base: world.base({ hypervisor: config(over) }) }), { code: 'InvalidArgument', message: new RegExp(text) });
  }
  assert.deepEqual(factory.status().counts.fallbacks, {});
}));

test('comparison leaves size out, and takes nil for empty', () => {
  const world = new FactoryWorld();
  const base = world.base();
  const config = (over: object): HypervisorConfig => ({ ...base.hypervisor, ...over });
  assert.match(mismatch(base, world.spec('x', { selinuxLabel: 'l' })) ?? '', /SELinux label/);
  assert.equal(mismatch(base, world.spec('x', { config: config({ defaultVcpus: 7, defaultMemory: 4096, bootTimeout: 9 }) })), undefined);
  assert.equal(mismatch(base, world.spec('x', { config: config({ virtioFsExtraArgs: [] }) })), undefined);
  assert.match(mismatch(base, world.spec('x', { config: config({ type: 'qemu' }) })) ?? '', /hypervisor type does not match: mock vs. qemu/);
  assert.match(mismatch(base, world.spec('x', { kernelParams: [] })) ?? '', /kernel parameters/);
  return world.dispose();
});

test('twenty sandboxes at once make one template', inWorld(async (world) => {
  const factories = Array.from({ length: 20 }, () => make(world));
  const got = await Promise.all(factories.map((factory, at) => sourceOf(factory.getVm(world.spec(`box${String(at)}`), GO))));
  assert.deepEqual(new Set(got), new Set(['template']));
  assert.equal(world.vms.filter(({ spec }) => spec.template?.use === 'become').length, 1);
}));

test('a truncated template is made anew', inWorld(async (world) => {
  const factory = make(world);
  await factory.getVm(world.spec('one'), GO);
  truncateSync(new TemplateStore(world.templatePath, NO_MOUNTS).files(templateKey(world.base())).memory, 2);
  assert.equal(await sourceOf(factory.getVm(world.spec('two'), GO)), 'template');
  assert.equal(world.vms.filter(({ spec }) => spec.template?.use === 'become').length, 2);
}));

test('a template that does not load is destroyed, the sandbox boots, and the next one makes it anew', inWorld(async (world) => {
  const factory = make(world);
  await factory.getVm(world.spec('one'), GO);
  world.faults.add('load');
  assert.deepEqual(await factory.getVm(world.spec('two'), GO), TEMPLATE_FAILED);
  assert.equal(world.vms.at(-1)?.stopped, true);
  assert.deepEqual(factory.status().counts.fallbacks, { 'template-failed': 1 });
  assert.equal(await sourceOf(factory.getVm(world.spec('three'), GO)), 'template');
  assert.equal(world.vms.filter(({ spec }) => spec.template?.use === 'become').length, 2);
}));

test('a clone that fails otherwise, killed or given up, leaves the template to the others', inWorld(async (world) => {
  const factory = make(world);
  await factory.getVm(world.spec('one'), GO);
  world.faults.add('start');
  assert.deepEqual(await factory.getVm(world.spec('two'), GO), TEMPLATE_FAILED);
  assert.equal(await sourceOf(factory.getVm(world.spec('three'), GO)), 'template');
  assert.equal(world.vms.filter(({ spec }) => spec.template?.use === 'become').length, 1);
}));

test('a failed save leaves nothing, is said, and is not tried again at once', inWorld(async (world) => {
  const factory = make(world);
  world.faults.add('save');
  assert.deepEqual(await factory.getVm(world.spec('one'), GO), TEMPLATE_FAILED);
  assert.equal(world.vms[0]?.stopped, true);
  const key = templateKey(world.base());
  assert.deepEqual(readdirSync(join(world.templatePath, key)).sort(), ['failed', 'lock']);
  assert.match(readFileSync(join(world.templatePath, key, 'failed'), 'utf8'), /no space left/);
  assert.deepEqual(await factory.getVm(world.spec('two'), GO), TEMPLATE_FAILED);
  assert.equal(world.vms.length, 1, 'no second boot within the retry time');
  assert.match(world.log.join(''), /making it failed \d+ s ago: .*no space left/);
}));

test('what a maker left that was killed is removed by the next one, or by destroy', inWorld(async (world) => {
  const store = new TemplateStore(world.templatePath, NO_MOUNTS, world.deps.vmRoot);
  const key = templateKey(world.base());
  const { directory } = store.maker(key);
  const leave = (): void => {
    mkdirSync(store.files(key).folder, { recursive: true });
    writeFileSync(store.files(key).memory, 'half');
    mkdirSync(directory, { recursive: true });
    writeFileSync(join(directory, 'console.log'), '');
  };
  leave();
  assert.equal(await sourceOf(make(world).getVm(world.spec('one'), GO)), 'template');
  assert.equal(existsSync(directory), false);
  await store.destroy(key, { timeoutMs: 100 });
  leave();
  await store.destroy(key, { timeoutMs: 100 });
  assert.deepEqual([existsSync(directory), store.keys()], [false, []]);
}));

test('a clone that cannot be resumed is stopped, and the sandbox boots', inWorld(async (world) => {
  const factory = make(world);
  await factory.getVm(world.spec('one'), GO);
  world.faults.add('resume');
  assert.deepEqual(await factory.getVm(world.spec('two'), GO), TEMPLATE_FAILED);
  assert.equal(world.vms.at(-1)?.stopped, true);
}));

test('a cancelled request rejects with the reason and leaves no VM', inWorld(async (world) => {
  const factory = make(world);
  const controller = new AbortController();
  world.beforeStart = () => {
    controller.abort(new KataError('Canceled', 'the caller went away'));
    return Promise.reject(new KataError('Canceled', 'start: canceled'));
  };
  await assert.rejects(factory.getVm(world.spec('one'), controller.signal), { code: 'Canceled', message: 'the caller went away' });
  assert.equal(world.vms.every(({ stopped }) => stopped), true);
}));

test('a sandbox that ends of itself while it makes the template leaves no mark on it: the next one makes it at once', inWorld(async (world) => {
  const factory = make(world);
  const controller = new AbortController();
  const own = new KataError('NotFound', 'root file system /none: no such file or directory');
  world.beforeStart = () => {
    controller.abort(own);
    return Promise.reject(own);
  };
  await assert.rejects(factory.getVm(world.spec('one'), controller.signal), own);
  world.beforeStart = () => Promise.resolve();
  assert.equal(await sourceOf(factory.getVm(world.spec('two'), GO)), 'template');
}));

test('an upgraded VMM, another kernel or another size is another template', () => {
  const world = new FactoryWorld();
  const base = world.base();
  const key = templateKey(base, 'host');
  assert.equal(templateKey(world.base(), 'host'), key);
  assert.match(key, /^[0-9a-f]{16}$/);
  for (const other of [world.base({ memoryMiB: 512 }), world.base({ vcpus: 2 }), { ...base, hypervisor: { ...base.hypervisor, kernel: '/etc/hostname' } }, { ...base, hypervisor: { ...base.hypervisor, path: '/bin/sh' } }]) {
    assert.notEqual(templateKey(other, 'host'), key);
  }
  assert.notEqual(templateKey(base, 'another boot'), key);
  return world.dispose();
});

test('the template of an upgraded VMM takes the place of the old one, and of no other', inWorld(async (world) => {
  const program = join(world.root, 'vmm');
  const base = (): ReturnType<FactoryWorld['base']> => world.base({ hypervisor: { ...world.base().hypervisor, path: program } });
  const get = (id: string): ReturnType<Factory['getVm']> => make(world, { base: base() }).getVm(world.spec(id, { config: base().hypervisor }), GO);
  await make(world).getVm(world.spec('other'), GO);
  writeFileSync(program, 'one');
  await get('one');
  const old = templateKey(base());
  writeFileSync(program, 'upgraded');
  assert.equal(await sourceOf(get('two')), 'template');
  const store = new TemplateStore(world.templatePath, NO_MOUNTS);
  assert.deepEqual(store.keys(), [templateKey(world.base()), templateKey(base())].sort());
  assert.equal(existsSync(join(world.templatePath, old)), false);
}));

test('two configurations have their templates side by side, and destroy takes one', inWorld(async (world) => {
  await make(world).getVm(world.spec('one'), GO);
  const big = world.base({ memoryMiB: 512 });
  await make(world, { base: big }).getVm(world.spec('two'), GO);
  const store = new TemplateStore(world.templatePath, NO_MOUNTS);
  assert.equal(store.list().filter(({ meta }) => meta !== undefined).length, 2);
  await store.destroy(templateKey(big), { timeoutMs: 100 });
  await store.destroy(templateKey(big), { timeoutMs: 100 });
  assert.deepEqual(store.keys(), [templateKey(world.base())]);
}));

test('destroy waits for a clone that is being loaded', inWorld(async (world) => {
  await make(world).getVm(world.spec('one'), GO);
  const store = new TemplateStore(world.templatePath, NO_MOUNTS);
  const key = templateKey(world.base());
  const lock = await store.share(key, { timeoutMs: 100 });
  await assert.rejects(store.destroy(key, { timeoutMs: 30 }), { code: 'DeadlineExceeded' });
  assert.notEqual(store.check(key), undefined);
  lock.release();
  await store.destroy(key, { timeoutMs: 1000 });
  assert.equal(existsSync(join(world.templatePath, key)), false);
}));

test('selection: a count with fetch is refused, fetch wants the template, the cache server comes before the template', inWorld(async (world) => {
  assert.throws(() => make(world, { fetchOnly: true, cacheCount: 1 }), { code: 'InvalidArgument', message: /cache factory does not support fetch/ });
  assert.throws(() => make(world, { fetchOnly: true }), { code: 'NotFound' });
  assert.deepEqual(make(world, { vmCache: true }).status().kinds, ['grpc-cache', 'template']);
  assert.deepEqual(make(world, { vmCache: true, template: false }).status().kinds, ['grpc-cache']);
  assert.deepEqual(make(world, { template: false }).status().kinds, ['direct']);
  const cached = make(world, { cacheCount: 1, vmCache: true });
  assert.deepEqual(cached.status().kinds, ['cache']);
  await cached.close();
  await make(world).getVm(world.spec('one'), GO);
  assert.deepEqual(make(world, { fetchOnly: true }).status().kinds, ['template']);
}));

test('without a cache server the template serves, and the miss is counted', inWorld(async (world) => {
  const factory = make(world, { vmCache: true });
  assert.equal(await sourceOf(factory.getVm(world.spec('one'), GO)), 'template');
  assert.deepEqual(factory.status().counts, { hits: { template: 1, cache: 0 }, misses: 1, fallbacks: {} });
  const alone = make(world, { vmCache: true, template: false });
  assert.deepEqual(await alone.getVm(world.spec('two'), GO), { vm: undefined, fallback: 'cache-unreachable' });
  assert.deepEqual(alone.status().counts.fallbacks, { 'cache-unreachable': 1 });
}));
