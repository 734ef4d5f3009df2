import assert from 'node:assert/strict';
import { chmodSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { KataError } from '../base/errors';
import type { FactoryConfig, HypervisorConfig, RuntimeConfig } from '../virtcontainers/config/types';
import { preflight, type PreflightPoint } from './preflight';
import { inWorld, type FactoryWorld } from './testing/fakes';
import type { FactoryDeps } from './types';

interface Case {
  readonly hypervisor?: Partial<HypervisorConfig>;
  readonly factory?: Partial<FactoryConfig>;
  readonly deps?: Partial<FactoryDeps>;
  /** What the QEMU of the configuration prints. */
  readonly version?: string;
}

async function points(world: FactoryWorld, { hypervisor = {}, factory = {}, deps = {}, version = 'QEMU emulator version 7.2.22 (Debian)' }: Case): Promise<ReadonlyMap<string, PreflightPoint>> {
  const path = join(world.root, 'qemu');
  writeFileSync(path, `#!/bin/sh\necho '${version}'\n`);
  chmodSync(path, 0o755);
  const config = {
    hypervisor: { ...world.base().hypervisor, type: 'qemu', path, initrd: '/initrd', ...hypervisor },
    factory: { enableTemplate: true, templatePath: join(world.root, 'not', 'there'), vmCacheNumber: 0, vmCacheEndpoint: join(world.root, 'c.sock'), ...factory },
  } as unknown as RuntimeConfig;
  return new Map((await preflight(config, { ...world.deps, ...deps })).map((point) => [point.name, point]));
}

test('a host and a configuration that can: every point passes, without a remedy', inWorld(async (world) => {
  const all = await points(world, {});
  assert.deepEqual([...all.keys()], ['guest', 'share', 'qemu', 'hypervisor', 'memory', 'template_path', 'limits']);
  for (const { name, ok, detail, remedy } of all.values()) {
    assert.equal(ok, true, `${name}: ${detail}`);
    assert.equal(remedy, '');
  }
}));

test('each point that fails says what to do', inWorld(async (world) => {
  const failing: readonly (readonly [name: string, of: Case, detail: RegExp, remedy: RegExp])[] = [
    ['guest', { hypervisor: { initrd: '', image: '/image' } }, /^image \/image$/, /^set initrd in \[hypervisor.qemu\] instead of image$/],
    ['share', { hypervisor: { sharedFs: 'virtio-fs-nydus' } }, /virtio-fs-nydus/, /virtio-9p.*none/],
    ['qemu', { version: 'QEMU emulator version 4.0.1' }, /4\.0\.1/, /4\.1 or newer/],
    ['qemu', { version: 'something else' }, /qemu/, /4\.1 or newer/],
    ['qemu', { hypervisor: { path: '/does/not/exist' } }, /ENOENT|not found|no such file/, /4\.1 or newer/],
    ['memory', { factory: { enableTemplate: false, vmCacheNumber: 100_000_000 } }, /MiB available, about \d+ MiB needed/, /vm_cache_number/],
    ['hypervisor', { deps: { driverFor: () => Promise.reject(new KataError('Unimplemented', 'this one is not driven', { hint: 'use another' })) } }, /not driven/, /^use another$/],
  ];
  for (const [name, of, detail, remedy] of failing) {
    const point = (await points(world, of)).get(name);
    assert.equal(point?.ok, false, name);
    assert.match(point.detail, detail);
    assert.match(point.remedy, remedy);
  }
}));

test('virtio-fs passes and says what it costs; a cache alone needs no initrd', inWorld(async (world) => {
  const share = (await points(world, { hypervisor: { sharedFs: 'virtio-fs' } })).get('share');
  assert.equal(share?.ok, true);
  assert.match(share.detail, /own copy of the memory; virtio-9p and none share it/);
  const cached = await points(world, { hypervisor: { initrd: '', image: '/image' }, factory: { enableTemplate: false, vmCacheNumber: 1 } });
  assert.equal(cached.has('guest'), false);
}));
