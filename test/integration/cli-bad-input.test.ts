/** What is wrong with a request to kata-runtime or shim-monitor, against a running sandbox: the reason, a bounded wait, no harm. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { ROOT, runCommand, type CommandResult } from '../../hack/private-containerd';
import { configText, Host } from '../support/host';
import { leakedSince, takeInventory, type Inventory } from '../support/leaks';
import { Terminal } from '../support/terminal';
import { endAll } from '../support/suite';

const ID = 'badinput';
const SOCKET = `/run/vc/sbs/${ID}/shim-monitor.sock`;
const GIB = 1024 ** 3;

let host: Host;
let clean: Inventory;
let work: string;

const cli = (...args: string[]): Promise<CommandResult> => runCommand(join(ROOT, 'build/kata-runtime'), args, { timeoutMs: 100_000 });

/** A command that must fail: exit code 1, one line on standard error with a remedy, nothing on standard output. */
async function refused(pattern: RegExp, ...args: string[]): Promise<void> {
  const done = await cli(...args);
  assert.equal(done.code, 1, args.join(' ').slice(0, 200));
  assert.equal(done.stdout, '');
  assert.match(done.stderr, /^kata-runtime: [^\n]*\([^\n]*\)\n$/);
  assert.match(done.stderr, pattern);
}

interface Answer {
  readonly status: number;
  readonly type: string;
  readonly body: string;
}

async function curl(...args: string[]): Promise<Answer> {
  const done = await runCommand('curl', ['-s', '--max-time', '60', '--unix-socket', SOCKET, '-w', '\n%{http_code} %{content_type}', ...args], { timeoutMs: 70_000 });
  const at = done.stdout.lastIndexOf('\n');
  const [status = '', ...type] = done.stdout.slice(at + 1).split(' ');
  return { status: Number(status), type: type.join(' '), body: done.stdout.slice(0, at) };
}

