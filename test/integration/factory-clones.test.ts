/** Clones are strangers to each other, have the time of the host, and get their files however these are shared. */
import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { after, before, test } from 'node:test';
import { connectAgent } from '../../agent-client/connect';
import type { AgentClient } from '../../agent-client/types';
import { Logger } from '../../base/log';
import { resumeAndConnect } from '../../factory/ready';
import { baseConfigOf, hostDeps } from '../../factory/create';
import { TemplateStore } from '../../factory/template/store';
import { TemplateFactory } from '../../factory/template/template';
import { hostTemplateMounts } from '../../factory/template/tmpfs';
import { runCommand } from '../../hack/private-containerd';
import { loadConfig } from '../../virtcontainers/config/load';
import { FactoryHost, KATA_RUNTIME } from '../support/factory';
import { factoryLeftovers } from '../support/factory-leaks';

const HOUR_MS = 3600 * 1000;
const AGE_MS = 5 * HOUR_MS;
const LIMIT_MS = 1000;
const READINGS = 20;

let factory: FactoryHost;
let store: TemplateStore;
let template: TemplateFactory;

before(async () => {
  factory = await FactoryHost.start({ more: { 'agent.kata': { debug_console_enabled: 'true' } } });
  const config = loadConfig({ configPath: factory.configFile, env: {}, cacheFolder: '' });
  store = new TemplateStore(config.factory.templatePath, hostTemplateMounts(false));
  const logger = Logger.to(() => undefined, 'error');
  // The guest's clock is set from this when the template is made: what is saved then is a guest of five hours ago.
  template = new TemplateFactory(baseConfigOf(config), store, { ...hostDeps(logger), now: () => Date.now() - AGE_MS });
});

after(async () => {
  await factory.stop();
  assert.deepEqual(await factoryLeftovers(factory.folder, { ids: ['stranger-'] }), []);
});

/** The words that the commands print in a shell of the guest itself, outside of every container, by name. */
async function inGuest(id: string, commands: Readonly<Record<string, string>>): Promise<Readonly<Record<string, string>>> {
  // The terminal echoes the input: only what the shell makes of it has the words in this form.
  const script = Object.entries(commands).map(([name, command]) => `echo "[[""${name}=$(${command})]]"`).join('; ');
  const done = await runCommand(KATA_RUNTIME, ['exec', id], { input: `${script}; exit\n`, timeoutMs: 60_000 });
  assert.equal(done.code, 0, done.stderr);
  return Object.fromEntries([...done.stdout.matchAll(/\[\[(\w+)=(.*?)\]\]/g)].map(([, name = '', value = '']) => [name, value]));
}

/** Prints the clock in microseconds: `date` of busybox has seconds only. */
const CLOCK = 'busybox adjtimex | awk \'/tv_sec/ {s = $2} /tv_usec/ {u = $2} END {printf "%d%06d\\n", s, u}\'';

function milliseconds(microseconds: string): number {
  assert.match(microseconds, /^\d{16}\n$/);
  return Number(microseconds) / 1000;
}

/** Milliseconds by which a clock is off, between which bounds: it was read some time between the two readings of ours. */
interface Offset {
  readonly least: number;
  readonly most: number;
}

/**
 * Of several readings, each of which bounds it: what all of them allow. One shell in the container answers each line
 * with its clock, so that a reading takes no longer than a line takes there and back: an exec takes up to seconds on a
 * busy machine.
 */
async function offsetOf(id: string): Promise<Offset> {
  const ctr = factory.host.containerd.spawnCtr(['tasks', 'exec', '--exec-id', 'clock', id, 'sh', '-c', `while read line; do ${CLOCK}; done`]);
  const { stdin, stdout } = ctr;
  assert.ok(stdin !== null && stdout !== null);
  const lines = createInterface({ input: stdout })[Symbol.asyncIterator]();
  let [least, most] = [-Infinity, Infinity];
  for (let n = 0; n < READINGS; n++) {
    const before = Date.now();
    stdin.write('\n');
    const guest = milliseconds(`${String((await lines.next()).value)}\n`);
    const after = Date.now();
    least = Math.max(least, guest - after);
    most = Math.min(most, guest - before);
  }
  stdin.end();
  await new Promise((resolve) => ctr.once('close', resolve));
  return { least, most };
}

function assertClock({ least, most }: Offset, what: string): void {
  assert.ok(least <= most, `${what}: the clock ran backwards: ${String(least)} > ${String(most)}`);
  assert.ok(Math.abs(least) <= LIMIT_MS && Math.abs(most) <= LIMIT_MS, `${what}: between ${least.toFixed(0)} and ${most.toFixed(0)} ms off`);
}

