/**
 * Every key that the schema calls honoured for QEMU has its effect: on the command line (here), on what is said to a
 * running QEMU (here), or elsewhere (the test is named, and must name the key).
 */
import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { Logger } from '../../../base/log';
import { HYPERVISOR_KEYS } from '../../config/hypervisor-keys';
import { parseConfig } from '../../config/load';
import type { VmSpec } from '../types';
import { commandLine } from './command-line';
import { QemuHotplug } from './hotplug';
import { InheritedFds, type QemuPlan } from './plan';
import type { QmpClient } from './qmp/client';
import { QemuResize } from './resize';

const HOST = { cpus: 8, memoryMiB: 24105, arch: 'x64' };
const SHARE = { kind: 'virtio-fs', tag: 'kataShared', source: '/share' } as const;
const DISK = { kind: 'block', id: 'disk0', path: '/dev/x', readOnly: false } as const;

function specOf(lines: string, changes: Partial<VmSpec> = {}): VmSpec {
  const root = /^(image|initrd)/m.test(lines) ? '' : 'initrd = "/i"\n';
  const { hypervisor } = parseConfig(`[hypervisor.qemu]\n${root}${lines}`, '/c.toml', { host: HOST });
  return {
    id: 'k1', directory: '/run/vc/vm/k1', config: hypervisor, vcpus: 1, memoryMiB: 256, kernelParams: [], share: SHARE, devices: [DISK], netns: { kind: 'own' }, template: undefined,
    debug: hypervisor.enableDebug, logger: Logger.none(), ...changes,
  };
}

function planOf(lines: string, changes: Partial<QemuPlan> = {}): QemuPlan {
  return { spec: specOf(lines), accelerator: 'kvm', tscKhz: 0, disableModern: false, uuid: 'U', channel: { kind: 'vsock', cid: 3, fd: 21 }, imageBytes: 4096, token: 'token', ...changes };
}

const argv = (lines: string): string => commandLine(planOf(lines), 20, new InheritedFds()).join(' ');

