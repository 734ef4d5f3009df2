/** kata-monitor over two sandboxes, and gc after everything was killed. Without VMs: the mock hypervisor. */
import assert from 'node:assert/strict';
import { spawn, type ChildProcess } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { ROOT, runCommand } from '../../hack/private-containerd';
import { parseMetrics } from '../../virtcontainers/metrics/prometheus-text';
import { Host } from '../support/host';

const IDS = ['monitored1', 'monitored2'];
let host: Host;
let monitor: ChildProcess;
let base = '';

async function get(path: string, accept = '*/*'): Promise<{ readonly status: number; readonly text: string }> {
  const response = await fetch(`${base}${path}`, { headers: { accept } });
  return { status: response.status, text: await response.text() };
}

async function until(what: string, check: () => Promise<boolean>): Promise<void> {
  for (let tries = 0; tries < 150; tries++) {
    if (await check()) {
      return;
    }
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  assert.fail(`not in time: ${what}`);
}

before(async () => {
  host = await Host.start('mock');
  monitor = spawn(join(ROOT, 'build/kata-monitor'), ['--listen-address', '127.0.0.1:0', '-runtime-endpoint', host.containerd.address], { stdio: ['ignore', 'ignore', 'pipe'] });
  base = await new Promise((resolve, reject) => {
    let said = '';
    monitor.stderr?.on('data', (part: Buffer) => {
      said += part.toString();
      const address = /kata-monitor listens.*address=(\S+)/.exec(said)?.[1];
      if (address !== undefined) {
        resolve(`http://${address}`);
      }
    });
    monitor.once('exit', () => reject(new Error(said)));
  });
  for (const id of IDS) {
    await host.runDetached(id, ['sleep', '1000']);
  }
});

after(async () => {
  monitor.kill('SIGTERM');
  await new Promise((resolve) => monitor.once('exit', resolve));
  await host.stop();
});

test('sandboxes that came after the start are there', async () => {
  await until('both sandboxes listed', async () => {
    const { text } = await get('/sandboxes');
    return IDS.every((id) => text.includes(id));
  });
});

test('metrics of all sandboxes come merged, with the label of each', async () => {
  const { status, text } = await get('/metrics');
  assert.equal(status, 200);
  const family = parseMetrics(text).find(({ name }) => name === 'kata_shim_vm_source');
  for (const id of IDS) {
    assert.ok(family?.samples.some(({ labels }) => labels.some(([name, value]) => name === 'sandbox_id' && value === id)), id);
  }
  assert.equal(new Set(text.split('\n').filter((line) => line.startsWith('# TYPE'))).size, text.split('\n').filter((line) => line.startsWith('# TYPE')).length, 'no family twice');
});

test('the page shows sandbox, state, VM source and phases', async () => {
  const { status, text } = await get('/', 'text/html');
  assert.equal(status, 200);
  for (const word of [...IDS, 'running', 'direct', 'MiB resident']) {
    assert.ok(text.includes(word), word);
  }
});

test('one sandbox at a time: metrics and agent address', async () => {
  assert.match((await get(`/metrics?sandbox=${IDS[0] ?? ''}`)).text, /^# HELP kata_/);
  assert.match((await get(`/agent-url?sandbox=${IDS[0] ?? ''}`)).text, /^\w+:\/\//);
  assert.equal((await get('/agent-url?sandbox=nobody')).status, 400);
});

test('a sandbox that ends goes from the list', async () => {
  await host.remove(IDS[1] ?? '');
  await until('it is gone', async () => !(await get('/sandboxes')).text.includes(IDS[1] ?? ''));
});

test('gc removes what is left after containerd and shim were killed, and says why', async () => {
  const id = IDS[0] ?? '';
  const listed = await runCommand(join(ROOT, 'build/kata-runtime'), ['ps', '--json']);
  const row = (JSON.parse(listed.stdout) as { id: string; shimPid: number; vmPid: number }[]).find((one) => one.id === id);
  assert.ok(row !== undefined);
  await host.containerd.end('SIGKILL');
  process.kill(row.shimPid, 'SIGKILL');
  await until('the shim is gone', async () => Promise.resolve(!existsSync(`/proc/${String(row.shimPid)}`)));
  const dead = await runCommand(join(ROOT, 'build/kata-runtime'), ['gc', '--dry-run']);
  assert.match(dead.stdout, new RegExp(`would remove sandbox /run/vc/sbs/${id}: its shim \\(pid ${String(row.shimPid)}\\) is gone`));
  const done = await runCommand(join(ROOT, 'build/kata-runtime'), ['gc']);
  assert.equal(done.code, 0, done.stderr);
  assert.ok(!existsSync(`/run/vc/sbs/${id}`) && !existsSync(`/run/kata-containers/shared/sandboxes/${id}`));
  await until('no process of the sandbox', async () => Promise.resolve(!existsSync(`/proc/${String(row.vmPid)}`)));
  await host.containerd.launch();
});