/** Most memory that a process ever had, bytes. */
function peakBytes(pid: number): number {
  return Number(/^VmHWM:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${String(pid)}/status`, 'utf8'))?.[1]) * 1024;
}

before(async () => {
  clean = takeInventory();
  work = mkdtempSync(join(tmpdir(), 'kata-bad-'));
  host = await Host.start('qemu');
  await host.runDetached(ID, ['sleep', '100000']);
});

after(async () => {
  await endAll(() => host.stop(), () => rmSync(work, { recursive: true, force: true }));
  assert.deepEqual(await leakedSince(clean), []);
});

const COMMANDS: readonly (readonly [string, (id: string) => string[]])[] = [
  ['metrics', (id) => ['metrics', id]],
  ['exec', (id) => ['exec', id]],
  ['iptables get', (id) => ['iptables', 'get', '--sandbox-id', id]],
  ['iptables get --v6', (id) => ['iptables', 'get', '--v6', '--sandbox-id', id]],
  ['iptables set', (id) => ['iptables', 'set', '--sandbox-id', id, '/etc/hostname']],
];

for (const [name, argv] of COMMANDS) {
  test(`${name}: ids that are none, and one that nobody has`, async () => {
    for (const id of ['', '..', '../../../etc', 'a/b', `/${ID}`, 'x'.repeat(300), 'x', 'a\u0001b', 'a b', '.x']) {
      await refused(/invalid container\/sandbox id|ID cannot be blank/i, ...argv(id));
    }
    await refused(/no shim-monitor at \/run\/vc\/sbs\/nobody-has-it/, ...argv('nobody-has-it'));
  });
}

test('a socket that nobody serves: every command says so', async () => {
  const folder = '/run/vc/sbs/nobodyserves';
  mkdirSync(folder, { recursive: true });
  try {
    execFileSync(process.execPath, ['-e', `const s = require('net').createServer().listen('${folder}/shim-monitor.sock', () => process.kill(process.pid, 'SIGKILL'))`], { stdio: 'ignore' });
  } catch {
    // it killed itself: the socket stays
  }
  try {
    for (const [, argv] of COMMANDS) {
      await refused(/nobody serves .*its shim has ended/, ...argv('nobodyserves'));
    }
    assert.match((await cli('ps')).stdout, /nobodyserves/);
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test('a shim that hangs: a bounded wait, and ps shows it as silent', async () => {
  const shim = host.shimPid(ID);
  process.kill(shim, 'SIGSTOP');
  try {
    const begun = performance.now();
    const both = await Promise.all([refused(/no answer to GET \/metrics within 10000 ms/, 'metrics', ID), cli('ps')]);
    assert.match(both[1].stdout, new RegExp(`^${ID} +silent `, 'm'));
    assert.ok(performance.now() - begun < 30_000);
  } finally {
    process.kill(shim, 'SIGCONT');
  }
  assert.equal((await cli('metrics', ID)).code, 0, 'it goes on');
});

test('a shim that answers in part and then nothing', async () => {
  const folder = '/run/vc/sbs/halfanswer';
  mkdirSync(folder, { recursive: true });
  const sockets: Socket[] = [];
  const server: Server = createServer((socket) => {
    sockets.push(socket.on('error', () => undefined));
    socket.write('HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf');
  });
  await new Promise<void>((resolve) => server.listen(join(folder, 'shim-monitor.sock'), resolve));
  try {
    await refused(/no answer to GET \/iptables within/, 'iptables', 'get', '--sandbox-id', 'halfanswer');
  } finally {
    server.close();
    sockets.forEach((socket) => socket.destroy());
    rmSync(folder, { recursive: true });
  }
});

test('a body of one gigabyte, announced or in pieces: 413, and the shim takes no memory for it', async () => {
  const big = join(work, 'big');
  writeFileSync(big, '');
  truncateSync(big, GIB);
  const before_ = peakBytes(host.shimPid(ID));
  for (const path of ['iptables', 'ip6tables', 'policy']) {
    assert.equal((await curl('-T', big, `http://shim/${path}`)).status, 413, path);
  }
  const chunked = await curl('-H', 'Transfer-Encoding: chunked', '-T', big, 'http://shim/iptables');
  assert.ok(chunked.status === 413 || chunked.status === 0, `cut off, not ${String(chunked.status)}`);
  assert.equal((await curl('-X', 'POST', '-T', big, 'http://shim/direct-volume/resize')).status, 413);
  const grown = peakBytes(host.shimPid(ID)) - before_;
  assert.ok(grown < 48 * 1024 * 1024, `the shim grew by ${String(grown)} bytes`);
  await refused(/more than the 4194304 bytes/, 'iptables', 'set', '--sandbox-id', ID, big);
});

test('methods: what an endpoint does not know is 405, or 501 where upstream says so, with what it knows', async () => {
  for (const [path, status, allow] of [
    ['metrics', 405, 'GET'],
    ['agent-url', 405, 'GET'],
    ['sandbox', 405, 'GET'],
    ['direct-volume/stats', 405, 'GET'],
    ['direct-volume/resize', 405, 'POST'],
    ['iptables', 501, 'GET, PUT'],
    ['ip6tables', 501, 'GET, PUT'],
    ['policy', 501, 'PUT'],
  ] as const) {
    const answer = await runCommand('curl', ['-s', '-i', '--unix-socket', SOCKET, '-X', 'PATCH', `http://shim/${path}`]);
    assert.match(answer.stdout, new RegExp(`^HTTP/1\\.1 ${String(status)} .*^Allow: ${allow}\\r$`, 'ms'), path);
  }
  for (const path of ['', 'metrics/', 'nothing', '..%2f', 'debug/vars', 'debug/pprof/', 'debug/pprof/profile']) {
    const answer = await curl('--path-as-is', `http://shim/${path}`);
    assert.deepEqual([answer.status, answer.body], [404, '404 page not found\n'], path);
  }
});

