/** kata-runtime and shim-monitor against a running sandbox in a real virtual machine. */
import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { request } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { ROOT, runCommand, unpackDebian, type CommandResult } from '../../hack/private-containerd';
import { parseMetrics } from '../../virtcontainers/metrics/prometheus-text';
import { Host } from '../support/host';
import { leakedSince, takeInventory, type Inventory } from '../support/leaks';
import { Terminal } from '../support/terminal';
import { endAll } from '../support/suite';

const KATA_RUNTIME = join(ROOT, 'build/kata-runtime');
const ID = 'clisandbox';
const SOCKET = `/run/vc/sbs/${ID}/shim-monitor.sock`;
const MIB = 1024 * 1024;

let host: Host;
let clean: Inventory;
let work: string;
const undo: (() => void)[] = [];
const volume = { device: '', image: '', path: '' };

async function cli(...args: string[]): Promise<CommandResult> {
  return runCommand(KATA_RUNTIME, ['--config', join(host.folder, 'configuration.toml'), ...args]);
}

async function curl(...args: string[]): Promise<{ readonly status: number; readonly body: string }> {
  const done = await runCommand('curl', ['-sS', '--max-time', '60', '--unix-socket', SOCKET, '-w', '\n%{http_code}', ...args]);
  const at = done.stdout.lastIndexOf('\n');
  return { status: Number(done.stdout.slice(at + 1)), body: done.stdout.slice(0, at) };
}

before(async () => {
  clean = takeInventory();
  work = mkdtempSync(join(tmpdir(), 'kata-cli-'));
  host = await Host.start('qemu', { 'agent.kata': { debug_console_enabled: 'true' }, runtime: { enable_pprof: 'true' } });
  volume.image = join(work, 'disk.img');
  volume.path = join(work, 'volume');
  mkdirSync(volume.path);
  writeFileSync(volume.image, '');
  truncateSync(volume.image, 64 * MIB);
  execFileSync('mkfs.ext4', ['-q', volume.image]);
  volume.device = execFileSync('losetup', ['-f', '--show', volume.image], { encoding: 'utf8' }).trim();
  undo.push(() => execFileSync('losetup', ['-d', volume.device]));
  const added = await cli('direct-volume', 'add', '--volume-path', volume.path, '--mount-info', JSON.stringify({ 'volume-type': 'block', device: volume.device, fstype: 'ext4' }));
  assert.equal(added.code, 0, added.stderr);
  undo.push(() => execFileSync(KATA_RUNTIME, ['direct-volume', 'remove', '--volume-path', volume.path]));
  await host.runDetached(ID, ['sh', '-c', 'while :; do sleep 0.2; done'], { args: ['--mount', `type=bind,src=${volume.path},dst=/volume,options=rbind:rw`] });
});

after(async () => {
  await endAll(() => host.stop(), ...undo.reverse(), () => rmSync(work, { recursive: true, force: true }));
  assert.deepEqual(await leakedSince(clean), []);
});

test('ps shows the sandbox with its container, VM source and size', async () => {
  const listed = await cli('ps', '--json');
  assert.equal(listed.code, 0, listed.stderr);
  const row = (JSON.parse(listed.stdout) as { id: string; state: string; vmSource: string; vcpus: number; memoryMiB: number; containers: { id: string; state: string }[] }[]).find(({ id }) => id === ID);
  assert.ok(row !== undefined, listed.stdout);
  assert.equal(row.state, 'running');
  assert.equal(row.vmSource, host.vmSource);
  assert.ok(row.vcpus >= 1 && row.memoryMiB >= 1024);
  assert.deepEqual(row.containers.map(({ id, state }) => [id, state]), [[ID, 'running']]);
  assert.match((await cli('ps')).stdout, /^SANDBOX +STATE/);
});

test('the monitor socket is for root only', () => {
  assert.equal(statSync(SOCKET).mode & 0o777, 0o600);
  assert.ok(existsSync(join(host.containerd.bundle(ID), 'monitor_address')));
});

test('metrics are valid and hold families of shim, hypervisor, agent and guest', async () => {
  const scraped = await cli('metrics', ID);
  assert.equal(scraped.code, 0, scraped.stderr);
  const families = new Map(parseMetrics(scraped.stdout).map((family) => [family.name, family]));
  for (const name of ['kata_shim_threads', 'kata_shim_rpc_durations_histogram_milliseconds', 'kata_hypervisor_proc_status', 'kata_agent_threads', 'kata_guest_meminfo', 'kata_guest_load', 'kata_shim_vm_source', 'kata_shim_phase_milliseconds']) {
    assert.ok(families.has(name), name);
  }
  const lines = scraped.stdout.split('\n').filter((line) => line !== '' && !line.startsWith('#'));
  const parsed = [...families.values()].reduce((total, family) => total + family.samples.length, 0);
  assert.equal(parsed, lines.length, 'every line is a sample');
  assert.ok(lines.length > 200, `${String(lines.length)} lines`);
});

