/** Faults of templates on real VMs; each ends with a look at what is left. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { chmodSync, copyFileSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statfsSync, statSync, symlinkSync, truncateSync, utimesSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, afterEach, before, test } from 'node:test';
import { Logger } from '../../base/log';
import { baseConfigOf, hostDeps } from '../../factory/create';
import { TemplateStore } from '../../factory/template/store';
import { TemplateFactory } from '../../factory/template/template';
import { hostTemplateMounts, isMountPoint } from '../../factory/template/tmpfs';
import { loadConfig } from '../../virtcontainers/config/load';
import type { SnapshotControl, Vm } from '../../virtcontainers/hypervisor/types';
import { FactoryHost, factoryOverrides, KATA_RUNTIME, untilGone } from '../support/factory';
import { factoryLeftovers } from '../support/factory-leaks';
import { configText } from '../support/host';

const QEMU = '/usr/bin/qemu-system-x86_64';
const GO = new AbortController().signal;
/** All ids here begin so. */
const MINE = 'fault-';

let factory: FactoryHost;
/** Templates whose making failed on purpose. */
let failed: string[] = [];

before(async () => {
  factory = await FactoryHost.start();
});

afterEach(async () => {
  const templates = factory.report().templates.filter(({ complete }) => complete).map(({ key }) => key);
  assert.deepEqual(await factoryLeftovers(factory.folder, { ids: [MINE], templates, failed }), []);
});

after(async () => {
  await factory.stop();
  assert.deepEqual(await factoryLeftovers(factory.folder, { ids: [MINE] }), []);
  assert.equal(existsSync(factory.folder), false);
});

function currentKey(): string | undefined {
  return factory.report().templates.find(({ current }) => current)?.key;
}

function fallbacks(): Readonly<Record<string, number>> {
  return factory.report().counts.fallbacks;
}

/** Runs a sandbox and says where its VM came from. */
async function source(id: string, args: readonly string[] = []): Promise<string> {
  const done = await factory.host.run(MINE + id, ['echo', id], { args });
  assert.equal(done.stdout, `${id}\n`, done.stderr);
  return sourceInLog(id);
}

function sourceInLog(id: string): string {
  const line = factory.host.containerd.log.split('\n').findLast((text) => text.includes('msg="sandbox created"') && text.includes(`sandbox=${MINE}${id} `));
  return /\bvm=(\w+)/.exec(line ?? '')?.[1] ?? `no line of ${id}`;
}

