/** What backs the guest's memory (virtcontainers-behaviour 3.4). */
import { KataError } from '../../../base/errors';
import type { QemuPlan } from './plan';
import { isMicrovm } from './plan';

/** Slack above default_maxmemory that upstream leaves for nvdimm and alignment, in MiB. */
const MAXMEM_SLACK_MIB = 1024;

function needsSharedMemory({ spec: { share, config, transferable } }: QemuPlan): boolean {
  // A VM that gets its owner later gets its virtio-fs share from that.
  const later = transferable === true && config.sharedFs.startsWith('virtio-fs');
  return share?.kind === 'virtio-fs' || later || config.enableVhostUserStore;
}

/** `-object` of the backend with id `dimm1`. */
export function memoryObject(plan: QemuPlan): string {
  const { spec } = plan;
  const { config, template } = spec;
  const size = `id=dimm1,size=${String(spec.memoryMiB)}M`;
  const prealloc = config.enableMemPrealloc ? ',prealloc=on' : '';
  const shared = needsSharedMemory(plan);
  if (template !== undefined) {
    if (shared && template.use === 'become') {
      // A vhost-user device cannot be saved. (A clone may have one, hot-plugged, over a copy of its own.)
      throw new KataError('InvalidArgument', 'VM template: not possible with virtio-fs', { hint: 'use shared_fs = "virtio-9p" or "none" with enable_template' });
    }
    return `memory-backend-file,${size},mem-path=${commas(template.memoryPath)},share=${template.use === 'become' || shared ? 'on' : 'off'}`;
  }
  if (config.enableVhostUserStore && !config.enableHugepages) {
    throw new KataError('InvalidArgument', 'enable_vhost_user_store needs enable_hugepages', { hint: 'set enable_hugepages = true in [hypervisor.qemu]' });
  }
  if (config.enableHugepages) {
    return `memory-backend-file,${size},mem-path=/dev/hugepages${shared ? ',share=on,prealloc=on' : prealloc}`;
  }
  if (config.fileMemBackend !== '') {
    return `memory-backend-file,${size},mem-path=${commas(config.fileMemBackend)},share=on${prealloc}`;
  }
  // Deviation: upstream puts a file into /dev/shm, which a container or a small machine limits; memfd has no such limit.
  return shared ? `memory-backend-memfd,${size},share=on${prealloc}` : `memory-backend-ram,${size}${prealloc}`;
}

/** The options that make `dimm1` the guest's memory. */
export function memoryOptions(plan: QemuPlan): string[] {
  const use = isMicrovm(plan) ? ['-machine', 'memory-backend=dimm1'] : ['-numa', 'node,memdev=dimm1'];
  return ['-object', memoryObject(plan), ...use];
}

/** Most memory that the VM can have, MiB: what hot-plug may reach. */
export function maxMemoryMiB({ spec }: QemuPlan): number {
  return Math.max(spec.config.defaultMaxmemory, spec.memoryMiB);
}

/** The value of -m. */
export function memorySize(plan: QemuPlan): string {
  const { spec } = plan;
  const size = `${String(spec.memoryMiB)}M`;
  if (isMicrovm(plan) || spec.config.confidentialGuest || spec.config.memorySlots === 0) {
    return size;
  }
  return `${size},slots=${String(spec.config.memorySlots)},maxmem=${String(maxMemoryMiB(plan) + spec.config.memoryOffset + MAXMEM_SLACK_MIB)}M`;
}

/** QEMU's option syntax: a comma in a value is doubled. */
export function commas(value: string): string {
  return value.replaceAll(',', ',,');
}
