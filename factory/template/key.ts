/** The key of a template: a digest of all that must be the same in the VM that was saved and in its clones. */
import { readFileSync, statSync } from 'node:fs';
import { canonicalJson, fixedPart } from '../compare';
import type { BaseConfig } from '../types';

/** Raised whenever our VMM command line changes in a way that old templates do not load. */
const DEVICE_LAYOUT = 1;

/** What tells one content of a file from another without reading it: an upgrade or rebuild changes it. */
export function fileIdentity(path: string): string {
  if (path === '') {
    return '';
  }
  const info = statSync(path, { bigint: true, throwIfNoEntry: false });
  return info === undefined ? 'absent' : `${info.dev}:${info.ino}:${info.size}:${info.mtimeNs}`;
}

/** What of the host is in a template: the boot (templates do not outlive it), and the devices that decide how VMs run. */
export function hostIdentity(): string {
  let boot = '';
  try {
    boot = readFileSync('/proc/sys/kernel/random/boot_id', 'latin1').trim();
  } catch {
    // A host that hides it: templates may then outlive a boot, which the other parts of the key make safe.
  }
  return [boot, process.arch, ...['/dev/kvm', '/dev/vhost-vsock'].map((path) => statSync(path, { throwIfNoEntry: false })?.rdev ?? 0)].join(' ');
}

function digest(inputs: readonly unknown[]): string {
  // Lazy: loading it costs 2 ms, and only sandboxes with a template pay that.
  // eslint-disable-next-line @typescript-eslint/no-require-imports
  const { createHash } = require('node:crypto') as typeof import('node:crypto');
  return createHash('sha256').update(canonicalJson(inputs)).digest('hex').slice(0, 16);
}

/**
 * 16 hex digits over the configuration alone. Templates of one family with different keys are of different files or
 * hosts: the one that is made last has superseded the others.
 */
export function templateFamily(base: BaseConfig): string {
  return digest([base.vcpus, base.memoryMiB, base.kernelParams, fixedPart(base.hypervisor)]);
}

/** Id of the VM that becomes a template: hosts may keep the same template in several places. */
export function makerId(root: string, key: string): string {
  return `template-${digest([root, key])}`;
}

/** 16 hex digits. */
export function templateKey(base: BaseConfig, host: string = hostIdentity()): string {
  const { path, kernel, initrd, image, firmware, firmwareVolume, pflashes } = base.hypervisor;
  const files = [path, kernel, initrd, image, firmware, firmwareVolume, ...pflashes].map(fileIdentity);
  return digest([DEVICE_LAYOUT, host, base.vcpus, base.memoryMiB, base.kernelParams, fixedPart(base.hypervisor), files]);
}