async function until(what: string, holds: () => boolean, timeoutMs = 60_000): Promise<void> {
  const end = Date.now() + timeoutMs;
  while (!holds()) {
    assert.ok(Date.now() < end, `${what}: not within ${String(timeoutMs)} ms`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

/** The VMM that becomes a template below our folder. */
function makerPid(): number | undefined {
  return readdirSync('/proc').filter((name) => /^\d+$/.test(name)).map(Number).find((pid) => {
    try {
      const command = readFileSync(`/proc/${String(pid)}/cmdline`, 'latin1');
      return command.startsWith(QEMU) && command.includes('sandbox-template-') && command.includes(factory.folder);
    } catch {
      return false;
    }
  });
}

/** A template factory as the shim has it, whose saving is done by `save`. Real VMs, real files. */
function withSave(save: (real: SnapshotControl, vm: Vm, template: TemplateFactory) => Promise<void>): TemplateFactory {
  const config = loadConfig({ configPath: factory.configFile, env: {}, cacheFolder: '' });
  const deps = hostDeps(Logger.to(() => undefined, 'error'));
  const made: TemplateFactory = new TemplateFactory(baseConfigOf(config), new TemplateStore(config.factory.templatePath, hostTemplateMounts(false)), {
    ...deps,
    driverFor: async (type) => {
      const driver = await deps.driverFor(type);
      return {
        ...driver,
        createVm: (spec) => {
          const vm = driver.createVm(spec);
          const real = vm.snapshot;
          assert.ok(real !== undefined);
          return Object.assign(vm, { snapshot: { save: () => save(real, vm, made) } satisfies SnapshotControl });
        },
      };
    },
  });
  return made;
}

function keysOnDisk(): string[] {
  const root = join(factory.folder, 'template');
  return existsSync(root) ? readdirSync(root).filter((name) => name !== 'counts') : [];
}

function filesOf(key: string): { folder: string; memory: string; state: string } {
  const folder = join(factory.folder, 'template', key, 'vm');
  return { folder, memory: join(folder, 'memory'), state: join(folder, 'state') };
}

/** Leaves no page free on a file system of its own. */
function fill(folder: string): void {
  assert.ok(isMountPoint(folder), `${folder} is no tmpfs of its own`);
  const { bavail, bsize } = statfsSync(folder);
  try {
    writeFileSync(join(folder, 'ballast'), Buffer.alloc(bavail * bsize, 1));
  } catch (reason) {
    // A guest that runs took pages meanwhile: all the others are ours.
    assert.equal((reason as NodeJS.ErrnoException).code, 'ENOSPC');
  }
}

/** The reason that was noted; the next sandbox boots and says so; after that the failure is forgotten. */
async function expectFailure(template: TemplateFactory, id: string, reason: RegExp): Promise<void> {
  failed = [template.key];
  assert.match(readFileSync(join(factory.folder, 'template', template.key, 'failed'), 'utf8'), reason);
  assert.equal(existsSync(filesOf(template.key).folder), false);
  const before = fallbacks()['template-failed'] ?? 0;
  assert.equal(await source(id), 'direct');
  assert.equal(fallbacks()['template-failed'], before + 1);
  assert.equal(factory.command(['destroy']).code, 0);
  failed = [];
}

test('the tmpfs is full when the device state is saved', async () => {
  const template = withSave(async (real, vm, { key }) => {
    await vm.pause?.pause();
    fill(filesOf(key).folder);
    await real.save(30_000);
  });
  await assert.rejects(template.ensure(GO), /save VM template: .*(No space left|I\/O error|Unable to write)/i);
  await expectFailure(template, 'after-full', /save VM template/);
});

test('the tmpfs is full while the guest boots', async () => {
  const init = spawn(KATA_RUNTIME, ['--config', factory.configFile, 'factory', 'init'], { stdio: ['ignore', 'ignore', 'pipe'] });
  let said = '';
  init.stderr.on('data', (chunk: Buffer) => (said += chunk.toString()));
  const ended = new Promise((resolve) => init.once('close', resolve));
  const folder = (): string => filesOf(keysOnDisk()[0] ?? '-').folder;
  await until('the tmpfs', () => isMountPoint(folder()));
  const [key = ''] = keysOnDisk();
  fill(folder());
  assert.equal(await ended, 1);
  assert.match(said, /QEMU ended with|No space left/);
  failed = [key];
  assert.equal(await source('full'), 'direct');
  assert.equal(factory.command(['destroy']).code, 0);
  failed = [];
});

test('QEMU is killed while it saves', async () => {
  const template = withSave(async (real, vm, { key }) => {
    const saving = real.save(30_000);
    const { state } = filesOf(key);
    const kill = (): void => {
      if (existsSync(state)) {
        process.kill(vm.pid, 'SIGKILL');
      } else {
        setImmediate(kill);
      }
    };
    kill();
    await saving;
  });
  await assert.rejects(template.ensure(GO), { name: 'KataError' });
  await expectFailure(template, 'after-kill', /./);
});

test('QEMU is killed while the first sandbox makes the template: that sandbox boots', async () => {
  const starting = source('maker-killed');
  await until('QEMU of the template', () => makerPid() !== undefined);
  const key = currentKey() ?? '';
  process.kill(makerPid() ?? 0, 'SIGKILL');
  assert.equal(await starting, 'direct');
  failed = [key];
  assert.equal(factory.command(['destroy']).code, 0);
  failed = [];
});

test('the process that makes the template is killed: QEMU ends with it, and the next sandbox makes it', async () => {
  const init = spawn(KATA_RUNTIME, ['--config', factory.configFile, 'factory', 'init'], { stdio: 'ignore' });
  await until('QEMU of the template', () => makerPid() !== undefined);
  const pid = makerPid() ?? 0;
  assert.notEqual(init.pid, undefined);
  process.kill(init.pid ?? 0, 'SIGKILL');
  await untilGone([pid]);
  assert.equal(factory.report().templates[0]?.complete, false);
  assert.equal(await source('after-maker'), 'template');
});

test('either file truncated: the template is made anew', async () => {
  const key = currentKey() ?? '';
  for (const name of ['memory', 'state'] as const) {
    truncateSync(filesOf(key)[name], 4096);
    assert.equal(await source(`short-${name}`), 'template');
    assert.equal(factory.report().templates[0]?.complete, true);
  }
});

test('a clone killed: its task ends, its siblings run on', async () => {
  await Promise.all(['dies', 'lives'].map((id) => factory.host.runDetached(MINE + id, ['sleep', '1000'])));
  process.kill(factory.host.vmPid(`${MINE}dies`), 'SIGKILL');
  await factory.host.waitForStatus(`${MINE}dies`, 'STOPPED');
  assert.equal((await factory.host.exec(`${MINE}lives`, ['echo', 'alive'])).stdout, 'alive\n');
  await factory.host.remove(`${MINE}dies`);
  await factory.host.remove(`${MINE}lives`);
});

test('destroy during starts: every sandbox runs, whatever it came from', async () => {
  assert.equal(await source('before-destroy'), 'template');
  for (const delayMs of [50, 300, 700]) {
    const starting = source(`destroyed-${String(delayMs)}`);
    await new Promise((resolve) => setTimeout(resolve, delayMs));
    const destroy = spawn(KATA_RUNTIME, ['--config', factory.configFile, 'factory', 'destroy'], { stdio: ['ignore', 'ignore', 'pipe'] });
    let said = '';
    destroy.stderr.on('data', (chunk: Buffer) => (said += chunk.toString()));
    const code = await new Promise((resolve) => destroy.once('close', resolve));
    assert.ok(code === 0 || said.includes('something still loads it'), said);
    assert.match(await starting, /^(template|direct)$/);
  }
  assert.equal(factory.command(['destroy']).code, 0);
  assert.deepEqual(factory.report().templates, []);
});

test('destroy while two configurations make their templates at once: both run, and both templates go', async () => {
  const other = factory.host.config('other', configText('qemu', factoryOverrides(factory.folder, { memoryMiB: 640 })));
  assert.deepEqual(await Promise.all([source('one'), source('two', ['--runtime-config-path', other])]), ['template', 'template']);
  const { templates } = factory.report();
  assert.deepEqual(templates.map(({ memoryMiB }) => memoryMiB).sort(), [512, 640]);
  assert.deepEqual(templates.map(({ current }) => current).sort(), [false, true]);
  assert.equal(await source('three', ['--runtime-config-path', other]), 'template');
  assert.equal(factory.command(['destroy']).code, 0);
  assert.deepEqual(factory.report().templates, []);
});

/** A QEMU of our own that can be replaced: a program below `<folder>/usr/bin`, beside the data of the real one. */
function ownQemu(folder: string): string {
  for (const name of ['bin', 'share', 'lib']) {
    mkdirSync(join(folder, 'usr'), { recursive: true });
    if (name === 'bin') {
      mkdirSync(join(folder, 'usr/bin'));
    } else {
      symlinkSync(join('/usr', name), join(folder, 'usr', name));
    }
  }
  return join(folder, 'usr/bin/qemu-system-x86_64');
}

function configFor(name: string, qemu: string): string {
  return factory.host.config(name, configText('qemu', factoryOverrides(factory.folder, { more: { hypervisor: { path: `"${qemu}"` } } })));
}

test('QEMU is upgraded: its template is used no more, another is made, and the clones of the old one run on', async () => {
  const qemu = ownQemu(join(factory.host.folder, 'upgrade'));
  copyFileSync(QEMU, qemu);
  const config = ['--runtime-config-path', configFor('upgrade', qemu)];
  await factory.host.runDetached(`${MINE}old`, ['sleep', '1000'], { args: config });
  assert.equal(sourceInLog('old'), 'template');
  const [before] = factory.report().templates;
  // As a package manager does it: another file takes the name.
  rmSync(qemu);
  copyFileSync(QEMU, qemu);
  assert.equal(await source('new', config), 'template');
  const { templates, counts } = factory.report();
  assert.equal(counts.hits['template'] !== 0 && templates.some(({ key, complete }) => complete && key !== before?.key), true);
  assert.equal(templates.some(({ key }) => key === before?.key), false, 'the superseded template is gone');
  assert.equal((await factory.host.exec(`${MINE}old`, ['echo', 'alive'])).stdout, 'alive\n');
  await factory.host.remove(`${MINE}old`);
  assert.equal(factory.command(['destroy']).code, 0);
});

/** A script in place of QEMU: what it starts can change while the script looks the same from outside. */
function writeScript(path: string, machine: string): void {
  writeFileSync(path, `#!/bin/sh\nfor arg; do shift; [ "$arg" = q35 ] && arg=${machine}; set -- "$@" "$arg"; done\nexec ${QEMU} "$@"\n`);
  chmodSync(path, 0o755);
}

test('an upgrade that no file shows: QEMU refuses the template, the sandbox boots, the next makes a new one', async () => {
  const script = join(factory.host.folder, 'hidden', 'qemu');
  mkdirSync(join(factory.host.folder, 'hidden'));
  // What the name q35 means is what a new version of QEMU changes.
  writeScript(script, 'pc-q35-7.2');
  const { atime, mtime } = statSync(script);
  utimesSync(script, atime, mtime);
  const config = ['--runtime-config-path', configFor('hidden', script)];
  assert.equal(await source('hidden-old', config), 'template');
  const [before] = factory.report().templates;
  const failures = fallbacks()['template-failed'] ?? 0;
  writeScript(script, 'pc-q35-7.1');
  utimesSync(script, atime, mtime);
  assert.equal(await source('hidden-refused', config), 'direct');
  assert.equal(fallbacks()['template-failed'], failures + 1);
  assert.match(factory.host.containerd.log, /a clone did not start: the template is destroyed/);
  assert.equal(await source('hidden-new', config), 'template');
  const [now] = factory.report().templates;
  assert.equal(now?.key, before?.key);
  assert.notEqual(now?.createdAt, before?.createdAt);
  assert.equal(factory.command(['destroy']).code, 0);
});
