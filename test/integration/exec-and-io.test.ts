import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import type { Host} from '../support/host';
import { IMAGE, RUNTIME } from '../support/host';
import { hostForSuite } from '../support/suite';

let host: Host;

hostForSuite(async (started) => {
  host = started;
  await host.runDetached('base', ['sleep', '100000']);
});

test('exec runs in the container: output, error output and exit code', async () => {
  const done = await host.exec('base', ['sh', '-c', 'echo out; echo err >&2; exit 42']);
  assert.deepEqual(done, { code: 42, stdout: 'out\n', stderr: 'err\n' });
});

test('an exec argument of 20 kB passes', async () => {
  const text = 'x'.repeat(20_000);
  const done = await host.exec('base', ['echo', text]);
  assert.deepEqual([done.code, done.stdout], [0, `${text}\n`], done.stderr);
});

test('16 execs at once each give their own answer', async () => {
  const all = await Promise.all(Array.from({ length: 16 }, (_, n) => host.exec('base', ['sh', '-c', `echo answer ${String(n)}; exit ${String(n)}`])));
  assert.deepEqual(all.map((done) => [done.code, done.stdout]), Array.from({ length: 16 }, (_, n) => [n, `answer ${String(n)}\n`]));
});

test('an exec of a missing binary fails and says so', async () => {
  const done = await host.exec('base', ['/no/such/binary']);
  assert.notEqual(done.code, 0);
  assert.match(done.stderr, /executable file not found|no such file or directory/);
});

test('an exec that is killed ends with 137 and the container lives on', async () => {
  const running = host.ctr(['tasks', 'exec', '--exec-id', 'victim', 'base', 'sleep', '1000']);
  for (let tries = 0; tries < 100; tries++) {
    await new Promise((resolve) => setTimeout(resolve, 100));
    const killed = await host.ctr(['tasks', 'kill', '-s', 'KILL', '--exec-id', 'victim', 'base']);
    if (killed.code === 0) {
      break;
    }
  }
  assert.equal((await running).code, 137);
  assert.equal(await host.status('base'), 'RUNNING');
});

test('stdin reaches the process and its end too', async () => {
  const done = await host.exec('base', ['sh', '-c', 'cat; echo end'], { input: 'line one\nline two\n' });
  assert.deepEqual([done.code, done.stdout], [0, 'line one\nline two\nend\n'], done.stderr);
});

test('stdin piped into a container run: cat ends at its end', async () => {
  const done = await host.run('cat', ['cat'], { input: 'through the machine\n' });
  assert.deepEqual([done.code, done.stdout], [0, 'through the machine\n'], done.stderr);
});

test('a large stdin arrives whole', async () => {
  const data = Buffer.alloc(3_000_000, 'abcdefghijklmnopqrstuvwxyz\n');
  const done = await host.exec('base', ['md5sum'], { input: data });
  assert.equal(done.stdout.split(' ')[0], createHash('md5').update(data).digest('hex'), done.stderr);
});

test('exit codes of execs arrive as they are', async () => {
  for (const code of [0, 1, 126, 127, 137, 255]) {
    assert.deepEqual(await host.exec('base', ['sh', '-c', `echo out; exit ${String(code)}`]), { code, stdout: 'out\n', stderr: '' });
  }
});

test('100 MB through stdout arrive from a virtual machine without loss', async () => {
  const blob = join(host.folder, 'blob');
  execFileSync('dd', ['if=/dev/urandom', `of=${blob}`, 'bs=1M', 'count=100', 'status=none']);
  const wanted = createHash('md5').update(readFileSync(blob)).digest('hex');
  const mount = ['--mount', `type=bind,src=${host.folder},dst=/host,options=rbind:ro`];
  const done = await host.runHashed('blob', ['cat', '/host/blob'], mount);
  assert.deepEqual(done, { code: 0, bytes: 100 * 1024 * 1024, md5: wanted });
});

test('20 MB of output arrive without loss', async () => {
  const done = await host.exec('base', ['sh', '-c', 'i=0; while [ $i -lt 20 ]; do head -c 1048576 /dev/zero | tr "\\0" "k"; i=$((i+1)); done'], { timeoutMs: 300_000 });
  assert.equal(done.code, 0, done.stderr);
  assert.equal(done.stdout.length, 20 * 1024 * 1024);
  assert.equal(/^k+$/.test(done.stdout), true);
});

test('a grandchild that keeps stdout open does not hold the exit back', async () => {
  const started = Date.now();
  const done = await host.exec('base', ['sh', '-c', 'sleep 300 & echo done'], { timeoutMs: 60_000 });
  assert.deepEqual([done.code, done.stdout], [0, 'done\n']);
  assert.ok(Date.now() - started < 60_000);
});

test('a terminal: input is echoed, output has CR LF, the size is the asked one', async () => {
  const { runCommand } = await import('../../hack/private-containerd');
  const inner = `${host.containerd.ctrPath} -a ${host.containerd.address} run --rm -t --runtime ${RUNTIME} ${IMAGE} tty sh`;
  const script = await runCommand('script', ['-qec', `stty rows 33 cols 101; ${inner}`, '/dev/null'], { input: 'stty size\nexit 7\n', timeoutMs: 120_000 });
  assert.equal(script.code, 7, script.stdout + script.stderr);
  assert.match(script.stdout, /33 101\r+\n/);
});
