/** A host or an agent that does not do its part: one clear error within its deadline, and nothing is left. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { chmodSync, copyFileSync, existsSync, mkdirSync, mkdtempSync, rmdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { ROOT } from '../../hack/private-containerd';
import { configText, Host, type ConfigOverrides } from '../support/host';
import { leftOf } from '../support/leaks';
import { endAll } from '../support/suite';

const LAUNCHER = join(ROOT, 'build/containerd-shim-kata-v2');
let scratch: string;
let host: Host;

before(async () => {
  scratch = mkdtempSync(join(tmpdir(), 'kata-ts-bad-host-'));
  host = await Host.start('mock');
});

after(async () => {
  await endAll(() => host.stop(), () => rmSync(scratch, { recursive: true, force: true }));
});

function script(name: string, text: string): string {
  const path = join(scratch, name);
  mkdirSync(join(path, '..'), { recursive: true });
  writeFileSync(path, text);
  chmodSync(path, 0o755);
  return path;
}

/** The error of a run that must fail within `limitMs` and leave nothing. */
async function failure(on: Host, name: string, limitMs: number, args: readonly string[] = []): Promise<string> {
  const id = `${name}${String(process.pid)}`;
  const began = Date.now();
  const done = await on.run(id, ['true'], { args });
  assert.notEqual(done.code, 0, 'the run must fail');
  assert.ok(Date.now() - began < limitMs, `took ${String(Date.now() - began)} ms: ${done.stderr}`);
  await on.ctr(['containers', 'rm', id]);
  assert.deepEqual(await leftOf([id]), []);
  return done.stderr;
}

async function withConfig(name: string, hypervisor: 'qemu' | 'mock', overrides: ConfigOverrides, limitMs = 15_000): Promise<string> {
  return failure(host, name, limitMs, ['--runtime-config-path', host.config(name, configText(hypervisor, overrides))]);
}

/** A shim that runs `prepare` in a mount namespace of its own first. */
async function withShim(name: string, prepare: string, work: (other: Host) => Promise<void>): Promise<void> {
  script(`${name}/containerd-shim-kata-v2`, `#!/bin/sh\nexec unshare --mount sh -c '${prepare}; exec "$0" "$@"' ${LAUNCHER} "$@"\n`);
  const other = await Host.start('mock', {}, { shimFolder: join(scratch, name) });
  try {
    await work(other);
  } finally {
    await other.stop();
  }
}

test('a full disk where the state is saved: the file and the remedy are named', async () => {
  const prepare = 'mkdir -p /run/vc/sbs; mount -t tmpfs -o size=64k none /run/vc/sbs; dd if=/dev/zero of=/run/vc/sbs/filler bs=4k 2>/dev/null';
  await withShim('full', prepare, async (other) => {
    const text = await failure(other, 'full', 15_000);
    assert.match(text, /\/run\/vc\/sbs\/full\d+\/persist\.json/);
    assert.match(text, /no space left|ENOSPC/i);
    assert.match(text, /check free space/);
  });
});

test('a state folder that cannot be written to: the folder and the remedy are named', async () => {
  const prepare = 'mkdir -p /run/vc/sbs; mount -t tmpfs -o ro none /run/vc/sbs';
  await withShim('readonly', prepare, async (other) => {
    const text = await failure(other, 'rostate', 15_000);
    assert.match(text, /\/run\/vc\/sbs\/rostate/);
    assert.match(text, /read-only|EROFS/i);
    assert.match(text, /permissions/);
  });
});

test('a hypervisor that may not be executed is named with its key', async () => {
  const path = join(scratch, 'not-executable');
  writeFileSync(path, '');
  const text = await withConfig('noexec', 'qemu', { hypervisor: { path: `"${path}"` } });
  assert.match(text, /not-executable/);
  assert.match(text, /permission denied|EACCES|not executable/i);
});

test('a device that the host does not let us open is named, with the reason', async (t) => {
  const group = `/sys/fs/cgroup/devices/kata-ts-test-${String(process.pid)}`;
  if (!existsSync('/sys/fs/cgroup/devices')) {
    t.skip('needs the devices controller of cgroup v1: nothing else forbids root a device');
    return;
  }
  mkdirSync(group);
  try {
    writeFileSync(join(group, 'devices.deny'), 'b 7:* rwm');
    const node = join(scratch, 'disk');
    execFileSync('mknod', [node, 'b', '7', '0']);
    await withShim('denied', `echo $$ > ${group}/cgroup.procs`, async (other) => {
      const config = other.config('denied', configText('qemu', { hypervisor: { initrd: '""', image: `"${node}"` } }));
      const text = await failure(other, 'denied', 30_000, ['--runtime-config-path', config]);
      assert.match(text, new RegExp(node));
      assert.match(text, /EPERM: operation not permitted/);
      assert.match(text, /set image in \[hypervisor\.qemu\]/);
    });
  } finally {
    rmdirSync(group);
  }
});

/** A program in the agent's place. `answer` has `socket`, a connection of the shim. */
function fakeAgent(name: string, answer: string): ConfigOverrides {
  const program = `#!${process.execPath}
const path = process.argv[process.argv.indexOf('--listen') + 1].replace('unix://', '');
require('node:net').createServer((socket) => { socket.on('error', () => {}).resume(); ${answer} }).listen(path);\n`;
  return { hypervisor: { path: `"${script(name, program)}"` }, 'agent.kata': { dial_timeout: '3' } };
}