test('promtool takes the metrics', async () => {
  const promtool = join(unpackDebian('prometheus', ['prometheus']), 'usr/bin/promtool');
  const scraped = await cli('metrics', ID);
  const checked = await runCommand(promtool, ['check', 'metrics'], { input: scraped.stdout });
  // Exit code 3 and such lines are opinions about names, which are upstream's.
  const wrong = checked.stderr.split('\n').filter((line) => /error|parse|invalid|duplicate/i.test(line));
  assert.ok(checked.code === 0 || checked.code === 3, checked.stderr);
  assert.deepEqual(wrong, []);
});

test('agent-url answers by curl as in the documents', async () => {
  const answer = await curl('http://shim/agent-url');
  assert.equal(answer.status, 200);
  assert.match(answer.body, /^(vsock|serial):\/\//);
});

test('the examples of README and documents run as they are written', async () => {
  const lines = ['README.md', 'docs/kata-runtime.md', 'docs/kata-runtime-commands.md'].flatMap((name) => readFileSync(join(ROOT, name), 'utf8').split('\n'));
  const examples = lines
    .map((line) => line.replace(/^[$ ]+/, '').replace(/ +#.*$/, '').replace(/ {3,}\S.*$/, ''))
    .filter((line) => /^(?:curl --unix-socket|kata-runtime (?:ps|gc|metrics|iptables get|exec|env|explain|completion|collect-data) ?)/.test(line) && !line.includes('[options]') && !line.includes('| jq') && !line.includes('/etc/'));
  assert.ok(examples.filter((line) => line.startsWith('curl')).length >= 8, examples.join('\n'));
  const env = { ...process.env, PATH: `${join(ROOT, 'build')}:${process.env['PATH'] ?? ''}`, KATA_CONF_FILE: join(host.folder, 'configuration.toml') };
  for (const line of new Set(examples)) {
    const bundle = host.containerd.bundle(ID);
    const command = line.replace('/run/containerd/io.containerd.runtime.v2.task/k8s.io/<id>', bundle).replace(/<(?:sandbox-)?id>|5f1d\.\.\.|\bfirst\b/g, ID).replace('$(kata-runtime ps -q | head -1)', ID).replace('/dev/loop0', volume.device).replace(/^curl /, 'curl --fail ');
    const done = spawnSync('bash', ['-c', command], { cwd: work, env, encoding: 'utf8', input: 'exit\n', timeout: 60_000 });
    // grep finds nothing where nothing is set.
    assert.ok(done.status === 0 || (command.includes('| grep') && done.status === 1 && done.stderr === ''), `${command}: ${String(done.status)} ${done.stderr}`);
    assert.doesNotMatch(done.stdout, /404 page not found/, command);
  }
});

test('iptables: rules set from a file are there afterwards, in both families', async () => {
  for (const v6 of [[], ['--v6']]) {
    const file = join(work, 'rules');
    writeFileSync(file, '*filter\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n-A INPUT -p tcp -m tcp --dport 4711 -j DROP\nCOMMIT\n');
    const set = await cli('iptables', 'set', '--sandbox-id', ID, ...v6, file);
    assert.equal(set.code, 0, set.stderr);
    const got = await cli('iptables', 'get', '--sandbox-id', ID, ...v6);
    assert.equal(got.code, 0, got.stderr);
    assert.match(got.stdout, /--dport 4711 -j DROP/);
  }
});

test('iptables: what is no rule is refused with 400, another method with 501', async () => {
  const file = join(work, 'norules');
  writeFileSync(file, 'this is no rule\n');
  const set = await cli('iptables', 'set', '--sandbox-id', ID, file);
  assert.equal(set.code, 1);
  assert.match(set.stderr, /iptables-set request.*400/s);
  assert.equal((await curl('-X', 'DELETE', 'http://shim/iptables')).status, 501);
  assert.equal((await curl('-X', 'POST', 'http://shim/metrics')).status, 405);
  assert.equal((await curl('http://shim/nothing')).status, 404);
});

test('a body of one gigabyte is refused at once', async () => {
  const status = await new Promise<number>((resolve, reject) => {
    const client = request({ socketPath: SOCKET, method: 'PUT', path: '/iptables', headers: { 'content-length': 1024 * MIB } }, (response) => {
      response.resume();
      resolve(response.statusCode ?? 0);
      client.destroy();
    });
    client.on('error', reject);
    client.write('x');
  });
  assert.equal(status, 413);
  const chunked = await new Promise<number>((resolve, reject) => {
    const client = request({ socketPath: SOCKET, method: 'PUT', path: '/iptables' }, (response) => {
      response.resume();
      resolve(response.statusCode ?? 0);
      client.destroy();
    });
    client.on('error', (reason) => reject(reason));
    client.write(Buffer.alloc(5 * MIB));
  });
  assert.equal(chunked, 413);
});

test('policy is 501 where the agent has none', async () => {
  assert.equal((await curl('-X', 'PUT', '--data-binary', 'package x', 'http://shim/policy')).status, 501);
});

test('debug endpoints answer because enable_pprof is on', async () => {
  assert.equal((await curl('http://shim/debug/vars')).status, 200);
  const profile = await curl('http://shim/debug/pprof/profile?seconds=0.3');
  assert.equal(profile.status, 200);
  assert.ok(Array.isArray((JSON.parse(profile.body) as { nodes: unknown }).nodes));
});

test('direct volume: mounted in the container, its stats read, grown online', async () => {
  const written = await host.exec(ID, ['sh', '-c', 'echo kept > /volume/file && grep " /volume " /proc/mounts']);
  assert.equal(written.code, 0, written.stderr);
  assert.match(written.stdout, / ext4 /);
  const stats = async (): Promise<{ total: number; unit: number }[]> => {
    const answered = await cli('direct-volume', 'stats', '--volume-path', volume.path);
    assert.equal(answered.code, 0, answered.stderr);
    return (JSON.parse(answered.stdout) as { usage: { total: number; unit: number }[] }).usage;
  };
  const before_ = (await stats()).find(({ unit }) => unit === 1)?.total ?? 0;
  assert.ok(before_ > 40 * MIB && before_ < 64 * MIB, String(before_));
  truncateSync(volume.image, 128 * MIB);
  execFileSync('losetup', ['-c', volume.device]);
  const resized = await cli('direct-volume', 'resize', '--volume-path', volume.path, '--size', String(128 * MIB));
  assert.equal(resized.code, 0, resized.stderr);
  const grown = (await stats()).find(({ unit }) => unit === 1)?.total ?? 0;
  assert.ok(grown > 100 * MIB, String(grown));
  assert.equal((await host.exec(ID, ['cat', '/volume/file'])).stdout, 'kept\n');
});

test('direct volume: bad requests are answered 4xx with the reason', async () => {
  const missing = await curl('http://shim/direct-volume/stats');
  assert.deepEqual([missing.status, missing.body.trim()], [400, 'Required parameter path not found']);
  assert.equal((await curl('http://shim/direct-volume/stats?path=/dev/nothing')).status, 404);
  assert.equal((await curl('-X', 'POST', '--data', '{"VolumePath":1}', 'http://shim/direct-volume/resize')).status, 400);
  assert.equal((await curl('-X', 'POST', '--data', 'x', 'http://shim/direct-volume/resize')).status, 400);
});

test('exec without a terminal runs what comes on standard input', async () => {
  const done = await runCommand(KATA_RUNTIME, ['exec', ID], { input: 'echo in-$((40+2))-guest; exit\n', timeoutMs: 60_000 });
  assert.equal(done.code, 0, done.stderr);
  assert.match(done.stdout, /in-42-guest/);
});

test('exec in a terminal: a shell of the guest that follows the window, and the terminal is as before afterwards', async (t) => {
  if (!Terminal.isThere()) {
    t.skip('tmux is not installed');
    return;
  }
  const terminal = new Terminal(join(work, 'tmux'), { columns: 90, rows: 27 });
  try {
    terminal.type(`stty -a > ${work}/before; ${KATA_RUNTIME} exec ${ID}; echo left=$?; stty -a > ${work}/after; echo done=yes`, 'Enter');
    await new Promise((resolve) => setTimeout(resolve, 2_000));
    terminal.type('echo pid1=$(cat /proc/1/comm) size=$(stty size)', 'Enter');
    const screen = await terminal.until(/pid1=(?!\$)\S+ size=\d/);
    assert.match(screen, /size=27 90/);
    // A program that runs in the guest meanwhile is told too, by SIGWINCH.
    terminal.type(`sh -c 'trap "echo winch=\\$(stty size)" WINCH; echo armed=yes; while :; do sleep 0.2; done'`, 'Enter');
    await terminal.until(/^armed=yes/m);
    terminal.resize({ columns: 111, rows: 33 });
    await terminal.until(/winch=33 111/);
    terminal.resize({ columns: 90, rows: 27 });
    await terminal.until(/winch=27 90/);
    terminal.type('C-c');
    assert.doesNotMatch(terminal.screen(), /kata-console/);
    terminal.type('exit', 'Enter');
    await terminal.until(/left=0/);
    await terminal.until(/done=yes/);
    assert.equal(spawnSync('cmp', [join(work, 'before'), join(work, 'after')]).status, 0);
  } finally {
    terminal.close();
  }
});

test('one scrape costs the shim little', async () => {
  const cpu = (): number => {
    const text = execFileSync('curl', ['-sS', '--unix-socket', SOCKET, 'http://shim/debug/vars'], { encoding: 'utf8' });
    const { userCPUTime, systemCPUTime } = (JSON.parse(text) as { resourceUsage: { userCPUTime: number; systemCPUTime: number } }).resourceUsage;
    return (userCPUTime + systemCPUTime) / 1000;
  };
  const start = cpu();
  for (let i = 0; i < 10; i++) {
    assert.equal((await curl('http://shim/metrics')).status, 200);
  }
  const perScrapeMs = (cpu() - start) / 10;
  console.log(`CPU of the shim per scrape: ${perScrapeMs.toFixed(1)} ms`);
  assert.ok(perScrapeMs < 60, `${perScrapeMs.toFixed(1)} ms`);
});

test('check: what is missing with its remedy, what works all the same, what each hypervisor can do', async () => {
  const table = await cli('check', '--no-network-checks');
  assert.match(table.stdout, /^What each hypervisor can do.*\n.*disks +NICs +shared folder +template +resize\n +\* qemu \(q35\) +yes +yes/m);
  assert.ok([0, 1].includes(table.code));
  const judged = JSON.parse((await cli('check', '--no-network-checks', '--json')).stdout) as { capable: boolean; works: { name: string; works: boolean }[]; findings: { ok: boolean; remedy: string }[] };
  assert.equal(judged.capable, table.code === 0);
  assert.ok(judged.works.some(({ name, works }) => name.startsWith('qemu') && works), 'a sandbox runs in QEMU here');
  assert.ok(judged.findings.every(({ ok, remedy }) => ok === (remedy === '')));
  const software = join(work, 'tcg.toml');
  writeFileSync(software, readFileSync(join(host.folder, 'configuration.toml'), 'utf8').replace('[hypervisor.qemu]', '[hypervisor.qemu]\naccelerator = "tcg"'));
  const tcg = await runCommand(KATA_RUNTIME, ['--config', software, 'check', '-n']);
  assert.equal(tcg.code, 0, tcg.stderr);
  assert.match(tcg.stdout, /^System is capable of running Kata Containers\n/);
});

test('env: the settings of this host, as TOML, as JSON, with their sources and the annotations of the sandbox', async () => {
  const document = JSON.parse((await cli('env', '--json')).stdout) as { Meta: { Version: string }; Hypervisor: { Version: string }; Runtime: { Config: { Path: string } } };
  assert.deepEqual([document.Meta.Version, document.Runtime.Config.Path], ['1.0.26', join(host.folder, 'configuration.toml')]);
  assert.match(document.Hypervisor.Version, /^QEMU emulator version/);
  assert.match((await cli('kata-env')).stdout, /^\[Kernel\]\n {2}Path = /);
  assert.match((await cli('env', '--sources')).stdout, /^agent\.kata\.debug_console_enabled = true +# file .*configuration\.toml:\d+$/m);
  const bundle = await cli('env', '--sources', '--bundle', host.containerd.bundle(ID));
  assert.match(bundle.stdout, /^hypervisor\.qemu\.default_memory = 1024 +# file /m);
});

test('collect-data holds the sandbox and no secret', async () => {
  const file = join(work, 'report.tar.gz');
  const done = await cli('collect-data', '--output', file);
  assert.equal(done.code, 0, done.stderr);
  assert.equal(statSync(file).mode & 0o777, 0o600);
  const names = execFileSync('tar', ['tzf', file], { encoding: 'utf8' });
  for (const name of ['env.json', 'ps.json', `sandboxes/${ID}/persist.json`, `sandboxes/${ID}/metrics.txt`, 'configuration/']) {
    assert.ok(names.includes(name), name);
  }
});

test('gc --dry-run finds nothing of a living sandbox', async () => {
  const found = await cli('gc', '--dry-run', '--json');
  assert.equal(found.code, 0, found.stderr);
  assert.ok(!found.stdout.includes(ID), found.stdout);
});

test('explain reads the bundle of the running container', async () => {
  const told = await cli('explain', '--bundle', host.containerd.bundle(ID));
  assert.equal(told.code, 0, told.stderr);
  assert.match(told.stdout, /at boot +1 vCPU, 1024 MiB/);
});
