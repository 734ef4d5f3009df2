import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { Logger } from '../../../base/log';
import { completeConfig } from '../../config/complete';
import type { HypervisorConfig } from '../../config/types';
import type { VmSpec } from '../types';
import { commandLine } from './command-line';
import { kernelLine } from './kernel-line';
import { InheritedFds, type QemuPlan } from './plan';

function config(changes: Partial<HypervisorConfig>): HypervisorConfig {
  const layers = { type: 'qemu', hypervisor: new Map(), agent: new Map(), factory: new Map(), runtime: new Map(), sources: new Map(), warnings: [] };
  const { hypervisor } = completeConfig(layers as never, '', [], { cpus: 2, memoryMiB: 24105, arch: 'x64' });
  return { ...hypervisor, ...changes };
}

function plan(specChanges: Partial<VmSpec>, configChanges: Partial<HypervisorConfig>, changes: Partial<QemuPlan> = {}): QemuPlan {
  const spec: VmSpec = {
    id: 'k1', directory: '/run/vc/vm/k1', vcpus: 1, memoryMiB: 256, kernelParams: [], share: undefined, devices: [], netns: { kind: 'own' }, template: undefined,
    debug: false, logger: Logger.none(), config: config({ kernel: '/k', initrd: '/i', image: '', ...configChanges }), ...specChanges,
  };
  return {
    spec, accelerator: 'tcg', tscKhz: 2_600_000, disableModern: false, uuid: 'U', channel: { kind: 'serial' }, imageBytes: 0, token: '0123456789abcdef', ...changes,
  };
}

const argv = (p: QemuPlan): string[] => commandLine(p, 20, new InheritedFds());
/** The values of every occurrence of an option. */
const valuesOf = (args: readonly string[], option: string): string[] => args.flatMap((arg, i) => (arg === option ? [args[i + 1] ?? ''] : []));
const firstOf = (args: readonly string[], option: string): string => valuesOf(args, option)[0] ?? '';

/** Upstream 3.0's own arguments for a pod with one interface, debug on, in a host that is itself a VM (recorded). */
const UPSTREAM = [
  '-name', 'sandbox-k1', '-uuid', 'U', '-machine', 'q35,accel=kvm,nvdimm=on', '-cpu', 'host,pmu=off', '-qmp', 'unix:/run/vc/vm/k1/qmp.sock,server=on,wait=off',
  '-m', '256M,slots=10,maxmem=25129M',
  '-device', 'pci-bridge,bus=pcie.0,id=pci-bridge-0,chassis_nr=1,shpc=off,addr=2,io-reserve=4k,mem-reserve=1m,pref64-reserve=1m',
  '-device', 'virtio-serial-pci,disable-modern=true,id=serial0', '-device', 'virtconsole,chardev=charconsole0,id=console0',
  '-chardev', 'socket,id=charconsole0,path=/run/vc/vm/k1/console.sock,server=on,wait=off',
  '-device', 'nvdimm,id=nv0,memdev=mem0,unarmed=on',
  '-object', 'memory-backend-file,id=mem0,mem-path=/opt/kata/share/kata-containers/kata-containers.img,size=67108864,readonly=on',
  '-device', 'virtio-scsi-pci,id=scsi0,disable-modern=true', '-object', 'rng-random,id=rng0,filename=/dev/urandom', '-device', 'virtio-rng-pci,rng=rng0',
  '-device', 'vhost-vsock-pci,disable-modern=true,vhostfd=3,id=vsock-1847625523,guest-cid=1847625523',
  '-chardev', 'socket,id=char-0123456789abcdef,path=/run/vc/vm/k1/vhost-fs.sock', '-device', 'vhost-user-fs-pci,chardev=char-0123456789abcdef,tag=kataShared',
  '-netdev', 'tap,id=network-0,fds=4', '-device', 'driver=virtio-net-pci,netdev=network-0,mac=02:6c:b5:d1:cd:00,disable-modern=true,mq=on,vectors=4',
  '-rtc', 'base=utc,driftfix=slew,clock=host', '-global', 'kvm-pit.lost_tick_policy=discard', '-vga', 'none', '-no-user-config', '-nodefaults', '-nographic', '--no-reboot',
  '-daemonize', '-object', 'memory-backend-file,id=dimm1,size=256M,mem-path=/dev/shm,share=on', '-numa', 'node,memdev=dimm1',
  '-kernel', '/opt/kata/share/kata-containers/vmlinux.container', '-append',
  'tsc=reliable no_timer_check rcupdate.rcu_expedited=1 i8042.direct=1 i8042.dumbkbd=1 i8042.nopnp=1 i8042.noaux=1 noreplace-smp reboot=k cryptomgr.notests net.ifnames=0 pci=lastbus=0 root=/dev/pmem0p1 rootflags=dax,data=ordered,errors=remount-ro ro rootfstype=ext4 console=hvc0 console=hvc1 debug systemd.show_status=true systemd.log_level=debug panic=1 nr_cpus=2 systemd.unit=kata-containers.target systemd.mask=systemd-networkd.service systemd.mask=systemd-networkd.socket scsi_mod.scan=none agent.log=debug',
  '-pidfile', '/run/vc/vm/k1/pid', '-D', '/run/vc/vm/k1/qemu.log', '-smp', '1,cores=1,threads=1,sockets=2,maxcpus=2',
];

