import assert from 'node:assert/strict';
import { test } from 'node:test';
import { loadOrder, moduleName, modulesAlias, modulesDep, parseModule, type Module } from './modules';

function moduleBytes(fields: Record<string, string | readonly string[]>): Buffer {
  const lines = Object.entries(fields).flatMap(([key, values]) => [values].flat().map((value) => `${key}=${value}\0`));
  return Buffer.from(`\x7fELF...\0${lines.join('')}rest`);
}

function table(graph: Record<string, readonly string[]>): (name: string) => Module | undefined {
  return (name) => {
    const depends = graph[name];
    return depends === undefined ? undefined : { name, path: `kernel/${name}.ko`, depends, aliases: [] };
  };
}

const names = (modules: readonly Module[]): string[] => modules.map(({ name }) => name);

test('dependencies and aliases are read from the module itself, with dashes made underscores', () => {
  const module = parseModule('kernel/drivers/virtio-rng.ko', moduleBytes({ alias: ['b', 'a', 'b'], depends: 'rng-core,virtio' }));
  assert.deepEqual(module, { name: 'virtio_rng', path: 'kernel/drivers/virtio-rng.ko', depends: ['rng_core', 'virtio'], aliases: ['a', 'b'] });
  assert.deepEqual(parseModule('x.ko', moduleBytes({ depends: '' })).depends, []);
  assert.throws(() => parseModule('x.ko', Buffer.from('no module')), /"x\.ko": no depends=/);
  assert.equal(moduleName('a/b-c.ko.gz'), 'b_c');
});

test('each module comes once, behind all that it depends on', () => {
  const find = table({ a: ['b', 'c'], b: ['d'], c: ['d'], d: [], e: ['a'] });
  assert.deepEqual(names(loadOrder(['a', 'e', 'd'], find)), ['d', 'b', 'c', 'a', 'e']);
});

test('ext4 brings the checksum that it cannot mount without', () => {
  assert.deepEqual(names(loadOrder(['ext4'], table({ ext4: ['jbd2'], jbd2: [], crc32c_generic: [] }))), ['jbd2', 'crc32c_generic', 'ext4']);
});

test('a missing module names who wants it, and a circle is refused', () => {
  assert.throws(() => loadOrder(['a'], table({ a: ['gone'] })), /"gone", wanted by "a", is not in the kernel package/);
  assert.throws(() => loadOrder(['a'], table({ a: ['b'], b: ['a'] })), /"a" depends on itself through "b"/);
});

test('the tables for modprobe list dependencies last to load first, and aliases', () => {
  const find = table({ a: ['b'], b: ['c'], c: [] });
  const all = loadOrder(['a'], find);
  assert.equal(modulesDep(all, find), 'kernel/a.ko: kernel/b.ko kernel/c.ko\nkernel/b.ko: kernel/c.ko\nkernel/c.ko:\n');
  assert.equal(modulesAlias([{ name: 'ext4', path: 'p', depends: [], aliases: ['fs-ext4', 'ext2'] }]), 'alias ext2 ext4\nalias fs-ext4 ext4\n');
});
