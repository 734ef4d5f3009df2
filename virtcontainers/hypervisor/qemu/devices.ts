/** Devices of the command line, in upstream's order (virtcontainers-behaviour 3.2, rows 7 to 22). Pure. */
import type { BlockDevice, NetDevice } from '../types';
import { AGENT_PORT, AGENT_PORT_ID, bridgeId, DEBUG_CONSOLE_PORT, fileIn, SLOT } from './layout';
import { commas } from './memory';
import { hasDebugConsole, hasSerialConsole, imageIsNvdimm, isMicrovm, type InheritedFds, type QemuPlan } from './plan';

/** Of a drive's id, and of a virtio disk's serial. */
const MAX_ID = 31;
const MAX_SERIAL = 20;

/** `virtio-net` -> `virtio-net-pci`, or the MMIO form that microvm has. */
function virtio(plan: QemuPlan, name: string): string {
  return `${name}-${isMicrovm(plan) ? 'device' : 'pci'}`;
}

/** `,disable-modern=...` where the transport has it. */
function modern(plan: QemuPlan): string {
  return isMicrovm(plan) ? '' : `,disable-modern=${String(plan.disableModern)}`;
}

/** An address, only where template and clone must agree: there one device more must not move the others. */
function address(plan: QemuPlan, slot: number): string {
  return plan.spec.template === undefined || isMicrovm(plan) ? '' : `,bus=pcie.0,addr=${slot.toString(16)}`;
}

export function bridges(plan: QemuPlan): string[] {
  if (isMicrovm(plan)) {
    return [];
  }
  return Array.from({ length: plan.spec.config.defaultBridges }, (_, index) => [
    '-device',
    `pci-bridge,bus=pcie.0,id=${bridgeId(index)},chassis_nr=${String(index + 1)},shpc=off,addr=${(SLOT.bridge + index).toString(16)},io-reserve=4k,mem-reserve=1m,pref64-reserve=1m`,
  ]).flat();
}

export function console(plan: QemuPlan): string[] {
  const socket = `socket,id=charconsole0,path=${commas(fileIn(plan.spec.directory, 'console'))},server=on,wait=off`;
  const bus = ['-device', `${virtio(plan, 'virtio-serial')}${modern(plan)},id=serial0${address(plan, SLOT.serial)}`];
  const needsBus = plan.channel.kind === 'serial' || hasDebugConsole(plan);
  if (hasSerialConsole(plan)) {
    return [...(needsBus ? bus : []), '-serial', 'chardev:charconsole0', '-chardev', socket];
  }
  return [...bus, '-device', 'virtconsole,chardev=charconsole0,id=console0', '-chardev', socket];
}

/** Ours: the agent's port where there is no vsock, and one for the debug console. */
export function ports(plan: QemuPlan): string[] {
  const { directory } = plan.spec;
  const port = (char: string, id: string, nr: number, name: string, path: string): string[] => [
    '-chardev', `socket,id=${char},path=${commas(path)},server=on,wait=off`,
    '-device', `virtserialport,bus=serial0.0,nr=${String(nr)},chardev=${char},id=${id},name=${name}`,
  ];
  if (plan.channel.kind !== 'serial') {
    return [];
  }
  return [
    ...port('charagent0', AGENT_PORT_ID, 1, AGENT_PORT, fileIn(directory, 'agent')),
    ...(hasDebugConsole(plan) ? port('chardebug0', 'debugport0', 2, DEBUG_CONSOLE_PORT, fileIn(directory, 'debugConsole')) : []),
  ];
}

export function image(plan: QemuPlan): string[] {
  const { config, template } = plan.spec;
  if (config.image === '') {
    return [];
  }
  if (imageIsNvdimm(plan)) {
    // In a template it must be shared: private, its content goes into the device state, and the clone does not load.
    const share = template === undefined ? '' : ',share=on';
    return [
      '-device', 'nvdimm,id=nv0,memdev=mem0,unarmed=on',
      '-object', `memory-backend-file,id=mem0,mem-path=${commas(config.image)},size=${String(plan.imageBytes)}${share},readonly=on`,
    ];
  }
  const id = `image-${plan.token}`;
  return [
    '-device', `${virtio(plan, 'virtio-blk')}${modern(plan)},drive=${id},config-wce=off,share-rw=on,serial=${id}${address(plan, SLOT.image)}`,
    '-drive', `id=${id},file=${commas(config.image)},aio=threads,format=raw,if=none,readonly=on`,
  ];
}

/** `guest_extension_images`: read-only disks that the agent finds by their serial. Never with a template (config/checks.ts). */
export function extensionImages(plan: QemuPlan): string[] {
  return plan.spec.config.guestExtensionImages.flatMap(({ name, path }) => {
    const id = `extension-${name}`.slice(0, MAX_ID);
    return [
      '-device', `${virtio(plan, 'virtio-blk')}${modern(plan)},drive=${id},config-wce=off,share-rw=on,serial=${id.slice(0, MAX_SERIAL)}`,
      '-drive', `id=${id},file=${commas(path)},aio=threads,format=raw,if=none,readonly=on`,
    ];
  });
}

/** `,logical_block_size=...` for disks of containers, where configured. */
function sectorSizes({ spec: { config } }: QemuPlan): string {
  const part = (name: string, size: number): string => (size > 0 ? `,${name}=${String(size)}` : '');
  return part('logical_block_size', config.blockDeviceLogicalSectorSize) + part('physical_block_size', config.blockDevicePhysicalSectorSize);
}

