import { statSync } from 'node:fs';
import type { Device } from '../../../gen/agent/agent';
import { KataError } from '../../../base/errors';
import type { OciSpec } from '../../../base/oci-spec';
import { blockDeviceOf } from './block-device';

/** The major and minor number of a device node. */
export function numbersOf(rdev: number): { readonly major: number; readonly minor: number } {
  return { major: (rdev >>> 8) & 0xfff, minor: (rdev & 0xff) | ((rdev >>> 12) & 0xfff00) };
}

/**
 * Brings a container's devices in line with what they are in the guest: the specification has the host's numbers.
 * Waits for devices that are still being plugged in.
 */
export async function resolveDevices(devices: readonly Device[], spec: OciSpec, timeoutMs: number): Promise<void> {
  const listed = spec.linux?.devices ?? [];
  const found = await Promise.all(devices.map(async (device) => ({ device, path: await guestPath(device, timeoutMs) })));
  for (const { device, path } of found) {
    if (path === undefined) {
      continue;
    }
    const { major, minor } = numbersOf(statSync(path).rdev);
    const entry = listed.find((candidate) => candidate.path === device.containerPath);
    if (entry === undefined) {
      throw new KataError('InvalidArgument', `device ${device.containerPath}: not in the container's specification`);
    }
    const old = { major: entry.major, minor: entry.minor };
    Object.assign(entry, { major, minor });
    for (const rule of spec.linux?.resources?.devices ?? []) {
      if (rule.major === old.major && rule.minor === old.minor) {
        Object.assign(rule, { major, minor });
      }
    }
  }
}

async function guestPath(device: Device, timeoutMs: number): Promise<string | undefined> {
  switch (device.type) {
    case 'blk':
    case 'scsi':
      return blockDeviceOf(device.type, device.id === '' ? device.vmPath : device.id, timeoutMs);
    case 'mmioblk':
    case 'nvdimm':
      return blockDeviceOf(device.type, device.vmPath, timeoutMs);
    case 'vfio':
    case 'vfio-gk':
    case 'vfio-pci':
    case 'vfio-pci-gk':
      // The function is the guest's own by now; a driver of the guest made its nodes.
      return undefined;
    default:
      throw new KataError('InvalidArgument', `device type "${device.type}" of ${device.containerPath} is not known`);
  }
}