/** Ours on purpose; docs/qemu.md says why. */
const DEVIATIONS: ReadonlyMap<string, string | undefined> = new Map([
  ['sandbox-k1', 'sandbox-k1,debug-threads=on'],
  ['unix:/run/vc/vm/k1/qmp.sock,server=on,wait=off', 'unix:fd=3,server=on,wait=off'],
  ['vhost-vsock-pci,disable-modern=true,vhostfd=3,id=vsock-1847625523,guest-cid=1847625523', 'vhost-vsock-pci,disable-modern=true,vhostfd=4,id=vsock-1847625523,guest-cid=1847625523'],
  ['tap,id=network-0,fds=4', 'tap,id=network-0,fds=5'],
  ['memory-backend-file,id=dimm1,size=256M,mem-path=/dev/shm,share=on', 'memory-backend-memfd,id=dimm1,size=256M,share=on'],
  ['-daemonize', undefined],
  ['-D', undefined],
  ['/run/vc/vm/k1/qemu.log', undefined],
]);

const upstreamPlan = (): QemuPlan =>
  plan(
    {
      debug: true,
      share: { kind: 'virtio-fs', tag: 'kataShared', source: '/share' },
      devices: [{ kind: 'net', id: 'eth0', mac: '02:6c:b5:d1:cd:00', tapFds: [30] }],
      kernelParams: ['systemd.unit=kata-containers.target', 'systemd.mask=systemd-networkd.service', 'systemd.mask=systemd-networkd.socket', 'scsi_mod.scan=none', 'agent.log=debug'],
    },
    {
      image: '/opt/kata/share/kata-containers/kata-containers.img', initrd: '', kernel: '/opt/kata/share/kata-containers/vmlinux.container', cpuFeatures: 'pmu=off', memorySlots: 10,
      defaultMaxmemory: 24105, memoryOffset: 0, defaultBridges: 1, defaultMaxvcpus: 2, blockDeviceDriver: 'virtio-scsi', entropySource: '/dev/urandom', virtioFsCacheSize: 0,
      virtioFsQueueSize: 0, enableIothreads: false, pcieRootPort: 0, seccompsandbox: '', rootfsType: 'ext4', kernelParams: '',
    },
    { accelerator: 'kvm', disableModern: true, channel: { kind: 'vsock', cid: 1847625523, fd: 21 }, imageBytes: 67108864 },
  );

