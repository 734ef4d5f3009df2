/** Direct-assigned volumes of a pod, by kata-runtime as a user calls it: ext4 and xfs on loop devices, and an image file. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { ROOT, runCommand, type CommandResult } from '../../hack/private-containerd';
import { DIRECT_VOLUMES_ROOT, volumeFolder } from '../../virtcontainers/volume/direct-volume';
import { Host } from '../support/host';
import { leakedSince, takeInventory, type Inventory } from '../support/leaks';
import { endAll } from '../support/suite';

const POD = 'volumepod';
const MIB = 1024 * 1024;

/** A file system on a disk of the host, known to kata-runtime under `path`. */
interface Volume {
  readonly image: string;
  readonly device: string;
  readonly path: string;
}

let host: Host;
let clean: Inventory;
let work: string;
const undo: (() => void)[] = [];

const cli = (...args: string[]): Promise<CommandResult> => runCommand(join(ROOT, 'build/kata-runtime'), args);

async function succeed(...args: string[]): Promise<string> {
  const done = await cli(...args);
  assert.equal(done.code, 0, done.stderr);
  return done.stdout;
}

async function makeVolume(name: string, fstype: 'ext4' | 'xfs', sizeMiB: number, kind: 'loop' | 'file' = 'loop'): Promise<Volume> {
  const [image, path] = [join(work, `${name}.img`), join(work, name)];
  mkdirSync(path);
  writeFileSync(image, '');
  truncateSync(image, sizeMiB * MIB);
  execFileSync(`mkfs.${fstype}`, ['-q', image]);
  let device = image;
  if (kind === 'loop') {
    device = execFileSync('losetup', ['-f', '--show', image], { encoding: 'utf8' }).trim();
    undo.push(() => execFileSync('losetup', ['-d', device]));
  }
  await succeed('direct-volume', 'add', '--volume-path', path, '--mount-info', JSON.stringify({ 'volume-type': 'block', device, fstype, metadata: { fsGroup: '3000' } }));
  return { image, device, path };
}

async function totalBytes(volume: Volume): Promise<number> {
  const { usage } = JSON.parse(await succeed('direct-volume', 'stats', '--volume-path', volume.path)) as { usage: { total: number; unit: number }[] };
  return usage.find(({ unit }) => unit === 1)?.total ?? 0;
}

function growDevice(volume: Volume, sizeMiB: number): void {
  truncateSync(volume.image, sizeMiB * MIB);
  execFileSync('losetup', ['-c', volume.device]);
}

const cri = (type: string): string[] => ['--annotation', `io.kubernetes.cri.container-type=${type}`, '--annotation', `io.kubernetes.cri.sandbox-id=${POD}`];
const mounted = (...volumes: Volume[]): string[] => volumes.flatMap(({ path }, index) => ['--mount', `type=bind,src=${path},dst=/volume${String(index)},options=rbind:rw`]);
const resize = (volume: Volume, sizeMiB: number): Promise<CommandResult> => cli('direct-volume', 'resize', '--volume-path', volume.path, '--size', String(sizeMiB * MIB));

/** Disks that the guest has. */
async function guestDisks(): Promise<string[]> {
  const listed = await host.exec(POD, ['sh', '-c', 'ls /sys/block']);
  return listed.stdout.split(/\s+/).filter((name) => /^(?:sd|vd)/.test(name));
}

before(async () => {
  clean = takeInventory();
  work = mkdtempSync(join(tmpdir(), 'kata-volumes-'));
  host = await Host.start('qemu');
  await host.runDetached(POD, ['sleep', '100000'], { args: cri('sandbox') });
});

after(async () => {
  await endAll(() => host.stop(), ...undo.reverse(), () => rmSync(work, { recursive: true, force: true }));
  assert.deepEqual(await leakedSince(clean), []);
});

