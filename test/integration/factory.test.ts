import assert from 'node:assert/strict';
import { existsSync, readdirSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { configText } from '../support/host';
import { FactoryHost, factoryOverrides, isAlive } from '../support/factory';
import { leakedSince, takeInventory, type Inventory } from '../support/leaks';

let clean: Inventory;
let factory: FactoryHost;

before(async () => {
  clean = takeInventory();
  factory = await FactoryHost.start();
});

after(async () => {
  await factory.stop();
  assert.deepEqual(await leakedSince(clean), []);
  assert.equal(existsSync(factory.folder), false);
});

const FACTS = ['sh', '-c', 'cat /proc/sys/kernel/random/uuid /proc/sys/kernel/random/boot_id; date +%s; hostname; head -c 16 /dev/urandom | od -An -tx1'];

test('the first sandbox makes the template and comes from it; the log says so', async () => {
  const done = await factory.host.run('first', ['echo', 'hello']);
  assert.equal(done.stdout, 'hello\n', done.stderr);
  const { templates, counts } = factory.report();
  assert.equal(templates.length, 1);
  assert.equal(templates[0]?.complete, true);
  assert.equal(templates[0].current, true);
  assert.equal(counts.hits['template'], 1);
  assert.match(factory.host.containerd.log, /msg="sandbox created".*vm=template/);
});

test('clones are strangers to each other and have the time of the host', async () => {
  const [one, two] = await Promise.all(['clone1', 'clone2'].map((id) => factory.host.run(id, FACTS)));
  const now = Date.now() / 1000;
  const [a, b] = [one?.stdout.split('\n') ?? [], two?.stdout.split('\n') ?? []];
  for (const line of [0, 1, 4]) {
    assert.match(a[line] ?? '', /[0-9a-f]{2}/);
    assert.notEqual(a[line], b[line]);
  }
  assert.ok(Math.abs(Number(a[2]) - now) < 6 && Math.abs(Number(b[2]) - now) < 6, `${a[2] ?? ''} ${b[2] ?? ''} ${String(now)}`);
});

test('a sandbox that annotations make larger grows from a clone; one with another kernel command line boots', async () => {
  const annotated = async (id: string, key: string, value: string): Promise<string> => {
    const done = await factory.host.run(id, ['sh', '-c', 'nproc; grep -c factory-test /proc/cmdline; true'], { args: ['--annotation', `io.katacontainers.config.hypervisor.${key}=${value}`] });
    assert.equal(done.code, 0, done.stderr);
    return done.stdout;
  };
  const before = factory.report().counts;
  assert.equal(await annotated('large', 'default_vcpus', '2'), '2\n0\n');
  assert.equal(await annotated('other-kernel', 'kernel_params', 'factory-test=1'), '1\n1\n');
  const { hits, fallbacks } = factory.report().counts;
  assert.equal((hits['template'] ?? 0) - (before.hits['template'] ?? 0), 1);
  assert.equal(fallbacks['config-mismatch'], 1);
});

test('a template whose file was truncated is made anew', async () => {
  const path = factory.report().templates[0]?.path ?? '';
  truncateSync(join(path, 'memory'), 1024 * 1024);
  const done = await factory.host.run('afterwards', ['echo', 'well']);
  assert.equal(done.stdout, 'well\n', done.stderr);
  assert.equal(factory.report().templates[0]?.complete, true);
});

test('a template whose state is damaged costs one direct boot and is made anew', async () => {
  const [template] = factory.report().templates;
  const path = template?.path ?? '';
  const state = join(path, 'state');
  const { size } = await import('node:fs').then(({ statSync }) => statSync(state));
  writeFileSync(state, Buffer.alloc(size, 0x5a));
  const done = await factory.host.run('damaged', ['echo', 'booted']);
  assert.equal(done.stdout, 'booted\n', done.stderr);
  assert.equal(factory.report().counts.fallbacks['template-failed'], 1);
  const next = await factory.host.run('mended', ['echo', 'cloned']);
  assert.equal(next.stdout, 'cloned\n', next.stderr);
  assert.equal(factory.report().counts.fallbacks['template-failed'], 1);
});

test('init refuses a template that is there, destroy is idempotent and a running clone survives it', async () => {
  await factory.host.runDetached('runs', ['sleep', '1000']);
  const pid = factory.host.vmPid('runs');
  const again = factory.command(['init']);
  assert.equal(again.code, 1);
  assert.match(again.stderr, /There is already a VM template in/);
  const users = factory.report().templates[0]?.users.map((user) => user.pid);
  assert.deepEqual(users, [pid]);
  const destroyed = factory.command(['destroy']);
  assert.equal(destroyed.code, 0, destroyed.stderr);
  assert.match(destroyed.stdout, new RegExp(`1 running virtual machine\\(s\\) keep its memory until they end \\(pid ${String(pid)}\\)`));
  assert.match(destroyed.stdout, /vm factory destroyed\n$/);
  assert.equal(factory.command(['destroy']).code, 0);
  assert.equal((await factory.host.exec('runs', ['echo', 'alive'])).stdout, 'alive\n');
  await factory.host.remove('runs');
  assert.equal(isAlive(pid), false);
});

test('init makes the template, says pass or fail before, and status only looks', async () => {
  const made = factory.command(['init']);
  assert.equal(made.code, 0, made.stderr);
  assert.match(made.stdout, /^pass {2}guest: .*vm factory initialized\n$/s);
  assert.match(factory.command(['status']).stdout, /^vm factory is on\n/);
  assert.match(factory.command(['status']).stdout, /^vm factory is on\n/);
});

test('two configurations have their own templates', async () => {
  const other = factory.host.config('other', configText('qemu', factoryOverrides(factory.folder, { memoryMiB: 640 })));
  const done = await factory.host.run('other', ['echo', 'other'], { args: ['--runtime-config-path', other] });
  assert.equal(done.stdout, 'other\n', done.stderr);
  assert.deepEqual(factory.report().templates.map(({ memoryMiB }) => memoryMiB).sort(), [512, 640]);
});

test('the VMM of a clone killed: the task ends, nothing is left', async () => {
  await factory.host.runDetached('killed', ['sleep', '1000']);
  process.kill(factory.host.vmPid('killed'), 'SIGKILL');
  await factory.host.waitForStatus('killed', 'STOPPED');
  await factory.host.remove('killed');
  assert.deepEqual(readdirSync('/run/vc/vm').filter((name) => name === 'killed'), []);
});

test('20 clones at once all start', { timeout: 400_000 }, async () => {
  const all = await Promise.all(Array.from({ length: 20 }, (_, n) => factory.host.run(`many${String(n)}`, ['echo', String(n)], { timeoutMs: 300_000 })));
  assert.deepEqual(all.map(({ stdout }) => stdout), Array.from({ length: 20 }, (_, n) => `${String(n)}\n`), all.map(({ stderr }) => stderr).join(''));
});
