/** Faults in the middle of things: while a pod of several containers runs, and while one is being made. */
import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { ROOT, runCommand } from '../../hack/private-containerd';
import { configText, Host } from '../support/host';
import { leftOf } from '../support/leaks';

let host: Host;

before(async () => {
  host = await Host.start('qemu', { hypervisor: { default_memory: '512' } });
});

after(async () => {
  await host.stop();
  assert.deepEqual(await leftOf([host.containerd.folder]), []);
});

const sandbox = (id: string): string[] => ['--annotation', 'io.kubernetes.cri.container-type=sandbox', '--annotation', `io.kubernetes.cri.sandbox-id=${id}`];
const member = (id: string): string[] => ['--annotation', 'io.kubernetes.cri.container-type=container', '--annotation', `io.kubernetes.cri.sandbox-id=${id}`];

/** The first process whose command line matches, as soon as there is one. */
async function pidOf(pattern: string, timeoutMs = 30_000): Promise<number> {
  const deadline = Date.now() + timeoutMs;
  while (Date.now() < deadline) {
    try {
      return Number(execFileSync('pgrep', ['-o', '-f', pattern], { encoding: 'utf8' }).trim());
    } catch {
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  }
  throw new Error(`no process matches ${pattern}`);
}

/** Of the VMM of a sandbox that is being made, as soon as it is the sandbox's. One of a cache has a name of its own. */
async function vmmOf(id: string): Promise<number> {
  if (host.vmSource !== 'cache') {
    return pidOf(`qemu-system.*sandbox-${id}`);
  }
  const deadline = Date.now() + 30_000;
  while (Date.now() < deadline) {
    try {
      return host.vmPid(id);
    } catch {
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
  }
  throw new Error(`no VMM of ${id} in its state`);
}

/** Kills every VMM that takes the place of a killed one, until the run ends: where a clone fails, the sandbox boots. */
async function killUntil(running: Promise<unknown>, id: string): Promise<void> {
  const ended = running.then(() => true);
  while (!(await Promise.race([ended, new Promise<false>((resolve) => setTimeout(() => resolve(false), 50))]))) {
    for (const pid of spawnSync('pgrep', ['-f', `qemu-system.*sandbox-${id}`], { encoding: 'utf8' }).stdout.split('\n').filter(Boolean)) {
      process.kill(Number(pid), 'SIGKILL');
    }
  }
}

const unique = (name: string): string => `${name}${String(process.pid)}`;

test('the shim of a pod with two containers is killed: both waiters get an answer and nothing is left', async () => {
  const [pod, one, two] = [unique('kpod'), unique('kone'), unique('ktwo')];
  await host.runDetached(pod, ['sleep', '100000'], { args: sandbox(pod) });
  const waiting = [one, two].map((id) => host.run(id, ['sleep', '1000'], { args: member(pod), timeoutMs: 120_000 }));
  await host.waitForStatus(one, 'RUNNING', 60_000);
  await host.waitForStatus(two, 'RUNNING', 60_000);
  const killedAt = Date.now();
  process.kill(host.shimPid(pod), 'SIGKILL');
  const ends = await Promise.all(waiting);
  assert.ok(Date.now() - killedAt < 30_000, `the waiters had to wait ${String(Date.now() - killedAt)} ms`);
  assert.deepEqual(ends.map(({ code }) => code !== 0), [true, true]);
  for (const id of [one, two, pod]) {
    await host.remove(id);
  }
  assert.deepEqual(await leftOf([pod, one, two]), []);
});

test('virtiofsd is killed: the waiter gets an answer, the log names it, and nothing is left', async () => {
  const id = unique('vfs');
  const waiting = host.run(id, ['sleep', '1000'], { timeoutMs: 120_000 });
  await host.waitForStatus(id, 'RUNNING', 60_000);
  const pid = await pidOf(`virtiofsd.*/${id}/`);
  const killedAt = Date.now();
  process.kill(pid, 'SIGKILL');
  assert.notEqual((await waiting).code, 0);
  assert.ok(Date.now() - killedAt < 30_000, `the waiter had to wait ${String(Date.now() - killedAt)} ms`);
  assert.match(host.containerd.log, new RegExp(`virtiofsd ended.*sandbox=${id}.*SIGKILL`));
  await host.remove(id);
  assert.deepEqual(await leftOf([id]), []);
});

test('the agent is killed in the guest: the waiter gets an answer, the log says so, and nothing is left', async () => {
  // It is PID 1 there, which no signal can kill. From the guest's own shell its memory can be written: this is over the code that it runs.
  const id = unique('agentkill');
  const config = host.config('console', configText('qemu', { hypervisor: { default_memory: '512' }, 'agent.kata': { debug_console_enabled: 'true' } }));
  const waiting = host.run(id, ['sleep', '1000'], { args: ['--runtime-config-path', config], timeoutMs: 120_000 });
  await host.waitForStatus(id, 'RUNNING', 60_000);
  const start = '$(sed -n "s/-.* r-xp .*node$//p" /proc/1/maps | head -n1)';
  const shell = await runCommand(join(ROOT, 'build/kata-runtime'), ['exec', id], {
    input: `dd if=/dev/zero of=/proc/1/mem bs=4096 count=8000 seek=$((0x${start} / 4096)) conv=notrunc\n`,
    timeoutMs: 30_000,
  });
  const done = await waiting;
  assert.equal(done.code, 255, `${done.stderr}${shell.stdout}${shell.stderr}`);
  assert.match(host.containerd.log, new RegExp(`sandbox failed.*sandbox=${id}.*Attempted to kill init`));
  await host.remove(id);
  assert.deepEqual(await leftOf([id]), []);
});

test('QEMU is killed while the guest boots: Create fails at once and says so, nothing is left', async () => {
  const id = unique('bootkill');
  const running = host.run(id, ['sleep', '1000'], { timeoutMs: 120_000 });
  host.mode?.expectFallback('template-failed');
  const pid = await vmmOf(id);
  await new Promise((resolve) => setTimeout(resolve, host.vmSource === 'direct' ? 300 : 0));
  const killedAt = Date.now();
  process.kill(pid, 'SIGKILL');
  await killUntil(running, id);
  const done = await running;
  assert.ok(Date.now() - killedAt < 10_000, `took ${String(Date.now() - killedAt)} ms`);
  assert.notEqual(done.code, 0);
  // The VMM of a cache is the child of its server.
  assert.match(done.stderr, host.vmSource === 'cache' ? /the virtual machine ended \(a status that only its parent was told\)/ : /SIGKILL|killed/);
  await host.ctr(['containers', 'rm', id]);
  assert.deepEqual(await leftOf([id]), []);
});

test('the shim is killed while the guest boots: Create fails and nothing is left', async () => {
  const id = unique('createkill');
  const running = host.run(id, ['sleep', '1000'], { timeoutMs: 120_000 });
  await vmmOf(id);
  process.kill(host.shimPid(id), 'SIGKILL');
  const done = await running;
  assert.notEqual(done.code, 0);
  await host.remove(id);
  assert.deepEqual(await leftOf([id]), []);
});

test('containerd is killed while the guest boots: the next one cleans up, and the id is free again', async () => {
  const id = unique('cdkill');
  const running = host.run(id, ['sleep', '1000'], { timeoutMs: 60_000 });
  await vmmOf(id);
  await host.containerd.end('SIGKILL');
  assert.notEqual((await running).code, 0);
  await host.containerd.launch();
  await host.remove(id);
  await host.ctr(['snapshots', 'rm', id]);
  assert.deepEqual(await leftOf([id], 20_000), []);
  const done = await host.run(id, ['echo', 'again']);
  assert.deepEqual([done.code, done.stdout], [0, 'again\n'], done.stderr);
});
