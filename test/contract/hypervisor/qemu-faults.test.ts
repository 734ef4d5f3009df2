/** What QEMU alone can do wrong, and what only QEMU can: failure texts, guest panic, template, hot-plug. */
import assert from 'node:assert/strict';
import { existsSync, mkdirSync, readFileSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { driverFor } from '../../../virtcontainers/hypervisor/registry';
import type { VmState } from '../../../virtcontainers/hypervisor/types';
import { Bench, dial } from './hypervisor.contract';

const guest = join(__dirname, '../../../build/guest');
const QEMU = '/usr/bin/qemu-system-x86_64';
const skip = !existsSync(QEMU) ? `${QEMU} is missing` : !existsSync(join(guest, 'initrd.img')) ? 'build/guest is missing: run make guest' : process.getuid?.() === 0 ? false : 'needs root';

describe('qemu', { skip }, () => {
  let bench: Bench;
  before(async () => {
    const config = {
      path: QEMU, kernel: join(guest, 'vmlinux'), initrd: join(guest, 'initrd.img'), image: '', sharedFs: 'none', defaultMaxmemory: 2048, defaultMaxvcpus: 2,
      agentChannel: 'serial', blockDeviceDriver: 'virtio-blk',
    } as const;
    bench = new Bench({ type: 'qemu', config, skip: undefined, timeoutMs: 60_000 }, await driverFor('qemu'));
  });
  after(() => { bench.close(); });

  const gone = (spec: { readonly directory: string }): void => { assert.equal(existsSync(spec.directory), false); };

  it('names a kernel that is not there, with the key', async () => {
    const spec = bench.spec({}, { kernel: '/nonexistent/vmlinux' });
    await assert.rejects(bench.start(bench.driver.createVm(spec)), { code: 'NotFound', message: /kernel \/nonexistent\/vmlinux: no such file/, hint: /kernel in \[hypervisor\.qemu\]/ });
    gone(spec);
  });

  it('tells what QEMU said when it ends at once', async () => {
    const spec = bench.spec({}, { machineAccelerators: 'nonsense=on' });
    await assert.rejects(bench.start(bench.driver.createVm(spec)), { code: 'FailedPrecondition', message: /ended with exit code 1; .*nonsense/ });
    gone(spec);
  });

  it('refuses a program that is not QEMU', async () => {
    const spec = bench.spec({}, { path: '/bin/true' });
    await assert.rejects(bench.start(bench.driver.createVm(spec)), /\/bin\/true is not QEMU/);
    gone(spec);
  });

  it('gives up on a kernel that does not boot, with time and key', async () => {
    const kernel = join(bench.folder, 'zeros');
    writeFileSync(kernel, readFileSync(join(guest, 'vmlinux')).subarray(0, 65536));
    truncateSync(kernel, statSync(join(guest, 'vmlinux')).size);
    const spec = bench.spec({}, { kernel });
    await assert.rejects(bench.start(bench.driver.createVm(spec), 1500), (error: Error) => /not up within 1\.\d s \(boot_timeout in \[hypervisor\.qemu\]\)|ended with/.test(error.message));
    gone(spec);
  });

  it('shows the panic of a guest that finds no init', async () => {
    const spec = bench.spec({ kernelParams: ['rdinit=/nonexistent', 'init=/nonexistent', 'root=/dev/none'] });
    const vm = bench.driver.createVm(spec);
    await assert.rejects(bench.start(vm, 60_000), { message: /guest-reset.*Kernel panic/ });
    assert.equal((await vm.exited).code, 0);
    gone(spec);
  });

  it('saves a template, and clones it with the memory shared', async () => {
    const folder = join(bench.folder, 'template');
    mkdirSync(folder);
    const paths = { memoryPath: join(folder, 'memory'), statePath: join(folder, 'state') };
    const share = { kind: 'virtio-9p', tag: 'kataShared', source: join(bench.folder, 'share') } as const;
    const nic = { kind: 'net', id: 'net0', mac: '02:00:00:00:00:01', tapFds: [] } as const;
    const template = bench.driver.createVm(bench.spec({ share, devices: [nic], template: { use: 'become', ...paths } }));
    const state = await bench.start(template);
    await template.snapshot?.save(10_000);
    await template.stop();
    bench.assertGone(state);
    assert.equal(statSync(paths.memoryPath).mode & 0o777, 0o600);
    assert.ok(statSync(paths.statePath).size > 100_000);

    const clone = bench.driver.createVm(bench.spec({ share, devices: [nic], template: { use: 'clone', ...paths } }));
    const began = performance.now();
    const cloneState = await bench.start(clone);
    await clone.pause?.resume();
    await clone.check();
    await dial(clone.agentUrl);
    console.log(`# clone up in ${(performance.now() - began).toFixed(0)} ms, state ${String(statSync(paths.statePath).size)} bytes`);
    await clone.stop();
    bench.assertGone(cloneState);
  });

  it('says why a clone does not load', async () => {
    const folder = join(bench.folder, 'template');
    const paths = { memoryPath: join(folder, 'memory'), statePath: join(folder, 'state') };
    const spec = bench.spec({ template: { use: 'clone', ...paths } });
    await assert.rejects(bench.start(bench.driver.createVm(spec)), { message: /ended with exit code 1|load VM template/ });
    gone(spec);
  });

  it('shares a folder by virtio-fs, and adds CPU, memory and a disk while the guest runs', async () => {
    const share = { kind: 'virtio-fs', tag: 'kataShared', source: join(bench.folder, 'share') } as const;
    const vm = bench.driver.createVm(bench.spec({ share }));
    const state: VmState = await bench.start(vm);
    assert.deepEqual(state.processes.map(({ name }) => name), ['qemu', 'virtiofsd']);
    assert.equal(await vm.resize?.setVcpus(9), 2);
    assert.equal((await vm.threads()).vcpus.length, 2);
    assert.equal(await vm.resize?.setMemory(700, 128), 512 + 256);
    assert.equal(await vm.resize?.setMemory(600, 128), 512 + 256);
    assert.equal(await vm.resize?.setMemory(99_999, 128), 2048);
    const disk = join(bench.folder, 'disk');
    writeFileSync(disk, '');
    truncateSync(disk, 1024 * 1024);
    assert.deepEqual(await vm.hotplug?.addBlock({ kind: 'block', id: 'disk0', path: disk, readOnly: true }), { kind: 'pci', path: '02/01' });
    await vm.hotplug?.removeBlock('disk0');
    assert.deepEqual(await vm.hotplug?.addBlock({ kind: 'block', id: 'disk0', path: disk, readOnly: false }), { kind: 'pci', path: '02/01' });
    await vm.stop();
    bench.assertGone(state);
  });

  it('ends the VM when virtiofsd dies', async () => {
    const share = { kind: 'virtio-fs', tag: 'kataShared', source: join(bench.folder, 'share') } as const;
    const vm = bench.driver.createVm(bench.spec({ share }));
    const state = await bench.start(vm);
    process.kill(state.processes[1]?.pid ?? 0, 'SIGKILL');
    await vm.exited;
    assert.match(vm.facts().hints.join(), /virtiofsd ended with signal SIGKILL/);
    await vm.stop();
    bench.assertGone(state);
  });
});