describe('QEMU command line', () => {
  it('is upstream\'s with KVM, vsock and upstream\'s configuration, but for the deviations', () => {
    const wanted = UPSTREAM.flatMap((word) => (DEVIATIONS.has(word) ? [DEVIATIONS.get(word) ?? []].flat() : [word]));
    assert.deepEqual(argv(upstreamPlan()), wanted);
  });

  it('numbers inherited descriptors in the order of the child', () => {
    const fds = new InheritedFds();
    commandLine(upstreamPlan(), 20, fds);
    assert.deepEqual(fds.all, [20, 21, 30]);
  });

  it('has no KVM device under TCG, a CPU with RDRAND, the console on a serial port and the agent on virtio-serial', () => {
    const args = argv(plan({}, {}));
    assert.equal(firstOf(args, '-machine'), 'q35');
    assert.equal(firstOf(args, '-accel'), 'tcg,thread=multi');
    assert.match(firstOf(args, '-cpu'), /^max,la57=off/);
    assert.deepEqual(valuesOf(args, '-global'), []);
    assert.equal(firstOf(args, '-serial'), 'chardev:charconsole0');
    assert.ok(valuesOf(args, '-device').includes('virtserialport,bus=serial0.0,nr=1,chardev=charagent0,id=agentport0,name=agent.channel.0'));
    assert.ok(valuesOf(args, '-chardev').includes('socket,id=charagent0,path=/run/vc/vm/k1/agent.sock,server=on,wait=off'));
    assert.equal(args.join(' ').includes('console.channel.0'), false);
  });

  it('has a debug console port only when the kernel parameters ask for it', () => {
    assert.match(argv(plan({ kernelParams: ['agent.debug_console'] }, {})).join(' '), /nr=2,chardev=chardebug0,id=debugport0,name=console\.channel\.0/);
  });

  it('backs memory by what the share needs', () => {
    const memory = (share: VmSpec['share'], changes: Partial<HypervisorConfig> = {}): string => valuesOf(argv(plan({ share }, changes)), '-object').find((value) => value.includes('dimm1')) ?? '';
    assert.equal(memory(undefined), 'memory-backend-ram,id=dimm1,size=256M');
    assert.equal(memory({ kind: 'virtio-9p', tag: 't', source: '/s' }), 'memory-backend-ram,id=dimm1,size=256M');
    assert.equal(memory({ kind: 'virtio-fs', tag: 't', source: '/s' }), 'memory-backend-memfd,id=dimm1,size=256M,share=on');
    assert.equal(memory(undefined, { enableHugepages: true }), 'memory-backend-file,id=dimm1,size=256M,mem-path=/dev/hugepages');
    assert.equal(memory(undefined, { enableMemPrealloc: true }), 'memory-backend-ram,id=dimm1,size=256M,prealloc=on');
    assert.equal(memory(undefined, { fileMemBackend: '/dev/shm' }), 'memory-backend-file,id=dimm1,size=256M,mem-path=/dev/shm,share=on');
    assert.throws(() => memory(undefined, { enableVhostUserStore: true }), { code: 'InvalidArgument' });
  });

  it('gives clones a vsock address of their own, on a device that sits where the template has it', () => {
    const paths = { memoryPath: '/t/memory', statePath: '/t/state' };
    const vsockOf = (use: 'become' | 'clone', cid: number): string[] =>
      valuesOf(argv(plan({ template: { use, ...paths } }, {}, { channel: { kind: 'vsock', cid, fd: 21 } })), '-device').filter((device) => device.startsWith('vhost-vsock-pci'));
    assert.deepEqual(vsockOf('become', 7), ['vhost-vsock-pci,disable-modern=false,vhostfd=4,id=vsock-7,guest-cid=7,bus=pcie.0,addr=b']);
    assert.deepEqual(vsockOf('clone', 4138340623), ['vhost-vsock-pci,disable-modern=false,vhostfd=4,id=vsock-4138340623,guest-cid=4138340623,bus=pcie.0,addr=b']);
    // The agent's serial port is not there beside it: host and guest would choose otherwise.
    const ports = valuesOf(argv(plan({ template: { use: 'clone', ...paths } }, {}, { channel: { kind: 'vsock', cid: 9, fd: 21 } })), '-device').filter((device) => device.includes('agent.channel.0'));
    assert.deepEqual(ports, []);
  });

  it('gives every device of a template a fixed address, the same in its clones', () => {
    const share = { kind: 'virtio-9p', tag: 'kataShared', source: '/s' } as const;
    const nic = { kind: 'net', id: 'n', mac: '02:00:00:00:00:01', tapFds: [] } as const;
    const paths = { memoryPath: '/t/memory', statePath: '/t/state' };
    const devicesOf = (use: 'become' | 'clone', tapFds: readonly number[]): string[] =>
      valuesOf(argv(plan({ share, devices: [{ ...nic, tapFds }], template: { use, ...paths } }, { blockDeviceDriver: 'virtio-scsi' })), '-device')
        .map((device) => `${/^(?:driver=)?([a-z0-9-]+)/.exec(device)?.[1] ?? ''}${/,addr=\w+/.exec(device)?.[0] ?? ''}`);
    assert.deepEqual(devicesOf('become', []), devicesOf('clone', [9]));
    assert.deepEqual(devicesOf('clone', [9]), ['pci-bridge,addr=2', 'virtio-serial-pci,addr=7', 'virtserialport', 'virtio-scsi-pci,addr=8', 'virtio-rng-pci,addr=9', 'virtio-9p-pci,addr=a', 'virtio-net-pci,addr=e']);
    const clone = argv(plan({ template: { use: 'clone', ...paths } }, {}));
    assert.ok(clone.join(' ').includes('-S -incoming defer'));
    assert.equal(clone.includes('-kernel'), false);
    assert.ok(clone.includes('memory-backend-file,id=dimm1,size=256M,mem-path=/t/memory,share=off'));
  });

  it('has no hot-plug and MMIO devices on a microvm', () => {
    const args = argv(plan({}, { machineType: 'microvm' }));
    assert.equal(firstOf(args, '-m'), '256M');
    assert.equal(firstOf(args, '-smp'), '1');
    assert.equal(args.join(' ').includes('-pci'), false);
    assert.match(kernelLine(plan({}, { machineType: 'microvm' })), /tsc_early_khz=2600000/);
  });

  it('doubles commas in paths', () => {
    const args = argv(plan({ share: { kind: 'virtio-9p', tag: 't', source: '/a,b' } }, {}));
    assert.ok(args.some((arg) => arg.includes('path=/a,,b,')));
  });
});

describe('kernel command line', () => {
  const line = (p: QemuPlan): string[] => kernelLine(p).split(' ');

  it('puts the user\'s parameters last', () => {
    assert.deepEqual(line(plan({ kernelParams: ['agent.log=debug'] }, { kernelParams: ' panic=5  foo' })).slice(-3), ['agent.log=debug', 'panic=5', 'foo']);
  });

  it('has what pays under TCG only there', () => {
    assert.ok(line(plan({}, {})).includes('tsc_early_khz=2600000'));
    assert.equal(kernelLine(plan({}, {}, { accelerator: 'kvm' })).includes('tsc_early_khz'), false);
    assert.equal(kernelLine(plan({}, {}, { tscKhz: 0 })).includes('tsc_early_khz'), false);
  });

  it('mounts an image as nvdimm or as a disk', () => {
    const image = { image: '/img', initrd: '' };
    assert.match(kernelLine(plan({}, image)), / root=\/dev\/pmem0p1 rootflags=dax,data=ordered,errors=remount-ro ro rootfstype=ext4 /);
    assert.match(kernelLine(plan({}, { ...image, disableImageNvdimm: true })), / root=\/dev\/vda1 rootflags=data=ordered,errors=remount-ro ro rootfstype=ext4 /);
  });
});