export function misc(plan: QemuPlan): string[] {
  const { config } = plan.spec;
  const iothread = config.enableIothreads ? `,iothread=iothread-${plan.token}` : '';
  const hasScsi = config.blockDeviceDriver === 'virtio-scsi' && !isMicrovm(plan);
  return [
    ...(config.enableIommu && !isMicrovm(plan) ? ['-device', 'intel-iommu,intremap=on,device-iotlb=on,caching-mode=on'] : []),
    // Deviation: not -no-shutdown, with which a guest that powers off would stay for ever.
    ...(config.guestMemoryDumpPath !== '' ? ['-device', 'pvpanic', '-action', 'panic=pause'] : []),
    ...(hasScsi ? ['-device', `virtio-scsi-pci,id=scsi0${modern(plan)}${iothread}${address(plan, SLOT.scsi)}`] : []),
    '-object', `rng-random,id=rng0,filename=${commas(config.entropySource === '' ? '/dev/urandom' : config.entropySource)}`,
    '-device', `${virtio(plan, 'virtio-rng')},rng=rng0${address(plan, SLOT.rng)}`,
    ...(config.reclaimGuestFreedMemory ? ['-device', `${virtio(plan, 'virtio-balloon')},id=balloon0,deflate-on-oom=on,free-page-reporting=on${address(plan, SLOT.balloon)}`] : []),
    ...rootPorts(plan),
  ];
}

function rootPorts(plan: QemuPlan): string[] {
  const count = isMicrovm(plan) ? 0 : plan.spec.config.pcieRootPort;
  return Array.from({ length: count }, (_, index) => [
    '-device', `pcie-root-port,id=rp${String(index)},bus=pcie.0,chassis=0,slot=${String(index)},multifunction=off${plan.spec.template === undefined ? '' : `,addr=${(SLOT.rootPort + index).toString(16)}`}`,
  ]).flat();
}

export function vsock(plan: QemuPlan, fds: InheritedFds): string[] {
  if (plan.channel.kind !== 'vsock') {
    return [];
  }
  const cid = String(plan.channel.cid);
  return ['-device', `${virtio(plan, 'vhost-vsock')}${modern(plan)},vhostfd=${String(fds.add(plan.channel.fd))},id=vsock-${cid},guest-cid=${cid}${address(plan, SLOT.vsock)}`];
}

export function share(plan: QemuPlan): string[] {
  const { share: folder, config, directory, template } = plan.spec;
  if (folder === undefined || (folder.kind === 'virtio-fs' && template !== undefined)) {
    // A clone gets its virtio-fs by hot-plug, after it is loaded.
    return [];
  }
  if (folder.kind === 'virtio-fs') {
    const char = `char-${plan.token}`;
    const cache = config.virtioFsCacheSize > 0 ? `,cache-size=${String(config.virtioFsCacheSize)}M` : '';
    const queue = config.virtioFsQueueSize > 0 ? `,queue-size=${String(config.virtioFsQueueSize)}` : '';
    return [
      '-chardev', `socket,id=${char},path=${commas(fileIn(directory, 'virtioFs'))}`,
      '-device', `${virtio(plan, 'vhost-user-fs')},chardev=${char},tag=${folder.tag}${cache}${queue}`,
    ];
  }
  const id = `extra-9p-${folder.tag}`;
  return [
    '-device', `${virtio(plan, 'virtio-9p')}${modern(plan)},fsdev=${id},mount_tag=${folder.tag}${address(plan, SLOT.share)}`,
    '-fsdev', `local,id=${id},path=${commas(folder.source)},security_model=none,multidevs=remap`,
  ];
}

export function net(plan: QemuPlan, device: NetDevice, index: number, fds: InheritedFds): string[] {
  const id = `network-${String(index)}`;
  const queues = device.tapFds.length;
  const mq = queues > 0 && !isMicrovm(plan) ? `,mq=on,vectors=${String(2 * queues + 2)}` : '';
  // Without a tap it stands in for one: the NIC of a template, whose clones bring their own.
  const backend = queues === 0 ? `hubport,id=${id},hubid=${String(index)}` : `tap,id=${id},fds=${device.tapFds.map((fd) => fds.add(fd)).join(':')}`;
  return [
    '-netdev', backend,
    '-device', `driver=${virtio(plan, 'virtio-net')},netdev=${id},mac=${device.mac}${modern(plan)}${mq}${address(plan, SLOT.net + index)}`,
  ];
}

export function block(plan: QemuPlan, device: BlockDevice, index: number): string[] {
  const { config } = plan.spec;
  const cache = config.blockDeviceCacheSet ? `,cache.direct=${config.blockDeviceCacheDirect ? 'on' : 'off'},cache.no-flush=${config.blockDeviceCacheNoflush ? 'on' : 'off'}` : '';
  const readOnly = device.readOnly ? ',readonly=on,file.locking=off' : '';
  return [
    '-device', `${virtio(plan, 'virtio-blk')}${modern(plan)},drive=${device.id},id=virtio-${device.id},config-wce=off,share-rw=on,serial=${device.id.slice(0, MAX_SERIAL)}${sectorSizes(plan)}${address(plan, SLOT.block + index)}`,
    '-drive', `id=${device.id},file=${commas(device.path)},aio=${config.blockDeviceAio},format=raw,if=none${readOnly}${cache}`,
  ];
}
