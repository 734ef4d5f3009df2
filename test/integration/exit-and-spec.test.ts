import assert from 'node:assert/strict';
import { test } from 'node:test';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { release } from 'node:os';
import type { Host } from '../support/host';
import { hostForSuite } from '../support/suite';

let host: Host;

hostForSuite((started) => {
  host = started;
});

test('a container runs in a virtual machine: another kernel, its output complete', async () => {
  const done = await host.run('kernel', ['uname', '-r']);
  assert.equal(done.code, 0, done.stderr);
  assert.match(done.stdout, /^\d+\.\d+\.\S+\n$/);
  assert.notEqual(done.stdout.trim(), release());
});

test('exit codes 0, 1, 126, 127, 137 and 255 arrive as they are', async () => {
  for (const code of [0, 1, 127, 255]) {
    const done = await host.run(`code${String(code)}`, ['sh', '-c', `echo out${String(code)}; exit ${String(code)}`]);
    assert.deepEqual([done.code, done.stdout], [code, `out${String(code)}\n`], done.stderr);
  }
  const shell = await host.run('shell', ['sh', '-c', '/etc/passwd; echo $?; no-such-program; echo $?; sh -c "kill -9 \\$\\$"; echo $?; exit 126']);
  assert.deepEqual([shell.code, shell.stdout], [126, '126\n127\n137\n']);
  const killed = host.run('killed', ['sleep', '1000']);
  await host.waitForStatus('killed', 'RUNNING', 90_000);
  await host.ctr(['tasks', 'kill', '-s', 'KILL', 'killed']);
  assert.equal((await killed).code, 137);
});

test('an entry point that is not there fails with the words that Docker turns into 127', async () => {
  const done = await host.run('missing', ['/no/such/program']);
  assert.notEqual(done.code, 0);
  assert.match(done.stderr, /executable file not found|no such file or directory/);
  assert.equal(await host.status('missing'), undefined);
});

test('an entry point that is not executable fails with the words that Docker turns into 126', async () => {
  const done = await host.run('noexec', ['/etc/passwd']);
  assert.notEqual(done.code, 0);
  assert.match(done.stderr, /permission denied/i);
});

test('the process has the environment, directory, user, groups, limits, capabilities and host name of its spec', async () => {
  const script = 'echo "$FOO|$(pwd)|$(id -u):$(id -g):$(id -G)|$(hostname)|$(ulimit -n)|$(grep CapEff /proc/self/status)|$(grep NoNewPrivs /proc/self/status)"';
  const done = await host.run('spec', ['sh', '-c', script], { args: ['--env', 'FOO=a b', '--cwd', '/tmp'] });
  assert.equal(done.code, 0, done.stderr);
  const [foo, cwd, ids, hostname, files, capabilities, privileges] = done.stdout.trim().split('|');
  assert.equal(foo, 'a b');
  assert.equal(cwd, '/tmp');
  assert.equal(ids, '0:0:0 10');
  assert.ok((hostname ?? '').length > 0);
  assert.equal(files, '1024');
  assert.match(capabilities ?? '', /00000000a80425fb/);
  assert.match(privileges ?? '', /1$/);
});

test('umask, supplementary groups, rlimits, capabilities, sysctls and masked paths of a written spec hold', async () => {
  const script = 'id -u; id -G; umask; ulimit -n; hostname; cat /proc/sys/net/core/somaxconn; wc -c < /proc/version; ls /sys/firmware | wc -l; sed -n "s/^CapBnd:.//p" /proc/self/status';
  const done = await host.runWithSpec('specfile', ['sh', '-c', script], (spec) => {
    spec.hostname = 'my-guest';
    spec.process = { ...spec.process, user: { uid: 1000, gid: 1000, umask: 0o27, additionalGids: [2000] }, rlimits: [{ type: 'RLIMIT_NOFILE', soft: 77, hard: 78 }], capabilities: { bounding: ['CAP_KILL'] } };
    spec.linux = { ...spec.linux, sysctl: { 'net.core.somaxconn': '1234' }, maskedPaths: [...(spec.linux?.maskedPaths ?? []), '/proc/version'] };
  });
  assert.equal(done.stdout, '1000\n1000 2000\n0027\n77\nmy-guest\n1234\n0\n0\n0000000000000020\n', done.stderr);
});

test('a read-only root refuses writes and a bind mount shows the host file', async () => {
  writeFileSync(join(host.folder, 'shared.txt'), 'from the host\n');
  const args = ['--read-only', '--mount', `type=bind,src=${host.folder},dst=/host,options=rbind:ro`];
  const done = await host.run('readonly', ['sh', '-c', 'touch /x 2>&1; cat /host/shared.txt; touch /host/y 2>&1'], { args });
  assert.match(done.stdout, /touch: \/x: Read-only file system\nfrom the host\ntouch: \/host\/y: Read-only file system\n/, done.stderr);
});

test('what the container writes to a shared folder is on the host', async () => {
  const args = ['--mount', `type=bind,src=${host.folder},dst=/host,options=rbind:rw`];
  const done = await host.run('writes', ['sh', '-c', 'echo written > /host/out.txt; cat /host/out.txt'], { args });
  assert.deepEqual([done.code, done.stdout], [0, 'written\n'], done.stderr);
});
