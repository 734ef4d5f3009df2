import assert from 'node:assert/strict';
import { chmodSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { cacheKey } from './cache';
import { loadConfig } from './load';

const HOST = { cpus: 4, memoryMiB: 8192, arch: 'x64' };
const TEXT = '[hypervisor.mock]\ndefault_memory = 300\n[runtime]\nenable_debug = true\n';

function inFolder(run: (folder: string, main: string, load: (more?: object) => ReturnType<typeof loadConfig>) => void): void {
  const folder = mkdtempSync(join(tmpdir(), 'kata-ts-'));
  try {
    const main = join(folder, 'configuration.toml');
    writeFileSync(main, TEXT);
    writeFileSync(join(folder, 'shim.cjs'), 'v1');
    run(folder, main, (more = {}) => loadConfig({ env: {}, configPath: main, host: HOST, cacheFolder: join(folder, 'cache/deep'), program: join(folder, 'shim.cjs'), ...more }));
  } finally {
    rmSync(folder, { recursive: true });
  }
}
const entryOf = (folder: string): string => join(folder, 'cache/deep', readdirSync(join(folder, 'cache/deep'))[0] ?? '');

test('a cached configuration is the parsed one, and the entry is private', () =>
  inFolder((folder, _main, load) => {
    const parsed = load();
    assert.deepEqual(load(), parsed);
    assert.equal(parsed.sources.get('runtime.enable_debug')?.endsWith(':4'), true);
    assert.equal(statSync(entryOf(folder)).mode & 0o777, 0o600);
    assert.equal(statSync(join(folder, 'cache/deep')).mode & 0o777, 0o700);
    // The entry is really what is read.
    writeFileSync(entryOf(folder), readFileSync(entryOf(folder), 'utf8').replace('"defaultMemory":300', '"defaultMemory":301'));
    assert.equal(load().hypervisor.defaultMemory, 301);
  }));

test('a changed file, drop-in, host or program is seen at once', () =>
  inFolder((folder, main, load) => {
    load();
    writeFileSync(main, TEXT.replace('300', '400'));
    assert.equal(load().hypervisor.defaultMemory, 400);
    mkdirSync(join(folder, 'config.d'));
    writeFileSync(join(folder, 'config.d/a'), '[hypervisor.mock]\ndefault_memory = 500');
    assert.equal(load().hypervisor.defaultMemory, 500);
    rmSync(join(folder, 'config.d/a'));
    assert.equal(load().hypervisor.defaultMemory, 400);
    assert.equal(load({ host: { ...HOST, cpus: 2 } }).hypervisor.defaultMaxvcpus, 2);
    const before = cacheKey([main], HOST, join(folder, 'shim.cjs'));
    writeFileSync(join(folder, 'shim.cjs'), 'v2 and longer');
    assert.notDeepEqual(cacheKey([main], HOST, join(folder, 'shim.cjs')), before);
    assert.equal(cacheKey([main], HOST, undefined), undefined);
  }));

test('a broken entry, one of another writer and a folder that cannot be made are ignored', () =>
  inFolder((folder, _main, load) => {
    load();
    for (const broken of ['', '{', 'null', '{"key":1}', '[]']) {
      writeFileSync(entryOf(folder), broken);
      assert.equal(load().hypervisor.defaultMemory, 300, broken);
    }
    load();
    chmodSync(entryOf(folder), 0o666);
    assert.equal(load().hypervisor.defaultMemory, 300);
    assert.equal(statSync(entryOf(folder)).mode & 0o777, 0o600, 'not trusted, hence written anew');
    writeFileSync(join(folder, 'file'), '');
    assert.equal(load({ cacheFolder: join(folder, 'file/x') }).hypervisor.defaultMemory, 300);
    assert.equal(load({ cacheFolder: '' }).hypervisor.defaultMemory, 300);
  }));

test('an error is never cached', () =>
  inFolder((folder, main, load) => {
    writeFileSync(main, 'nonsense');
    assert.throws(() => load());
    assert.throws(() => load());
    assert.throws(() => readdirSync(join(folder, 'cache/deep')));
  }));