for (const [fstype, before_, after_] of [['ext4', 64, 128], ['xfs', 320, 512]] as const) {
  test(`${fstype}: added, used by two containers of the pod, grown while it is written to, removed`, async () => {
    const volume = await makeVolume(fstype, fstype, before_);
    const [first, second] = [`${fstype}-first`, `${fstype}-second`];
    const disks = await guestDisks();
    await host.runDetached(first, ['sh', '-c', 'while :; do echo line >>/volume0/log; sleep 0.1; done'], { args: [...cri('container'), ...mounted(volume)] });
    await host.runDetached(second, ['sleep', '100000'], { args: [...cri('container'), ...mounted(volume)] });
    assert.equal((await guestDisks()).length, disks.length + 1, 'plugged in once');

    const seen = await host.exec(second, ['sh', '-c', 'grep " /volume0 " /proc/mounts; stat -c %g /volume0; test -s /volume0/log && echo shared']);
    assert.match(seen.stdout, new RegExp(`^/dev/\\S+ /volume0 ${fstype} [^\\n]*\\n3000\\nshared\\n$`));
    assert.ok((await totalBytes(volume)) < before_ * MIB);

    growDevice(volume, after_);
    const done = await resize(volume, after_);
    assert.equal(done.code, 0, done.stderr);
    const grown = await totalBytes(volume);
    assert.ok(grown > 0.8 * after_ * MIB, `${String(grown)} bytes after growth`);
    const inside = await host.exec(first, ['sh', '-c', 'df -k /volume0 | tail -1 | awk \'{print $2}\'']);
    assert.ok(Number(inside.stdout) * 1024 > 0.8 * after_ * MIB, inside.stdout);
    const lines = async (): Promise<number> => Number((await host.exec(second, ['sh', '-c', 'wc -l </volume0/log'])).stdout);
    const now = await lines();
    await new Promise((resolve) => setTimeout(resolve, 500));
    assert.ok((await lines()) > now, 'still written to');
    assert.equal((await resize(volume, after_)).code, 0, 'again changes nothing');

    await host.remove(first);
    assert.equal((await host.exec(second, ['sh', '-c', 'echo more >>/volume0/log && tail -1 /volume0/log'])).stdout, 'more\n');
    assert.equal((await guestDisks()).length, disks.length + 1);
    await host.remove(second);
    assert.deepEqual(await guestDisks(), disks);
    await succeed('direct-volume', 'remove', '--volume-path', volume.path);
    assert.ok(!existsSync(volumeFolder(DIRECT_VOLUMES_ROOT, volume.path)));
    assert.ok((await cli('direct-volume', 'stats', '--volume-path', volume.path)).stderr.includes('it was not added'));
    execFileSync(fstype === 'xfs' ? 'xfs_repair' : 'e2fsck', fstype === 'xfs' ? ['-n', volume.device] : ['-fn', volume.device], { stdio: 'ignore' });
  });
}

test('an image file as device grows too, and is never cut off', async () => {
  const volume = await makeVolume('file', 'ext4', 64, 'file');
  await host.runDetached('file-user', ['sleep', '100000'], { args: [...cri('container'), ...mounted(volume)] });
  const smaller = await resize(volume, 32);
  assert.equal(smaller.code, 1);
  assert.match(smaller.stderr, /cannot be made smaller/);
  const done = await resize(volume, 96);
  assert.equal(done.code, 0, done.stderr);
  assert.ok((await totalBytes(volume)) > 80 * MIB);
  await host.remove('file-user');
  await succeed('direct-volume', 'remove', '--volume-path', volume.path);
});

test('a device that was not grown first, a volume that nobody uses: one sentence with the remedy', async () => {
  const volume = await makeVolume('small', 'ext4', 64);
  const unused = await cli('direct-volume', 'stats', '--volume-path', volume.path);
  assert.equal(unused.code, 1);
  assert.match(unused.stderr, /no sandbox found for .*start the pod that mounts the volume first/);
  await host.runDetached('small-user', ['sleep', '100000'], { args: [...cri('container'), ...mounted(volume)] });
  const early = await resize(volume, 128);
  assert.equal(early.code, 1);
  assert.match(early.stderr, /has 67108864 bytes on the host, 134217728 are wanted \(grow the device first/);
  await host.remove('small-user');
  await succeed('direct-volume', 'remove', '--volume-path', volume.path);
  assert.deepEqual(readdirSync(DIRECT_VOLUMES_ROOT).filter((name) => Buffer.from(name, 'base64url').toString().startsWith(work)), []);
});