test('content types and bodies of what goes well', async () => {
  const seen = async (path: string): Promise<string> => {
    const { status, type } = await curl(`http://shim/${path}`);
    return `${String(status)} ${type}`;
  };
  assert.equal(await seen('agent-url'), '200 text/plain; charset=utf-8');
  assert.match(await seen('metrics'), /^200 text\/plain/);
  assert.match(await seen('sandbox'), /^200 application\/json/);
  const rules = '*filter\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n-A INPUT -p tcp -m tcp --dport 4711 -j DROP\nCOMMIT\n';
  for (const path of ['iptables', 'ip6tables']) {
    const set = await curl('-X', 'PUT', '-H', 'Content-Type: application/octet-stream', '--data-binary', rules, `http://shim/${path}`);
    assert.deepEqual([set.status, set.type, set.body], [200, '', ''], path);
    assert.equal(await seen(path), '200 text/plain; charset=utf-8');
  }
  assert.ok(!(await curl('http://shim/agent-url')).body.includes('\n'));
});

test('volumes: wrong JSON, wrong types, paths and escapes that are none: 400 with the reason; nothing there: 404', async () => {
  const post = (body: string): Promise<Answer> => curl('-X', 'POST', '--data-binary', body, 'http://shim/direct-volume/resize');
  for (const body of ['', 'x', '{', '[]', 'null', '1', '{}', '{"VolumePath":"/dev/x"}', '{"VolumePath":"","Size":1}', '{"VolumePath":1,"Size":1}', '{"VolumePath":"/dev/x","Size":"1"}', '{"VolumePath":"/dev/x","Size":-1}', '{"VolumePath":"/dev/x","Size":1.5}', '{"VolumePath":"/dev/x","Size":99999999999999999999}', '['.repeat(100_000)]) {
    const answer = await post(body);
    assert.equal(answer.status, 400, body.slice(0, 60));
    assert.match(answer.body, /the body is/);
  }
  assert.equal((await post('{"volumepath":"/dev/none","size":1}')).status, 404, 'keys without regard to case');
  for (const [query, status, said] of [
    ['', 400, 'Required parameter path not found'],
    ['?path=', 400, 'Required parameter path not found'],
    ['?path=%25zz', 400, 'bad escape'],
    ['?path=/dev/none', 404, 'not found in sandbox'],
    [`?path=${'x'.repeat(8000)}`, 404, 'not found in sandbox'],
    ['?path=..%2F..%2Fetc%2Fpasswd', 404, 'not found in sandbox'],
  ] as const) {
    const answer = await curl(`http://shim/direct-volume/stats${query}`);
    assert.deepEqual([answer.status, answer.body.includes(said)], [status, true], `${query.slice(0, 60)}: ${answer.body.slice(0, 200)}`);
  }
});