/** Runs a command in the guest's own root with nothing but the agent: no sandbox has been made in this VM. */
async function withoutSandbox(agent: AgentClient, script: string): Promise<string> {
  const [containerId, root] = ['probe', '/run/kata-containers/probe'];
  await agent.createContainer({
    containerId, devices: [], sandboxPidns: false, storages: [{ driver: 'bind', source: '/', fstype: 'bind', options: ['bind'], mountPoint: root }],
    spec: {
      ociVersion: '1.0.2', root: { path: root, readonly: true }, mounts: [],
      process: { args: ['/bin/sh', '-c', script], cwd: '/', env: ['PATH=/usr/sbin:/usr/bin:/sbin:/bin'], user: { uid: 0, gid: 0 } },
      linux: { cgroupsPath: '/probe', namespaces: ['pid', 'mount'].map((type) => ({ type })), resources: {} },
    },
  });
  await agent.startContainer(containerId);
  const out = await agent.readStdout({ containerId, execId: containerId }, 4096);
  await agent.waitProcess({ containerId, execId: containerId });
  return Buffer.from(out).toString();
}

test('a template that was saved five hours ago has the clock of then', async () => {
  const signal = new AbortController().signal;
  assert.equal(await template.ensure(signal), true);
  const { meta } = store.files(template.key);
  const saved = JSON.parse(readFileSync(meta, 'utf8')) as object;
  writeFileSync(meta, JSON.stringify({ ...saved, createdAt: new Date(Date.now() - AGE_MS).toISOString() }));
  assert.ok((factory.report().templates[0]?.ageSeconds ?? 0) >= AGE_MS / 1000);
  const { hypervisor, vcpus, memoryMiB, kernelParams } = template.config;
  const deps = hostDeps(Logger.to(() => undefined, 'error'));
  const id = 'stranger-raw';
  const { vm } = await template.getBaseVm({
    id, directory: `/run/vc/vm/${id}`, config: hypervisor, vcpus, memoryMiB, kernelParams, devices: [], netns: { kind: 'own' }, template: undefined, debug: false, logger: deps.logger,
    share: { kind: 'virtio-9p', tag: 'kataShared', source: factory.folder },
  }, signal);
  try {
    const agent = await resumeAndConnect(vm, { ...deps, connectAgent }, { sandboxId: id, timeoutMs: 60_000, signal });
    const seconds = Number(await withoutSandbox(agent, 'date +%s'));
    agent.close();
    assert.ok(Math.abs(Date.now() / 1000 - seconds - AGE_MS / 1000) < 120, `the untouched clone has ${String(seconds)}`);
  } finally {
    await vm.stop();
  }
});

test('two of its clones differ in random bytes, machine-id and host name, and their clocks are right to the second', async (t) => {
  const ids = ['stranger-1', 'stranger-2'];
  await Promise.all(ids.map((id) => factory.host.runDetached(id, ['sleep', '1000'])));
  assert.equal(factory.report().counts.hits['template'], 2);
  const read = {
    machine: 'cat /etc/machine-id', host: 'hostname', boot: 'cat /proc/sys/kernel/random/boot_id', random: 'head -c 32 /dev/urandom | od -An -v -tx1 | tr -d " \\n"',
  };
  const [one = {}, two = {}] = await Promise.all(ids.map((id) => inGuest(id, read)));
  for (const [what, form] of [['machine', /^[0-9a-f]{32}$/], ['host', /./], ['boot', /^[0-9a-f-]{36}$/], ['random', /^[0-9a-f]{64}$/]] as const) {
    assert.match(one[what] ?? '', form, what);
    assert.match(two[what] ?? '', form, what);
    assert.notEqual(one[what], two[what], what);
  }
  assert.deepEqual([one['host'], two['host']], ids);
  const inside = await Promise.all(ids.map(async (id) => (await factory.host.exec(id, ['sh', '-c', 'hostname; cat /proc/sys/kernel/random/uuid'])).stdout.split('\n')));
  assert.deepEqual(inside.map(([name]) => name), ids);
  assert.notEqual(inside[0]?.[1], inside[1]?.[1]);
  for (const id of ids) {
    const offset = await offsetOf(id);
    t.diagnostic(`the clock of ${id} is between ${offset.least.toFixed(0)} and ${offset.most.toFixed(0)} ms off`);
    assertClock(offset, id);
    await factory.host.remove(id);
  }
});

test('the first thing that a clone does has the time of the host too', async () => {
  const before = Date.now();
  const done = await factory.host.run('stranger-3', ['sh', '-c', CLOCK]);
  const after = Date.now();
  const guest = milliseconds(done.stdout);
  assert.ok(guest >= before - LIMIT_MS && guest <= after + LIMIT_MS, `${String(guest)} is not between ${String(before)} and ${String(after)}`);
  assert.deepEqual(await factoryLeftovers(factory.folder, { ids: ['stranger-'], templates: [template.key] }), []);
});
