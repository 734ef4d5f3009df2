import assert from 'node:assert/strict';
import { copyFileSync, mkdirSync, mkdtempSync, rmSync, symlinkSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { TtrpcError } from 'ttrpc-ts';
import { processOf, specOf, type AgentClient } from './mock-agent';
import { missingGuest, RealGuest } from './real-guest';

const skip = missingGuest() ?? false;
const LIMIT = { timeout: 120_000 };
const MAC = '52:54:00:12:34:56';

describe('guest agent as PID 1 of the embedded guest, in QEMU without KVM', { skip, timeout: 400_000 }, () => {
  let share: string;
  let guest: RealGuest;
  let client: AgentClient;

  before(async () => {
    share = mkdtempSync(join(tmpdir(), 'kata-share-'));
    mkdirSync(join(share, 'rootfs', 'bin'), { recursive: true });
    ['proc', 'dev', 'sys', 'tmp'].forEach((name) => mkdirSync(join(share, 'rootfs', name)));
    copyFileSync('/usr/bin/busybox', join(share, 'rootfs', 'bin', 'busybox'));
    ['sh', 'cat', 'sleep', 'echo', 'dd', 'tty', 'id'].forEach((name) => symlinkSync('busybox', join(share, 'rootfs', 'bin', name)));
    const startedMs = performance.now();
    guest = await RealGuest.start(share);
    client = await guest.connect();
    assert.equal(await client.check(), 1);
    console.log(`  QEMU to the first answer: ${(performance.now() - startedMs).toFixed(0)} ms`);
  }, { timeout: 180_000 });

  after(async () => {
    await guest.stop();
    rmSync(share, { recursive: true, force: true });
  });

  const output = async (execId: string): Promise<string> => (await client.readAll('readStdout', 'box', execId)).toString();
  const exec = async (execId: string, script: string, terminal = false): Promise<void> => {
    await client.call('execProcess', { containerId: 'box', execId, process: processOf(['sh', '-c', script], terminal) });
  };

  it('takes time and randomness from the host', LIMIT, async () => {
    const now = BigInt(Math.floor(Date.now() / 1000));
    await client.call('setGuestDateTime', { sec: now, usec: 0n });
    await client.call('reseedRandomDev', { data: Buffer.alloc(512, 7) });
    assert.ok(((await client.call('getGuestDetails', { memBlockSize: true })).memBlockSizeBytes) >= 128n * 1024n * 1024n);
  });

  it('sets the network up', LIMIT, async () => {
    const address = { family: 0 as const, address: '10.1.2.3', mask: '24' };
    const wanted = { device: 'eth0', name: 'net7', ipAddresses: [address], mtu: 1400n, hwAddr: MAC, devicePath: '', type: '', rawFlags: 0 };
    await client.call('updateInterface', { interface: wanted });
    const loopback = (await client.call('listInterfaces')).interfaces.find(({ name }) => name === 'lo');
    assert.equal(loopback?.ipAddresses[0]?.address, '127.0.0.1');
    const found = (await client.call('listInterfaces')).interfaces.find(({ hwAddr }) => hwAddr === MAC);
    assert.equal(found?.name, 'net7');
    assert.equal(found.mtu, 1400n);
    assert.ok(found.ipAddresses.some((each) => each.address === '10.1.2.3' && each.mask === '24'));
    const route = { dest: '', gateway: '10.1.2.1', device: 'net7', source: '', scope: 0, family: 0 as const, flags: 0, mtu: 0 };
    for (let round = 0; round < 2; round++) {
      const { routes } = await client.call('updateRoutes', { routes: { routes: [route] } });
      assert.equal(routes.filter(({ gateway }) => gateway === '10.1.2.1').length, 1);
    }
    await client.call('addARPNeighbors', { neighbors: { arpNeighbors: [{ toIpAddress: { family: 0, address: '10.1.2.1', mask: '' }, device: 'net7', lladdr: '52:54:00:00:00:01', state: 128, flags: 0 }] } });
    await client.call('setIPTables', { isIpv6: false, data: Buffer.from('*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -p tcp --dport 81 -j DROP\nCOMMIT\n') });
    assert.match(Buffer.from((await client.call('getIPTables', { isIpv6: false })).data).toString(), /--dport 81 -j DROP/);
  });

  it('mounts the share and runs a container on cgroup v2', LIMIT, async () => {
    await client.call('createSandbox', {
      hostname: 'pod', sandboxId: 'pod1', dns: ['nameserver 1.1.1.1'],
      storages: [
        { driver: '9p', driverOptions: [], source: 'kataShared', fstype: '9p', options: ['trans=virtio,version=9p2000.L,cache=mmap', 'nodev', 'msize=524288'], mountPoint: '/run/kata-containers/shared/containers/', fsGroup: undefined, shared: false },
        { driver: 'ephemeral', driverOptions: [], source: 'shm', fstype: 'tmpfs', options: ['noexec', 'nosuid', 'nodev', 'mode=1777', 'size=67108864'], mountPoint: '/run/kata-containers/sandbox/shm', fsGroup: undefined, shared: false },
      ],
    });
    await client.call('createContainer', { containerId: 'box', execId: 'box', oci: specOf('box', ['sh', '-c', 'echo hello; sleep 1000']) });
    await client.call('startContainer', { containerId: 'box' });
    const { data } = await client.call('readStdout', { containerId: 'box', execId: 'box', len: 100 });
    assert.equal(Buffer.from(data).toString(), 'hello\n');
    const { cgroupStats } = await client.call('statsContainer', { containerId: 'box' });
    assert.equal(cgroupStats?.memoryStats?.usage?.limit, 268435456n);
    assert.ok((cgroupStats.cpuStats?.cpuUsage?.totalUsage ?? 0n) > 0n);
  });

  it('runs further processes, with and without a terminal', LIMIT, async () => {
    await exec('plain', 'echo plain; exit 3');
    assert.equal(await output('plain'), 'plain\n');
    assert.equal((await client.call('waitProcess', { containerId: 'box', execId: 'plain' })).status, 3);
    await exec('term', 'tty; exit 4', true);
    assert.match(await output('term'), /\/dev\/pts\/\d+/);
    assert.equal((await client.call('waitProcess', { containerId: 'box', execId: 'term' })).status, 4);
    const startedMs = performance.now();
    await exec('bulk', 'dd if=/dev/zero bs=1024k count=20 2>/dev/null');
    assert.equal((await client.readAll('readStdout', 'box', 'bulk')).length, 20 * 1024 * 1024);
    console.log(`  20 MB of stdout, exec included: ${(20_000 / (performance.now() - startedMs)).toFixed(1)} MB/s`);
  });

  it('mounts a block device by its PCI path, and grows it', LIMIT, async () => {
    const mountPoint = '/run/kata-containers/sandbox/storage/disk';
    const storages = [{ driver: 'blk', driverOptions: [], source: '10', fstype: 'ext4', options: ['rw'], mountPoint, fsGroup: { groupId: 2000, groupChangePolicy: 0 as const }, shared: false }];
    const oci = specOf('disk', ['sh', '-c', 'echo written > /vol/file; cat /vol/file']);
    oci.mounts.push({ destination: '/vol', source: mountPoint, type: 'bind', options: ['rbind', 'rw'] });
    await client.call('createContainer', { containerId: 'disk', execId: 'disk', storages, oci });
    await client.call('startContainer', { containerId: 'disk' });
    assert.equal((await client.readAll('readStdout', 'disk')).toString(), 'written\n');
    const before = (await client.call('getVolumeStats', { volumeGuestPath: mountPoint })).usage[0]?.total ?? 0n;
    await client.call('resizeVolume', { volumeGuestPath: mountPoint, size: 0n });
    const grown = (await client.call('getVolumeStats', { volumeGuestPath: mountPoint })).usage[0]?.total ?? 0n;
    assert.ok(before > 0n && grown > before, `${String(before)} to ${String(grown)}`);
    await client.call('removeContainer', { containerId: 'disk' });
    assert.doesNotMatch((await client.call('getDiagnosticData', { logType: 'mounts' })).data, /storage\/disk/);
  });

  it('pauses, resumes, brings CPUs on line', LIMIT, async () => {
    await client.call('pauseContainer', { containerId: 'box' });
    await client.call('resumeContainer', { containerId: 'box' });
    await client.call('onlineCPUMem', { wait: false, nbCpus: 0, cpuOnly: false });
  });

  it('tells of a process killed for want of memory', LIMIT, async () => {
    const told = client.call('getOOMEvent');
    await exec('hungry', 'x=aaaaaaaaaaaaaaaa; while :; do x="$x$x"; done');
    assert.equal((await told).containerId, 'box');
  });

  it('takes a connection again and again, without a gap and out of the middle of a frame', LIMIT, async () => {
    for (let round = 0; round < 5; round++) {
      const parked = client.call('getOOMEvent');
      parked.catch(() => undefined);
      client.socket.write(Buffer.from([0, 0, 0x10, 0, 0, 0, 0, 9, 1, 0, 1, 2]));
      client.close();
      await assert.rejects(parked, TtrpcError);
      client = await guest.connect();
      assert.equal(await client.check(), 1);
    }
    assert.match((await client.call('getDiagnosticData', { logType: 'containers' })).data, /box pid=\d+ exit=none/);
  });

  it('gives a shell on the console port', LIMIT, async () => {
    for (let round = 0; round < 2; round++) {
      const shell = connect(join(guest.folder, 'console.sock'));
      let text = '';
      shell.setEncoding('utf8').on('data', (chunk) => (text += String(chunk)));
      while (!/pid-\d+-end/.test(text)) {
        shell.write('echo pid-$((4000+4))-end\n');
        await sleep(500);
      }
      assert.match(text, /pid-4004-end/);
      shell.destroy();
      await sleep(300);
    }
  });

  it('kills and removes, and ends its sandbox', LIMIT, async () => {
    await client.call('signalProcess', { containerId: 'box', signal: 9 });
    assert.equal((await client.call('waitProcess', { containerId: 'box', execId: 'box' })).status, 137);
    await client.call('removeContainer', { containerId: 'box' });
    await client.call('destroySandbox');
    const { data } = await client.call('getDiagnosticData', { logType: 'mounts' });
    assert.doesNotMatch(data, /kata-containers\/shared/);
  });
});