test('an agent that never answers, or speaks another protocol: the request and the time waited are named', async () => {
  const texts = await Promise.all([
    withConfig('mute', 'mock', fakeAgent('mute', '')),
    withConfig('banner', 'mock', fakeAgent('banner', "socket.write('SSH-2.0-OpenSSH_9.2\\r\\n');")),
  ]);
  for (const text of texts) {
    assert.match(text, /agent/);
    assert.match(text, /no answer within 3000 ms \(dial_timeout\)/);
  }
});

test('an agent whose answer is garbage is named as the cause', async () => {
  const answer = "socket.once('data', () => socket.write(Buffer.from([0, 0, 0, 5, 0, 0, 0, 1, 2, 0, 255, 255, 255, 255, 255])));";
  assert.match(await withConfig('garbage', 'mock', fakeAgent('garbage', answer)), /agent/);
});

test('an agent that announces 3 GB is refused before anything is stored', async () => {
  const header = "socket.once('data', () => socket.write(Buffer.from([0xc0, 0, 0, 0, 0, 0, 0, 1, 2, 0])));";
  const text = await withConfig('huge', 'mock', fakeAgent('huge', header));
  assert.match(text, /agent/);
  assert.match(text, /length|large|limit|3221225472/i);
});

/**
 * In the place of the guest's agent: echoes the preamble of the serial channel and then answers the first request with
 * `answer`, a list of bytes. Comes behind the embedded initrd, where the kernel unpacks it over the real one.
 */
function guestWithAgent(name: string, answer: readonly number[]): string {
  const folder = join(scratch, `guest-${name}`);
  const program = `const { closeSync, openSync, readFileSync, readSync, readdirSync, writeSync } = require('node:fs');
const holder = { exports: {} };
process.dlopen(holder, '/usr/lib/kata-ts/sys.node');
for (const [type, path] of [['proc', '/proc'], ['sysfs', '/sys'], ['devtmpfs', '/dev']]) holder.exports.sys(165, type, path, type, 0, null);
for (const path of JSON.parse(readFileSync('/etc/kata-modules.json', 'utf8')).boot) {
  const fd = openSync(path, 'r');
  holder.exports.sys(313, fd, '', 0);
  closeSync(fd);
}
const folder = '/sys/class/virtio-ports';
let port;
while ((port = readdirSync(folder).find((one) => { try { return readFileSync(folder + '/' + one + '/name', 'utf8').trim() === 'agent.channel.0'; } catch { return false; } })) === undefined) {}
const fd = openSync('/dev/' + port, 'r+');
let held = Buffer.alloc(0);
let isOpen = false;
const buffer = Buffer.alloc(4096);
for (;;) {
  const count = readSync(fd, buffer);
  held = Buffer.concat([held, buffer.subarray(0, count)]);
  while (!isOpen && held.length >= 36) {
    writeSync(fd, echo(held.subarray(16, 32)));
    held = held.subarray(36);
    isOpen = held.length < 36;
  }
  if (isOpen && held.length > 0 && ${String(answer.length > 0)}) {
    writeSync(fd, Buffer.from(${JSON.stringify(answer)}));
    setInterval(() => undefined, 1 << 30);
    break;
  }
}
function echo(nonce) {
  const out = Buffer.alloc(36);
  Buffer.from('kata-ts/serial/g').forEach((byte, i) => { out[i] = (byte * 73 + i * 41 + 0x5b) & 0xff; });
  nonce.copy(out, 16);
  let hash = 0x811c9dc5;
  for (const byte of out.subarray(0, 32)) hash = Math.imul(hash ^ byte, 0x01000193) >>> 0;
  out.writeUInt32BE(hash, 32);
  return out;
}
`;
  mkdirSync(join(folder, 'usr/lib/kata-ts'), { recursive: true });
  writeFileSync(join(folder, 'usr/lib/kata-ts/agent.cjs'), program);
  const initrd = join(scratch, `${name}.img`);
  copyFileSync(join(ROOT, 'build/guest/initrd.img'), initrd);
  execFileSync('sh', ['-c', `truncate -s %512 ${initrd} && cd ${folder} && find . -type f | cpio -o -H newc --quiet >> ${initrd}`]);
  return initrd;
}

test('in a virtual machine: an agent that never answers, answers garbage, or announces 3 GB, is named with what was waited for', async () => {
  const agents: Readonly<Record<string, readonly number[]>> = {
    vmmute: [],
    vmgarbage: [0, 0, 0, 5, 0, 0, 0, 1, 2, 0, 255, 255, 255, 255, 255],
    vmhuge: [0xc0, 0, 0, 0, 0, 0, 0, 1, 2, 0],
  };
  const texts: string[] = [];
  for (const [name, answer] of Object.entries(agents)) {
    const hypervisor = { initrd: `"${guestWithAgent(name, answer)}"`, default_memory: '512', boot_timeout: '120' };
    texts.push(await withConfig(name, 'qemu', { hypervisor, 'agent.kata': { dial_timeout: '10' } }, 160_000));
  }
  const [mute, garbage, huge] = texts;
  assert.match(mute ?? '', /agent call Check of sandbox "vmmute\d+": no answer within 10000 ms \(dial_timeout\)/);
  assert.match(garbage ?? '', /agent call Check of sandbox "vmgarbage\d+": .*unmarshal response error/);
  assert.match(huge ?? '', /agent call Check of sandbox "vmhuge\d+": .*3221225472/);
});

test('an agent that hangs up at once is named as the cause', async () => {
  const text = await withConfig('hangup', 'mock', fakeAgent('hangup', "socket.once('data', () => socket.destroy());"));
  assert.match(text, /agent/);
});
