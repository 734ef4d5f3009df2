/**
 * From spec and facts to QEMU's arguments. Pure. Content and order are upstream's (virtcontainers-behaviour 3.2);
 * where they differ a comment says why, and docs/qemu.md lists it.
 */
import * as devices from './devices';
import { kernelLine, maxVcpus } from './kernel-line';
import { fileIn, independentIothread } from './layout';
import { commas, memoryOptions, memorySize } from './memory';
import { imageIsNvdimm, isMicrovm, type InheritedFds, type QemuPlan } from './plan';

function machine(plan: QemuPlan): string[] {
  const { config } = plan.spec;
  const type = config.machineType === '' ? 'q35' : config.machineType;
  const split = config.enableIommu || config.confidentialGuest ? ',kernel_irqchip=split' : '';
  const nvdimm = imageIsNvdimm(plan) ? ',nvdimm=on' : '';
  const extra = config.machineAccelerators === '' ? '' : `,${config.machineAccelerators.replace(/^,/, '')}`;
  return plan.accelerator === 'kvm'
    ? ['-machine', `${type},accel=kvm${split}${nvdimm}${extra}`]
    : ['-machine', `${type}${nvdimm}${extra}`, '-accel', 'tcg,thread=multi'];
}

/** Under TCG: qemu64 has no RDRAND (entropy after 5 s), and five-level paging only costs. */
function cpu(plan: QemuPlan): string {
  const features = plan.spec.config.cpuFeatures === '' ? '' : `,${plan.spec.config.cpuFeatures.replace(/^,/, '')}`;
  return `${plan.accelerator === 'kvm' ? 'host' : 'max,la57=off,erms=off'}${features}`;
}

function monitors(plan: QemuPlan, qmpFd: number): string[] {
  const { extraMonitorSocket } = plan.spec.config;
  const extra = { hmp: '-monitor', qmp: '-qmp', 'qmp-pretty': '-qmp-pretty' }[extraMonitorSocket];
  return [
    // Deviation: the listener is ours and already connected, so QEMU's early death is seen at once (upstream 4.1 too).
    '-qmp', `unix:fd=${String(qmpFd)},server=on,wait=off`,
    ...(plan.spec.debug && extra !== undefined ? [extra, `unix:${commas(fileIn(plan.spec.directory, 'extraMonitor'))},server=on,wait=off`] : []),
  ];
}

function guest(plan: QemuPlan): string[] {
  const { config, template } = plan.spec;
  if (template?.use === 'clone') {
    // The kernel is in the saved memory; loading it once more would only fill private pages.
    return [];
  }
  return ['-kernel', config.kernel, ...(config.initrd === '' ? [] : ['-initrd', config.initrd]), '-append', kernelLine(plan)];
}

function smp(plan: QemuPlan): string {
  const { spec } = plan;
  const max = String(maxVcpus(plan));
  return isMicrovm(plan) || spec.config.confidentialGuest ? String(spec.vcpus) : `${String(spec.vcpus)},cores=1,threads=1,sockets=${max},maxcpus=${max}`;
}

function coldDevices(plan: QemuPlan, fds: InheritedFds): string[] {
  let nets = 0;
  let blocks = 0;
  return plan.spec.devices.flatMap((device) => (device.kind === 'net' ? devices.net(plan, device, nets++, fds) : devices.block(plan, device, blocks++)));
}

/** All arguments. `qmpFd` is our listener; descriptors are numbered as the child will see them. */
export function commandLine(plan: QemuPlan, qmpFd: number, fds: InheritedFds): string[] {
  const { spec } = plan;
  const { config } = spec;
  return [
    '-name', `sandbox-${commas(spec.id)}${spec.debug ? ',debug-threads=on' : ''}`,
    '-uuid', plan.uuid,
    ...machine(plan),
    '-cpu', cpu(plan),
    ...monitors(plan, fds.add(qmpFd)),
    '-m', memorySize(plan),
    ...devices.bridges(plan),
    ...devices.console(plan),
    ...devices.ports(plan),
    ...devices.image(plan),
    ...devices.extensionImages(plan),
    ...devices.misc(plan),
    ...devices.vsock(plan, fds),
    ...devices.share(plan),
    ...coldDevices(plan, fds),
    '-rtc', 'base=utc,driftfix=slew,clock=host',
    // A property of KVM's timer: under TCG there is no such device.
    ...(plan.accelerator === 'kvm' ? ['-global', 'kvm-pit.lost_tick_policy=discard'] : []),
    ...config.pflashes.flatMap((path) => ['-pflash', path]),
    '-vga', 'none',
    // Deviation: no -daemonize. QEMU is our child: its end, its messages and its parent are known.
    '-no-user-config', '-nodefaults', '-nographic', '--no-reboot',
    ...memoryOptions(plan),
    ...guest(plan),
    ...(config.firmware === '' ? [] : ['-bios', config.firmware]),
    ...(config.enableIothreads ? ['-object', `iothread,id=iothread-${plan.token}`] : []),
    ...Array.from({ length: config.indepIothreads }, (_, index) => ['-object', `iothread,id=${independentIothread(index)}`]).flat(),
    ...(spec.template?.use === 'clone' ? ['-S', '-incoming', 'defer'] : []),
    '-pidfile', fileIn(spec.directory, 'pid'),
    // Deviation: no -D file in debug mode. It has no bound; what QEMU says is on its stderr, which we keep.
    ...(config.seccompsandbox === '' ? [] : ['-sandbox', config.seccompsandbox]),
    '-smp', smp(plan),
  ];
}
