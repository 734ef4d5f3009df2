import assert from 'node:assert/strict';
import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { after, before, test } from 'node:test';
import { callCache } from '../../factory/grpc-cache/call';
import { decodeVm, RPC } from '../../factory/grpc-cache/wire';
import { FactoryHost, isAlive, untilGone } from '../support/factory';
import { factoryLeftovers } from '../support/factory-leaks';
import { leakedSince, takeInventory, type Inventory } from '../support/leaks';

let clean: Inventory;
let factory: FactoryHost;

before(async () => {
  clean = takeInventory();
  factory = await FactoryHost.start({ cache: 2 });
  await factory.serve(2);
});

after(async () => {
  await factory.stop();
  assert.deepEqual(await leakedSince(clean), []);
});

/** Where no server runs: no VM, no mount but of whole templates, no lock, no folder. */
async function assertNothingLeft(): Promise<void> {
  const templates = factory.report().templates.filter(({ complete }) => complete).map(({ key }) => key);
  assert.deepEqual(await factoryLeftovers(factory.folder, { ids: [], templates }), []);
}

test('sandboxes come from the cache, with their files; the stock is filled again', async () => {
  const done = await factory.host.run('cached', ['sh', '-c', 'echo hello > /tmp/x && cat /tmp/x; cat /proc/sys/kernel/random/boot_id']);
  assert.match(done.stdout, /^hello\n[0-9a-f-]{36}\n$/, done.stderr);
  assert.match(factory.host.containerd.log, /msg="sandbox created".*vm=cache/);
  assert.equal(factory.report().counts.hits['cache'], 1);
  await factory.stocked(2);
  assert.equal(statSync(factory.endpoint).mode & 0o777, 0o600);
});

test('a second container of the pod sees its files in a VM of the cache', async () => {
  await factory.host.runDetached('pod', ['sleep', '1000'], { args: ['--annotation', 'io.kubernetes.cri.container-type=sandbox'] });
  const done = await factory.host.run('member', ['sh', '-c', 'ls / | grep -c bin'], { args: ['--annotation', 'io.kubernetes.cri.container-type=container', '--annotation', 'io.kubernetes.cri.sandbox-id=pod'] });
  assert.equal(done.code, 0, done.stderr);
  await factory.host.remove('pod');
});

test('the shim of a cached VM killed: the VM ends with it', async () => {
  await factory.stocked(1);
  await factory.host.runDetached('orphan', ['sleep', '1000']);
  // Not by what the template's users are: the next VM for the stock may be one already.
  const pid = factory.host.vmPid('orphan');
  assert.ok(isAlive(pid) && !factory.stockPids().includes(pid));
  process.kill(factory.host.shimPid('orphan'), 'SIGKILL');
  await untilGone([pid]);
  await factory.host.waitForStatus('orphan', 'STOPPED').catch(() => undefined);
  await factory.host.remove('orphan');
});

test('the VMM of a cached VM killed: the task ends, nothing of the VM is left', async () => {
  await factory.stocked(1);
  await factory.host.runDetached('cache-killed', ['sleep', '1000']);
  const pid = factory.host.vmPid('cache-killed');
  const folder = readdirSync('/run/vc/vm').find((name) => readFileSync(`/proc/${String(pid)}/cmdline`, 'latin1').includes(`/run/vc/vm/${name}/`));
  assert.match(folder ?? '', /^cache-[0-9a-f]{16}$/);
  process.kill(pid, 'SIGKILL');
  await factory.host.waitForStatus('cache-killed', 'STOPPED');
  await factory.host.remove('cache-killed');
  assert.equal(existsSync(`/run/vc/vm/${folder ?? ''}`), false);
});

test('status and commands beside a running server', () => {
  const again = factory.command(['init']);
  assert.equal(again.code, 1);
  assert.match(again.stderr, /already exist\. {2}Please stop running VMCache server and remove/);
  assert.match(factory.command(['status']).stdout, /^VM cache server pid = \d+\n(VM pid = \d+ Cpu = 1 Memory = 512MiB.*\n)*VM cache: \d of 2 in stock\nvm factory is on\n/);
});

test('the server killed with VMs in stock: they end, what it handed over lives, and pods go on with the template', async () => {
  await factory.stocked(1);
  await factory.host.runDetached('survivor', ['sleep', '1000']);
  await factory.stocked(2);
  const stock = factory.stockPids();
  assert.equal(stock.length, 2);
  await factory.killServer('SIGKILL');
  await untilGone(stock);
  assert.deepEqual(readdirSync('/run/vc/vm').filter((name) => name.startsWith('cache-')).length, 1, 'only the one in use has a folder');
  assert.equal((await factory.host.exec('survivor', ['echo', 'alive'])).stdout, 'alive\n');
  const next = await factory.host.run('next', ['echo', 'cloned']);
  assert.equal(next.stdout, 'cloned\n', next.stderr);
  assert.match(factory.host.containerd.log, /sandbox=next .*vm=template|vm=template.*sandbox=next/);
  assert.equal(factory.report().counts.misses, 1);
  await factory.host.remove('survivor');
  await assertNothingLeft();
});

test('the server killed while it hands VMs over: every sandbox runs all the same', async () => {
  await factory.serve(2);
  const runs = ['a', 'b', 'c'].map((id) => factory.host.run(`race-${id}`, ['echo', id]));
  await new Promise((resolve) => setTimeout(resolve, 150));
  await factory.killServer('SIGKILL');
  const all = await Promise.all(runs);
  assert.deepEqual(all.map(({ stdout }) => stdout), ['a\n', 'b\n', 'c\n'], all.map(({ stderr }) => stderr).join(''));
  await assertNothingLeft();
});

test('the server killed when it has handed a VM over that nobody has taken yet: the VM ends', async () => {
  await factory.serve(1);
  const { state } = decodeVm(await callCache(factory.endpoint, RPC.GetBaseVM, {}, { timeoutMs: 5000 }));
  const pids = state.processes.map(({ pid }) => pid);
  assert.ok(pids.every(isAlive));
  await factory.killServer('SIGKILL');
  await untilGone(pids);
  assert.equal(existsSync(state.directory), false);
  await assertNothingLeft();
});

test('a server in the background has a pid file, and destroy ends it', async () => {
  const started = factory.command(['init', '--detach']);
  assert.equal(started.code, 0, started.stderr);
  const pid = factory.report().cache?.pid ?? 0;
  assert.ok(isAlive(pid));
  assert.equal(existsSync(`${factory.endpoint}.pid`), true);
  assert.equal(factory.command(['destroy']).code, 0);
  await untilGone([pid], 10_000);
  assert.equal(existsSync(factory.endpoint), false);
  assert.equal(existsSync(`${factory.endpoint}.pid`), false);
});
