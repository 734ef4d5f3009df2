/** The QEMU driver: q35 and microvm on KVM or TCG. */
import type { HypervisorConfig } from '../../config/types';
import { cleanupState } from '../processes';
import type { DriverCapabilities, HypervisorDriver } from '../types';
import { hostAccelerator } from './accelerator';
import { checkFiles } from './files-check';
import { QemuVm } from './qemu';
import { qemuVersion } from './version';
import { findVirtiofsd } from './virtiofsd';

function capabilities(config: HypervisorConfig): DriverCapabilities {
  const isMicrovm = config.machineType === 'microvm';
  return {
    blockHotplug: !isMicrovm && (config.defaultBridges > 0 || config.blockDeviceDriver === 'virtio-scsi'),
    netHotplug: !isMicrovm && config.defaultBridges > 0,
    fsShare: config.sharedFs !== 'none',
    template: true,
    resize: !isMicrovm && !config.confidentialGuest,
  };
}

async function check(config: HypervisorConfig): Promise<void> {
  checkFiles(config);
  hostAccelerator(config.accelerator);
  await qemuVersion(config.path);
  if (config.sharedFs === 'virtio-fs') {
    findVirtiofsd(config);
  }
}

export const qemuDriver: HypervisorDriver = {
  type: 'qemu',
  capabilities,
  check,
  createVm: (spec) => new QemuVm(spec, capabilities(spec.config)),
  adoptVm: (spec, state, signal) => QemuVm.adopt(spec, capabilities(spec.config), state, signal),
  cleanup: cleanupState,
};
