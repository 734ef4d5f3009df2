/** Items 1 to 11, 14 and 15 of the behaviour checklist: the launcher and the `start` verb. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { closeSync, constants, cpSync, existsSync, mkdirSync, openSync, readFileSync, readSync, rmSync, statSync, symlinkSync, truncateSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { after, afterEach, beforeEach, test } from 'node:test';
import { BootstrapParams } from '../../../gen/containerd/bootstrap/bootstrap';
import { Options as RuncOptions } from '../../../gen/containerd/runc/options';
import { Options } from '../../../gen/containerd/runtimeoptions/options';
import { Any } from '../../../gen/google/protobuf/any';
import { TaskClient } from '../../support/shim-driver';
import { Bundles, runVerb, SHIM } from './verb-harness';

let bundles: Bundles;

beforeEach(() => {
  bundles = new Bundles();
});

afterEach(() => {
  bundles.close();
});

after(() => {
  rmSync('/tmp/kata-ts-launcher', { recursive: true, force: true });
});

async function connectPid(address: string): Promise<number> {
  const client = await TaskClient.connect(address);
  try {
    return (await client.call('Connect', { id: 'any' }, 5_000)).shimPid;
  } finally {
    client.close();
  }
}

const ADDRESS = /^unix:\/\/\/run\/containerd\/s\/[0-9a-f]{64}$/;

test('-v prints the version without any environment', async () => {
  for (const flag of ['-v', '--version']) {
    const { code, stdout, stderr } = await runVerb([flag], { cwd: '/', env: {} });
    assert.deepEqual([code, stderr], [0, '']);
    assert.match(stdout.toString(), /Version: +\d+\.\d+\.\d+\n/);
  }
});

test('start replies with the address alone, and the server answers at that instant', async () => {
  const folder = bundles.bundle('one');
  const { code, merged } = await bundles.start('one');
  assert.equal(code, 0);
  assert.match(merged, ADDRESS);
  assert.equal(await connectPid(merged), bundles.pid('one'));
  assert.equal(readFileSync(join(folder, 'address'), 'utf8'), merged);
  assert.equal(statSync(merged.replace('unix://', '')).mode & 0o777, 0o600);
});

const ARGV: Readonly<Record<string, (b: Bundles, id: string) => string[]>> = {
  'containerd 1.6': (b, id) => ['-namespace', b.namespace, '-address', '/run/c.sock', '-publish-binary', '/usr/bin/containerd', '-id', id, '-debug', 'start'],
  'double dashes': (b, id) => ['--namespace', b.namespace, '--address', '/run/c.sock', '--publish-binary', 'x', '--id', id, 'start'],
  'equals signs': (b, id) => [`-namespace=${b.namespace}`, '--address=/run/c.sock', '-publish-binary=', `-id=${id}`, '--debug=true', 'start'],
  'cri-o with its empty address': (b, id) => ['-namespace', b.namespace, '-address', '', '-publish-binary', '/usr/bin/crio', '-id', id, 'start'],
  'flags that are not known': (b, id) => ['-namespace', b.namespace, '-future', '-id', id, '-future-value', 'x', '-other=1', 'start'],
};

for (const [name, args] of Object.entries(ARGV)) {
  test(`start takes the command line of ${name}`, async () => {
    const cwd = bundles.bundle('argv');
    const { code, merged } = await runVerb(args(bundles, 'argv'), { cwd, env: { TTRPC_ADDRESS: '' } });
    assert.equal(code, 0, merged);
    assert.match(merged, ADDRESS);
  });
}

test('start says nothing more with a hostile NODE_ environment', async () => {
  bundles.bundle('env');
  const env = { NODE_OPTIONS: '--no-such-flag', NODE_DEBUG: 'net,fs', NODE_EXTRA_CA_CERTS: '/no/such', NODE_PENDING_DEPRECATION: '1', NODE_V8_COVERAGE: bundles.folder, NODE_CHANNEL_FD: '77' };
  const { code, merged } = await bundles.start('env', { env });
  assert.equal(code, 0, merged);
  assert.match(merged, ADDRESS);
  const server = readFileSync(`/proc/${String(bundles.pid('env'))}/environ`, 'utf8');
  assert.doesNotMatch(server, /NODE_|SSL_CERT/);
});

const any = (typeUrl: string, value: Uint8Array): Uint8Array => Any.encode({ typeUrl, value }).finish();
const INPUTS: Readonly<Record<string, { readonly bytes: Uint8Array | 'open' }>> = {
  'a pipe that stays open and silent': { bytes: 'open' },
  'an empty pipe': { bytes: new Uint8Array(0) },
  'runtime options': { bytes: any('runtimeoptions.v1.Options', Options.encode(Options.fromPartial({ configPath: '/x' })).finish()) },
  'runc options': { bytes: any('containerd.runc.v1.Options', RuncOptions.encode(RuncOptions.fromPartial({ binaryName: 'x' })).finish()) },
  'an unknown type': { bytes: any('what.Ever', Buffer.from([255, 255])) },
  'an Any that also reads as BootstrapParams': { bytes: any('input', Buffer.from('another namespace')) },
  'garbage': { bytes: Buffer.from([255, 254, 253, 7, 7]) },
};

for (const [name, { bytes }] of Object.entries(INPUTS)) {
  test(`start with ${name} on stdin replies in the plain form`, async () => {
    bundles.bundle('input');
    const { code, merged } = await bundles.start('input', { stdin: bytes });
    assert.equal(code, 0, merged);
    assert.match(merged, ADDRESS);
  });
}

test('start with BootstrapParams replies with version 3, in the folder that they name', async () => {
  bundles.bundle('boot');
  const socketDir = join(bundles.folder, 's');
  const params = { instanceId: 'boot', namespace: bundles.namespace, socketDir, containerdTtrpcAddress: '/run/x.ttrpc', containerdVersion: '2.3.4' };
  const stdin = BootstrapParams.encode(BootstrapParams.fromPartial(params)).finish();
  for (const run of ['first', 'second']) {
    const { code, merged } = await bundles.start('boot', { stdin });
    assert.equal(code, 0, `${run}: ${merged}`);
    const reply = JSON.parse(merged) as { version: number; address: string; protocol: string };
    assert.deepEqual([reply.version, reply.protocol], [3, 'ttrpc']);
    assert.ok(reply.address.startsWith(`unix://${socketDir}/`));
    assert.equal(await connectPid(reply.address), bundles.pid('boot'));
  }
});

test('the operator can ask for version 3', async () => {
  bundles.bundle('three');
  const { merged } = await bundles.start('three', { env: { KATA_SHIM_TASK_API: '3' } });
  assert.equal((JSON.parse(merged) as { version: number }).version, 3);
});

test('the server survives its starter, in a session of its own, without its descriptors', async () => {
  bundles.bundle('alone');
  await bundles.start('alone');
  const pid = bundles.pid('alone');
  const fields = readFileSync(`/proc/${String(pid)}/stat`, 'utf8').split(') ')[1]?.split(' ') ?? [];
  assert.equal(Number(fields[3]), pid, 'session leader');
  for (const fd of [0, 1, 2]) {
    assert.equal(execFileSync('readlink', [`/proc/${String(pid)}/fd/${String(fd)}`], { encoding: 'utf8' }).trim(), '/dev/null');
  }
});

test('the longest ids and namespaces fit', async () => {
  const id = 'i'.repeat(76);
  const namespace = 'n'.repeat(76);
  const cwd = bundles.bundle(id);
  const { merged } = await runVerb(['-namespace', namespace, '-address', '/run/containerd/containerd.sock', '-id', id, 'start'], { cwd });
  assert.match(merged, ADDRESS);
  assert.ok(merged.replace('unix://', '').length <= 107);
  process.kill(bundles.pid(id), 'SIGKILL');
});

test('a second start of the same sandbox finds the first', async () => {
  bundles.bundle('same');
  const first = await bundles.start('same');
  const pid = bundles.pid('same');
  const second = await bundles.start('same');
  assert.equal(second.merged, first.merged);
  assert.deepEqual(await bundles.servers(), [pid]);
});

test('containers of a pod join the server of its sandbox', async () => {
  const of = (type: string): Record<string, string> => ({ 'io.kubernetes.cri.container-type': type, 'io.kubernetes.cri.sandbox-id': 'pod' });
  bundles.bundle('pod', of('sandbox'));
  const app = bundles.bundle('app', of('container'));
  const pod = await bundles.start('pod');
  const joined = await bundles.start('app');
  assert.equal(joined.merged, pod.merged);
  assert.equal(readFileSync(join(app, 'address'), 'utf8'), pod.merged);
  assert.equal((await bundles.servers()).length, 1);
});

test('a container whose sandbox is gone is refused with the reason', async () => {
  bundles.bundle('app', { 'io.kubernetes.cri.container-type': 'container', 'io.kubernetes.cri.sandbox-id': 'gone' });
  const { code, merged } = await bundles.start('app');
  assert.equal(code, 1);
  assert.match(merged, /no shim of sandbox "gone"/);
  assert.deepEqual(await bundles.servers(), []);
});

test('twenty starts at once give one server', async () => {
  bundles.bundle('crowd');
  const all = await Promise.all(Array.from({ length: 20 }, () => bundles.start('crowd')));
  assert.deepEqual([...new Set(all.map(({ merged }) => merged))].length, 1, all.map(({ merged }) => merged).join('\n'));
  assert.equal((await bundles.servers()).length, 1);
  assert.equal(await connectPid(all[0]?.merged ?? ''), (await bundles.servers())[0]);
});

test('twenty starts at once over a stale socket give one server', async () => {
  bundles.bundle('stale');
  const { merged } = await bundles.start('stale');
  process.kill(bundles.pid('stale'), 'SIGKILL');
  assert.ok(existsSync(merged.replace('unix://', '')));
  const all = await Promise.all(Array.from({ length: 20 }, () => bundles.start('stale')));
  assert.deepEqual([...new Set(all.map((one) => one.merged))], [merged]);
  assert.equal((await bundles.servers()).length, 1);
  assert.equal(await connectPid(merged), (await bundles.servers())[0]);
});

test('a live server of somebody else at the address is not replaced', async () => {
  bundles.bundle('other');
  const { merged } = await bundles.start('other');
  const path = merged.replace('unix://', '');
  process.kill(bundles.pid('other'), 'SIGKILL');
  rmSync(path);
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(path, resolve));
  assert.equal((await bundles.start('other')).merged, merged);
  assert.deepEqual(await bundles.servers(), []);
  await new Promise((resolve) => server.close(resolve));
});

const BROKEN: Readonly<Record<string, { readonly breakIt: (folder: string) => void; readonly text: RegExp }>> = {
  'no config.json': { breakIt: (folder) => rmSync(join(folder, 'config.json')), text: /config\.json/ },
  'a truncated config.json': { breakIt: (folder) => truncateSync(join(folder, 'config.json'), 30), text: /config\.json: not valid JSON/ },
  'an unknown container type': {
    breakIt: (folder) => writeFileSync(join(folder, 'config.json'), '{"annotations":{"io.kubernetes.cri.container-type":"zebra"}}'),
    text: /zebra/,
  },
  'a container without its sandbox id': {
    breakIt: (folder) => writeFileSync(join(folder, 'config.json'), '{"annotations":{"io.kubernetes.cri.container-type":"container"}}'),
    text: /sandbox ID/,
  },
};

for (const [name, { breakIt, text }] of Object.entries(BROKEN)) {
  test(`start with ${name} fails with one readable line and leaves nothing`, async () => {
    breakIt(bundles.bundle('broken'));
    const { code, merged } = await bundles.start('broken');
    assert.equal(code, 1);
    assert.match(merged, text);
    assert.equal(merged.trimEnd().split('\n').length, 1);
    assert.deepEqual(await bundles.servers(), []);
    assert.ok(!existsSync(join(bundles.folder, 'broken/address')));
  });
}

test('bad ids and a missing namespace are refused', async () => {
  const cwd = bundles.bundle('x1');
  for (const args of [['-namespace', 'n', '-id', '../x', 'start'], ['-namespace', 'n', 'start'], ['-id', 'x1', 'start'], ['-namespace', 'n', '-id', 'x1', 'dance'], []]) {
    const { code, merged } = await runVerb(args, { cwd });
    assert.equal(code, 1, args.join(' '));
    assert.match(merged, /^io\.containerd\.kata\.v2: /);
  }
});

test('the server is one step nearer to the OOM killer than its caller', async () => {
  bundles.bundle('oom');
  await bundles.start('oom');
  const own = Number(readFileSync('/proc/self/oom_score_adj', 'utf8'));
  assert.equal(Number(readFileSync(`/proc/${String(bundles.pid('oom'))}/oom_score_adj`, 'utf8')), Math.min(own + 1, 1000));
});

test('the log reaches its reader, and nothing waits for one', async () => {
  const folder = bundles.bundle('log');
  const fd = openSync(join(folder, 'log'), constants.O_RDONLY | constants.O_NONBLOCK);
  const { merged } = await bundles.start('log');
  await connectPid(merged);
  const buffer = Buffer.alloc(65_536);
  assert.match(buffer.toString('utf8', 0, readSync(fd, buffer)), /level=info msg=serving/);
  closeSync(fd);
  // Nobody reads any more: dumps beyond what the FIFO holds change nothing.
  for (let n = 0; n < 300; n++) {
    process.kill(bundles.pid('log'), 'SIGUSR1');
  }
  assert.equal(await connectPid(merged), bundles.pid('log'));
});

test('signals: hang-up is ignored, SIGUSR1 opens no debugger, SIGTERM ends it with its socket', async () => {
  bundles.bundle('signals');
  const { merged } = await bundles.start('signals');
  await connectPid(merged);
  const pid = bundles.pid('signals');
  process.kill(pid, 'SIGHUP');
  process.kill(pid, 'SIGUSR1');
  assert.equal(await connectPid(merged), pid);
  assert.equal(execFileSync('sh', ['-c', `ls -l /proc/${String(pid)}/net/tcp >/dev/null; grep -c ':240D ' /proc/net/tcp || true`], { encoding: 'utf8' }).trim(), '0');
  process.kill(pid, 'SIGTERM');
  const deadline = Date.now() + 5_000;
  while ((await bundles.servers(0)).length > 0 && Date.now() < deadline) {
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  assert.deepEqual(await bundles.servers(), []);
  assert.ok(!existsSync(merged.replace('unix://', '')));
});

test('code that was compiled from another bundle of the same size is never run', async () => {
  const copy = join(bundles.folder, 'build');
  cpSync(join(SHIM, '..'), copy, { recursive: true, filter: (path) => !/guest|test|busybox/.test(path.slice(join(SHIM, '..').length)) });
  const serve = join(copy, 'shim-serve.cjs');
  const source = readFileSync(serve, 'utf8');
  const changed = source.replaceAll('"containerd.task.v2.Task"', '"containerd.task.v9.Task"');
  assert.ok(changed !== source && existsSync(`${serve}.cache`));
  writeFileSync(serve, changed);
  bundles.bundle('changed');
  const { merged } = await bundles.start('changed', { shim: join(copy, 'containerd-shim-kata-v2') });
  await assert.rejects(connectPid(merged), /unknown service/);
});

test('a shim whose host died before Create ends by itself and removes its socket; one with a caller stays', { timeout: 120_000 }, async () => {
  bundles.bundle('left');
  bundles.bundle('held');
  const [left, held] = [await bundles.start('left'), await bundles.start('held')];
  await connectPid(left.merged);
  const client = await TaskClient.connect(held.merged);
  const pid = bundles.pid('left');
  for (const deadline = Date.now() + 60_000; existsSync(`/proc/${String(pid)}`); ) {
    assert.ok(Date.now() < deadline, 'it is still there after 60 s');
    await new Promise((resolve) => setTimeout(resolve, 200));
  }
  assert.ok(!existsSync(left.merged.replace('unix://', '')));
  assert.equal((await client.call('Connect', { id: 'held' })).shimPid, bundles.pid('held'));
  client.close();
});

test('the launcher works through a symbolic link, from ../lib/kata-ts, and says what is missing', async () => {
  const root = '/tmp/kata-ts-launcher';
  rmSync(root, { recursive: true, force: true });
  mkdirSync(join(root, 'bin'), { recursive: true });
  symlinkSync(SHIM, join(root, 'bin/containerd-shim-kata-qemu-v2'));
  assert.equal((await runVerb(['-v'], { cwd: '/', shim: join(root, 'bin/containerd-shim-kata-qemu-v2') })).code, 0);
  execFileSync('cp', [SHIM, join(root, 'bin/containerd-shim-kata-v2')]);
  const copy = join(root, 'bin/containerd-shim-kata-v2');
  const missing = await runVerb(['-v'], { cwd: '/', shim: copy });
  assert.equal(missing.code, 1);
  assert.match(missing.merged, /shim\.cjs is neither in/);
  mkdirSync(join(root, 'lib'));
  symlinkSync(join(SHIM, '..'), join(root, 'lib/kata-ts'));
  assert.equal((await runVerb(['-v'], { cwd: '/', shim: copy })).code, 0);
  const noNode = await runVerb(['-v'], { cwd: '/', shim: copy, env: { PATH: '/nowhere' } });
  assert.equal(noNode.code, 1);
  assert.match(noNode.merged, /node is not in PATH/);
  assert.equal((await runVerb(['-v'], { cwd: '/', shim: copy, env: { PATH: '/nowhere', KATA_NODE: process.execPath } })).code, 0);
});

test('where the root is shared the server has mounts of its own, and sees later ones of the host', async () => {
  const folder = bundles.bundle('mounts');
  const later = join(folder, 'later');
  mkdirSync(later);
  const inner = `cd ${folder} && mount -t tmpfs before ${folder}/rootfs && ${SHIM} ${bundles.args('mounts', 'start').join(' ')} </dev/null >reply && mount -t tmpfs after ${later} && readlink /proc/self/ns/mnt /proc/$(cat shim.pid)/ns/mnt && grep -c ${later} /proc/$(cat shim.pid)/mountinfo`;
  const out = execFileSync('unshare', ['--mount', '--propagation', 'shared', 'sh', '-c', inner], { encoding: 'utf8' }).trim().split('\n');
  assert.match(readFileSync(join(folder, 'reply'), 'utf8'), ADDRESS);
  assert.notEqual(out[0], out[1], 'another mount namespace');
  assert.equal(out[2], '1', 'the later mount is seen');
});
