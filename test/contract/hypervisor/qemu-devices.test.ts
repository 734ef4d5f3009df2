/** Network, console and machines on real QEMU. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { closeSync, constants, existsSync, openSync, readlinkSync, statSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { errnoName, inNetns, ioctl } from '../../../base/syscalls';
import { driverFor } from '../../../virtcontainers/hypervisor/registry';
import { Bench } from './hypervisor.contract';

const guest = join(__dirname, '../../../build/guest');
const QEMU = '/usr/bin/qemu-system-x86_64';
const skip = !existsSync(QEMU) ? `${QEMU} is missing` : !existsSync(join(guest, 'initrd.img')) ? 'build/guest is missing: run make guest' : process.getuid?.() === 0 ? false : 'needs root';

/** A tap of this name in the current network namespace: IFF_TAP | IFF_NO_PI | IFF_VNET_HDR. */
function openTap(name: string): number {
  const fd = openSync('/dev/net/tun', constants.O_RDWR | constants.O_NONBLOCK);
  const request = Buffer.alloc(40);
  request.write(name, 0);
  request.writeUInt16LE(0x0002 | 0x1000 | 0x4000, 16);
  const result = ioctl(fd, 0x400454ca, request);
  assert.equal(result, 0, result < 0 ? errnoName(result) : '');
  return fd;
}

describe('qemu devices', { skip }, () => {
  let bench: Bench;
  before(async () => {
    const config = {
      path: QEMU, kernel: join(guest, 'vmlinux'), initrd: join(guest, 'initrd.img'), image: '', sharedFs: 'none', defaultMaxmemory: 2048, defaultMaxvcpus: 2,
      agentChannel: 'serial', blockDeviceDriver: 'virtio-scsi',
    } as const;
    bench = new Bench({ type: 'qemu', config, skip: undefined, timeoutMs: 60_000 }, await driverFor('qemu'));
  });
  after(() => { bench.close(); });

  it('runs in the given network namespace, takes a NIC at boot and one more while it runs', async () => {
    const netns = inNetns('new', () => openSync('/proc/thread-self/ns/net', 'r'));
    const home = readlinkSync('/proc/self/ns/net');
    const [cold, hot] = inNetns(netns, () => [openTap('tap0'), openTap('tap1')] as const);
    const vm = bench.driver.createVm(bench.spec({ netns: { kind: 'fd', fd: netns }, devices: [{ kind: 'net', id: 'net0', mac: '02:00:00:00:00:01', tapFds: [cold] }] }));
    const state = await bench.start(vm);
    assert.equal(readlinkSync('/proc/self/ns/net'), home);
    assert.notEqual(readlinkSync(`/proc/${String(vm.pid)}/ns/net`), home);
    assert.match(execFileSync('nsenter', ['-t', String(vm.pid), '-n', 'ip', 'link'], { encoding: 'utf8' }), /tap0/);
    const path = await vm.hotplug?.addNet({ kind: 'net', id: 'net1', mac: '02:00:00:00:00:02', tapFds: [hot] });
    assert.equal(path, '02/01');
    await vm.hotplug?.removeNet('net1');
    await vm.stop();
    bench.assertGone(state);
    [netns, cold, hot].forEach((fd) => { closeSync(fd); });
  });

  it('bounds the console of a guest that floods it, and does not stop it', async () => {
    const vm = bench.driver.createVm(bench.spec({ debug: true, kernelParams: ['initcall_debug', 'ignore_loglevel'] }));
    const state = await bench.start(vm);
    const facts = vm.facts();
    assert.ok(facts.consoleTail.length > 1000 && facts.consoleTail.length <= 16 * 1024);
    assert.ok(facts.consolePath !== undefined && statSync(facts.consolePath).size <= 1024 * 1024);
    await vm.stop();
    bench.assertGone(state);
  });

  it('dumps the memory of a guest that panicked, says where, and ends', async () => {
    const crash = join(bench.folder, 'crash');
    const vm = bench.driver.createVm(bench.spec({ debug: true }, { guestMemoryDumpPath: crash, extraMonitorSocket: 'hmp' }));
    const state = await bench.start(vm);
    // What a guest's pvpanic driver does: it writes 1 to port 0x505.
    const monitor = connect(join(state.directory, 'extra-monitor.sock'), () => monitor.write('o /b 0x505 1\n'));
    monitor.on('error', () => undefined);
    await vm.exited;
    monitor.destroy();
    const hint = vm.facts().hints.find((text) => text.startsWith('its memory is in ')) ?? '';
    const path = hint.slice('its memory is in '.length);
    assert.ok(path.startsWith(join(crash, vm.id, 'vmcore-')), vm.facts().hints.join());
    assert.ok(statSync(path).size >= 512 * 1024 * 1024);
    assert.equal(execFileSync('head', ['-c', '4', path], { encoding: 'latin1' }), '\x7fELF');
    await vm.stop();
    bench.assertGone(state);
  });

  it('gives up at the time that it was given', async () => {
    const spec = bench.spec();
    await assert.rejects(bench.start(bench.driver.createVm(spec), 400), { code: 'DeadlineExceeded', message: /not up within 0\.\d s \(boot_timeout in \[hypervisor\.qemu\]\), accelerator tcg/ });
    assert.equal(existsSync(spec.directory), false);
  });

  it('runs microvm', async () => {
    const vm = bench.driver.createVm(bench.spec({}, { machineType: 'microvm', blockDeviceDriver: 'virtio-mmio' }));
    assert.equal(vm.hotplug, undefined);
    assert.equal(vm.resize, undefined);
    const state = await bench.start(vm);
    await vm.stop();
    bench.assertGone(state);
  });
});