const VERITY = `root_hash=${'ab'.repeat(32)},salt=cd,data_blocks=100,data_block_size=4096,hash_block_size=1024`;
/** Key -> lines of the file, and what they put on the command line; without the key it is not there. */
const ARGV: Readonly<Record<string, readonly [lines: string, words: string]>> = {
  kernel: ['kernel = "/boot/k"', '-kernel /boot/k '],
  image: ['image = "/img"', 'mem-path=/img,size=4096,readonly=on'],
  initrd: ['initrd = "/j"', '-initrd /j '],
  firmware: ['firmware = "/fw"', '-bios /fw '],
  pflashes: ['pflashes = ["/a", "/b"]', '-pflash /a -pflash /b '],
  rootfs_type: ['image = "/img"\nrootfs_type = "xfs"', 'rootflags=dax ro rootfstype=xfs'],
  machine_type: ['machine_type = "microvm"', '-machine microvm,accel=kvm '],
  machine_accelerators: ['machine_accelerators = "hpet=off, smm=off"', '-machine q35,accel=kvm,hpet=off,smm=off '],
  cpu_features: ['cpu_features = "pmu=off,-avx"', '-cpu host,pmu=off,-avx '],
  kernel_params: ['kernel_params = "quiet foo=1"', ' nr_cpus=8 quiet foo=1 '],
  seccompsandbox: ['seccompsandbox = "on,spawn=deny"', '-sandbox on,spawn=deny '],
  default_maxvcpus: ['default_maxvcpus = 4', '-smp 1,cores=1,threads=1,sockets=4,maxcpus=4'],
  memory_slots: ['memory_slots = 3', '-m 256M,slots=3,'],
  default_maxmemory: ['default_maxmemory = 4096', 'maxmem=5120M '],
  memory_offset: ['default_maxmemory = 4096\nmemory_offset = 64', 'maxmem=5184M '],
  default_bridges: ['default_bridges = 2', 'id=pci-bridge-1,chassis_nr=2,shpc=off,addr=3,'],
  enable_mem_prealloc: ['enable_mem_prealloc = true', 'memory-backend-memfd,id=dimm1,size=256M,share=on,prealloc=on '],
  enable_hugepages: ['enable_hugepages = true', 'memory-backend-file,id=dimm1,size=256M,mem-path=/dev/hugepages,share=on,prealloc=on '],
  file_mem_backend: ['file_mem_backend = "/mem"', 'memory-backend-file,id=dimm1,size=256M,mem-path=/mem,share=on '],
  reclaim_guest_freed_memory: ['reclaim_guest_freed_memory = true', 'virtio-balloon-pci,id=balloon0,deflate-on-oom=on,free-page-reporting=on '],
  virtio_fs_cache_size: ['virtio_fs_cache_size = 64', 'vhost-user-fs-pci,chardev=char-token,tag=kataShared,cache-size=64M '],
  virtio_fs_queue_size: ['virtio_fs_queue_size = 512', 'tag=kataShared,queue-size=512 '],
  block_device_driver: ['block_device_driver = "virtio-scsi"', '-device virtio-scsi-pci,id=scsi0,'],
  block_device_aio: ['block_device_aio = "threads"', 'file=/dev/x,aio=threads,'],
  block_device_cache_set: ['block_device_cache_set = true', 'cache.direct=off,cache.no-flush=off '],
  block_device_cache_direct: ['block_device_cache_set = true\nblock_device_cache_direct = true', 'cache.direct=on,'],
  block_device_cache_noflush: ['block_device_cache_set = true\nblock_device_cache_noflush = true', 'cache.no-flush=on '],
  block_device_logical_sector_size: ['block_device_logical_sector_size = 4096', ',logical_block_size=4096 '],
  block_device_physical_sector_size: ['block_device_physical_sector_size = 4096', ',physical_block_size=4096 '],
  enable_iothreads: ['enable_iothreads = true', 'virtio-scsi-pci,id=scsi0,disable-modern=false,iothread=iothread-token '],
  indep_iothreads: ['indep_iothreads = 2', '-object iothread,id=indep_iothread_0 -object iothread,id=indep_iothread_1 '],
  guest_extension_images: [
    'guest_extension_images = [{ name = "gpu", path = "/e" }]',
    'virtio-blk-pci,disable-modern=false,drive=extension-gpu,config-wce=off,share-rw=on,serial=extension-gpu -drive id=extension-gpu,file=/e,aio=threads,format=raw,if=none,readonly=on ',
  ],
  kernel_verity_params: [
    `image = "/img"\nkernel_verity_params = "${VERITY}"`,
    `dm-mod.create="dm-verity,,,ro,0 800 verity 1 /dev/pmem0p1 /dev/pmem0p2 4096 1024 100 0 sha256 ${'ab'.repeat(32)} cd" root=/dev/dm-0 rootflags=data=ordered,errors=remount-ro ro rootfstype=ext4 `,
  ],
  enable_debug: ['enable_debug = true', '-name sandbox-k1,debug-threads=on '],
  disable_image_nvdimm: ['image = "/img"\ndisable_image_nvdimm = true', 'virtio-blk-pci,disable-modern=false,drive=image-token,'],
  entropy_source: ['entropy_source = "/dev/hwrng"', 'rng-random,id=rng0,filename=/dev/hwrng '],
  use_legacy_serial: ['image = "/img"\nuse_legacy_serial = true', '-serial chardev:charconsole0 '],
  extra_monitor_socket: ['enable_debug = true\nextra_monitor_socket = "hmp"', '-monitor unix:/run/vc/vm/k1/extra-monitor.sock,server=on,wait=off '],
  enable_iommu: ['enable_iommu = true', '-device intel-iommu,intremap=on,device-iotlb=on,caching-mode=on '],
  guest_memory_dump_path: ['guest_memory_dump_path = "/crash"', '-device pvpanic -action panic=pause '],
  pcie_root_port: ['pcie_root_port = 2', '-device pcie-root-port,id=rp1,bus=pcie.0,chassis=0,slot=1,multifunction=off '],
};
/** What a key needs beside it is there without it, too. */
const BESIDE: Readonly<Record<string, string>> = {
  rootfs_type: 'image = "/img"', memory_offset: 'default_maxmemory = 4096', block_device_cache_direct: 'block_device_cache_set = true',
  block_device_cache_noflush: 'block_device_cache_set = true', disable_image_nvdimm: 'image = "/img"', use_legacy_serial: 'image = "/img"',
  extra_monitor_socket: 'enable_debug = true', kernel_verity_params: 'image = "/img"', block_device_driver: 'block_device_driver = "virtio-blk"',
};
/** Key -> the test that shows its effect, by the key or its field. */
const ELSEWHERE: Readonly<Record<string, string>> = {
  path: 'virtcontainers/config/load.test.ts',
  valid_hypervisor_paths: 'virtcontainers/config/annotation-table.test.ts',
  valid_file_mem_backends: 'virtcontainers/config/annotation-table.test.ts',
  valid_virtio_fs_daemon_paths: 'virtcontainers/config/annotation-table.test.ts',
  valid_vhost_user_store_paths: 'virtcontainers/config/annotation-table.test.ts',
  valid_entropy_sources: 'virtcontainers/config/annotation-table.test.ts',
  enable_annotations: 'virtcontainers/config/annotation-table.test.ts',
  default_vcpus: 'virtcontainers/sandbox/config-keys.test.ts',
  default_memory: 'virtcontainers/sandbox/config-keys.test.ts',
  enable_virtio_mem: 'virtcontainers/hypervisor/qemu/config-keys.test.ts',
  disable_block_device_use: 'virtcontainers/sandbox/config-keys.test.ts',
  shared_fs: 'virtcontainers/sandbox/config-keys.test.ts',
  virtio_fs_daemon: 'virtcontainers/config/load.test.ts',
  virtio_fs_cache: 'virtcontainers/hypervisor/qemu/virtiofsd.test.ts',
  virtio_fs_extra_args: 'virtcontainers/hypervisor/qemu/virtiofsd.test.ts',
  msize_9p: 'virtcontainers/sandbox/config-keys.test.ts',
  disable_nesting_checks: 'virtcontainers/hypervisor/qemu/config-keys.test.ts',
  guest_memory_dump_paging: 'virtcontainers/hypervisor/qemu/memory-dump.test.ts',
  disable_selinux: 'virtcontainers/sandbox/config-keys.test.ts',
  guest_hook_path: 'virtcontainers/sandbox/config-keys.test.ts',
  accelerator: 'virtcontainers/hypervisor/qemu/accelerator.test.ts',
  agent_channel: 'virtcontainers/hypervisor/qemu/config-keys.test.ts',
  boot_timeout: 'test/contract/hypervisor/qemu-devices.test.ts',
};
const honoured = HYPERVISOR_KEYS.filter((spec) => spec.status === 'yes' && (spec.readBy === 'all' || spec.readBy.includes('Q'))).map((spec) => spec.key);