test('rules that iptables does not take: 400 with what it said, and what was there stays', async () => {
  const before_ = (await curl('http://shim/iptables')).body.replace(/^#.*$/gm, '');
  assert.match(before_, /--dport 4711/, 'from the test before');
  for (const body of ['nonsense\n', '*nosuchtable\nCOMMIT\n', '*filter\n-A INPUT -j NOSUCH\nCOMMIT\n', '\0\u0001\u0002']) {
    writeFileSync(join(work, 'rules'), body);
    const answer = await curl('-X', 'PUT', '--data-binary', `@${join(work, 'rules')}`, 'http://shim/iptables');
    assert.equal(answer.status, 400, `${body}: ${answer.body}`);
    assert.match(answer.body, /the guest refuses the rules: .*\S/s);
  }
  assert.equal((await curl('http://shim/iptables')).body.replace(/^#.*$/gm, ''), before_);
});

test('a policy: 501, and the answer says that the agent has none', async () => {
  const answer = await curl('-X', 'PUT', '--data-binary', 'package agent_policy\ndefault CreateContainerRequest := false\n', 'http://shim/policy');
  assert.equal(answer.status, 501);
  assert.match(answer.body, /policy/i);
  assert.match(answer.body, /agent/i);
});

test('the console is off: the key to set is named', async () => {
  await refused(/debug_console_enabled = true in \[agent\.kata\]/, 'exec', ID);
});

test('files that cannot be read or written: which, why, and what to do', async () => {
  for (const args of [
    ['iptables', 'set', '--sandbox-id', ID, join(work, 'none')],
    ['iptables', 'set', '--sandbox-id', ID, work],
    ['iptables', 'set', '--sandbox-id', ID, '/dev/zero'],
    ['collect-data', '--output', '/proc/none/x.tar.gz'],
    ['--log', '/proc/none/log', 'ps'],
    ['--config', join(work, 'none.toml'), 'env'],
    ['--config', work, 'env'],
    ['--config', join(host.folder, 'configuration.toml'), 'explain', '--bundle', work],
  ]) {
    await refused(/none|kata-bad|\/dev\/zero/, ...args);
  }
});

test('a broken configuration keeps nobody from working who needs none', async () => {
  const config = join(work, 'broken.toml');
  writeFileSync(config, '[hypervisor.qemu\n');
  for (const args of [['ps'], ['metrics', ID], ['iptables', 'get', '--sandbox-id', ID], ['gc', '--dry-run'], ['direct-volume', 'remove', '--volume-path', '/never-added'], ['version'], ['completion', 'bash'], ['collect-data', '--output', join(work, 'report.tar.gz')]]) {
    const done = await cli('--config', config, ...args);
    assert.equal(done.code, 0, `${args.join(' ')}: ${done.stderr}`);
  }
});

test('the guest is killed while somebody is in its console: an error, and the terminal is as before', async (t) => {
  if (!Terminal.isThere()) {
    t.skip('tmux is not installed');
    return;
  }
  const id = 'console-killed';
  const config = host.config('console', configText('qemu', { 'agent.kata': { debug_console_enabled: 'true' } }));
  await host.runDetached(id, ['sleep', '100000'], { args: ['--runtime-config-path', config] });
  const terminal = new Terminal(join(work, 'tmux'), { columns: 150, rows: 27 });
  try {
    terminal.type(`stty -a >${work}/before; ${join(ROOT, 'build/kata-runtime')} exec ${id}; echo left=$?; stty -a >${work}/after; echo done=yes`, 'Enter');
    await terminal.until(/^\/ # /m);
    process.kill(host.vmPid(id), 'SIGKILL');
    const screen = await terminal.until(/^done=yes$/m);
    assert.match(screen, /connection broke before the shell ended[\s\S]*left=1/);
    assert.equal(readFileSync(join(work, 'after'), 'utf8'), readFileSync(join(work, 'before'), 'utf8'));
  } finally {
    terminal.close();
    await host.remove(id);
  }
});

test('the guest is gone: what needs it is 503, what does not is answered, and kata-runtime says so', async () => {
  process.kill(host.vmPid(ID), 'SIGKILL');
  await host.waitForStatus(ID, 'STOPPED');
  for (const args of [['http://shim/iptables'], ['http://shim/ip6tables'], ['-X', 'PUT', '--data-binary', 'x', 'http://shim/iptables'], ['-X', 'PUT', '--data-binary', 'x', 'http://shim/policy'], ['http://shim/direct-volume/stats?path=/dev/none'], ['-X', 'POST', '--data-binary', '{"VolumePath":"/dev/none","Size":1}', 'http://shim/direct-volume/resize']]) {
    const answer = await curl(...args);
    assert.equal(answer.status, 503, args.join(' '));
    assert.match(answer.body, /guest is gone/);
  }
  assert.equal((await curl('http://shim/metrics')).status, 200);
  assert.equal((await curl('http://shim/sandbox')).status, 200);
  const got = await cli('iptables', 'get', '--sandbox-id', ID);
  assert.equal(got.code, 1);
  assert.match(got.stderr, /answered 503: .*its guest is gone/);
});