test('every key that QEMU honours is in one of the tables', () => {
  assert.deepEqual(honoured.filter((key) => !(key in ARGV) && !(key in ELSEWHERE)), []);
  for (const [key, file] of Object.entries(ELSEWHERE)) {
    const text = readFileSync(join(__dirname, '../../..', file), 'utf8');
    const field = key.replace(/_([a-z0-9])/g, (_, letter: string) => letter.toUpperCase());
    const count = (word: string): number => text.split(new RegExp(`\\b${word}\\b`)).length - 1;
    // In this file the table itself names it once.
    assert.ok(count(key) + count(field) > (file.endsWith('qemu/config-keys.test.ts') ? 1 : 0), `${file} does not name ${key}`);
  }
});

test('each key puts its words on the command line, and only it does', () => {
  for (const [key, [lines, words]] of Object.entries(ARGV)) {
    assert.ok(honoured.includes(key), `${key} is not called honoured`);
    const [withKey, without] = [argv(lines), argv(BESIDE[key] ?? '')];
    assert.ok(`${withKey} `.includes(words), `${key}: ${words}\nis not in\n${withKey}`);
    assert.ok(!`${without} `.includes(words), `${key}: ${words} is there without it`);
  }
});

test('the guest is told of extension images and of the virtual IOMMU', () => {
  assert.match(argv('guest_extension_images = [{ name = "a", path = "/e" }, { name = "b", path = "/f", verity_params = "root_hash=X" }]'.replace('root_hash=X', VERITY)), new RegExp(` kata.extension.a.verity_params kata.extension.b.verity_params=${VERITY} `));
  assert.match(argv('enable_iommu = true'), /-machine q35,accel=kvm,kernel_irqchip=split .* intel_iommu=on iommu=pt /);
  assert.match(argv(`image = "/img"\ndisable_image_nvdimm = true\nrootfs_type = "erofs"\nkernel_verity_params = "${VERITY}"`), / verity 1 \/dev\/vda1 \/dev\/vda2 .*" root=\/dev\/dm-0 ro rootfstype=erofs /);
});

test('agent_channel decides between vsock and virtio-serial; "vsock" without it is an error', async () => {
  const { openChannel } = await import('./vsock');
  assert.deepEqual(openChannel('serial'), { kind: 'serial' });
});

/** Records what is said to QEMU. */
function fakeQmp(answers: Readonly<Record<string, unknown>> = {}): { readonly said: [string, Record<string, unknown>][]; readonly qmp: () => QmpClient } {
  const said: [string, Record<string, unknown>][] = [];
  const client = {
    execute: (name: string, args: Record<string, unknown> = {}) => {
      said.push([name, args]);
      return Promise.resolve(answers[name] ?? {});
    },
  };
  return { said, qmp: () => client as unknown as QmpClient };
}

test('hot-plugged disks have cache, aio, sector sizes and I/O threads of the keys', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'kata-ts-'));
  try {
    const path = join(folder, 'disk');
    writeFileSync(path, '');
    const plugged = async (lines: string, count = 1): Promise<Record<string, unknown>[]> => {
      const { said, qmp } = fakeQmp();
      const hotplug = new QemuHotplug(specOf(lines), qmp, () => Promise.resolve());
      for (let index = 0; index < count; index++) {
        await hotplug.addBlock({ kind: 'block', id: `d${String(index)}`, path, readOnly: false });
      }
      return said.map(([name, args]) => ({ name, ...args }));
    };
    const [node, device] = await plugged('block_device_aio = "native"\nblock_device_cache_set = true\nblock_device_cache_direct = true\nblock_device_logical_sector_size = 512\nblock_device_physical_sector_size = 4096');
    assert.deepEqual([node?.['cache'], node?.['file']], [{ direct: true, 'no-flush': false }, { driver: 'file', filename: path, aio: 'native' }]);
    assert.deepEqual([device?.['driver'], device?.['logical_block_size'], device?.['physical_block_size']], ['scsi-hd', 512, 4096]);
    const threads = await plugged('block_device_driver = "virtio-blk"\nindep_iothreads = 2', 3);
    assert.deepEqual(threads.filter(({ name }) => name === 'device_add').map(({ driver, iothread }) => [driver, iothread]), [['virtio-blk-pci', 'indep_iothread_0'], ['virtio-blk-pci', 'indep_iothread_1'], ['virtio-blk-pci', 'indep_iothread_0']]);
    const [, plain] = await plugged('block_device_driver = "virtio-blk"');
    assert.deepEqual(['iothread', 'logical_block_size', 'physical_block_size'].map((name) => plain?.[name]), [undefined, undefined, undefined]);
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test('hot-added memory is backed like the memory at boot; virtio-mem where it is asked for', async () => {
  const grown = async (lines: string): Promise<[string, Record<string, unknown>][]> => {
    const { said, qmp } = fakeQmp({ 'query-memory-devices': [] });
    await new QemuResize(specOf(lines, { share: undefined }), () => 'kvm', qmp).setMemory(512, 128);
    return said.filter(([name]) => name === 'object-add');
  };
  const backend = async (lines: string): Promise<unknown[]> => (await grown(lines)).map(([, args]) => [args['qom-type'], args['mem-path']]);
  assert.deepEqual(await backend('shared_fs = "none"'), [['memory-backend-ram', undefined]]);
  assert.deepEqual(await backend('enable_hugepages = true'), [['memory-backend-file', '/dev/hugepages']]);
  assert.deepEqual(await backend('file_mem_backend = "/mem"'), [['memory-backend-file', '/mem']]);
  const [[, virtioMem] = []] = await grown('enable_virtio_mem = true');
  assert.equal(virtioMem?.['id'], 'virtiomem');
});

test('disable_nesting_checks gives PCI devices their modern interface inside of a virtual machine', async () => {
  const { makePlan } = await import('./launch');
  const plan = (lines: string, nested: boolean): boolean =>
    makePlan({ spec: specOf(lines), accelerator: { kind: 'kvm', nested, tscKhz: 0 } as never, channel: { kind: 'serial' } }).disableModern;
  assert.deepEqual([plan('', true), plan('disable_nesting_checks = true', true), plan('', false)], [true, false, false]);
});
