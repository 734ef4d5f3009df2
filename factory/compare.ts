/** Does a base VM fit a sandbox? Upstream's comparison (virtcontainers-behaviour 4.6), with the reason in words. */
import { KataError } from '../base/errors';
import type { HypervisorConfig } from '../virtcontainers/config/types';
import type { VmSpec } from '../virtcontainers/hypervisor/types';
import type { BaseConfig } from './types';

/**
 * Fields that may differ: a VM grows to the size wanted, and the time that it may take to boot, or who may set what by
 * annotation, is no property of the VM.
 */
const FREE_FIELDS: ReadonlySet<keyof HypervisorConfig> = new Set([
  'defaultVcpus', 'defaultMemory', 'bootTimeout', 'enableAnnotations', 'validHypervisorPaths', 'validVirtioFsDaemonPaths',
  // The daemon is the sandbox's own, also in a clone.
  'virtioFsDaemon',
]);

/** JSON with sorted keys: equal text for equal values. `undefined` and an empty list count as absent, as upstream's nil. */
export function canonicalJson(value: unknown): string {
  return JSON.stringify(value, (_key, part: unknown) => {
    if (Array.isArray(part)) {
      return part.length === 0 ? undefined : (part as unknown[]);
    }
    if (typeof part === 'bigint') {
      return String(part);
    }
    if (part !== null && typeof part === 'object') {
      return Object.fromEntries(Object.entries(part).sort(([a], [b]) => (a < b ? -1 : 1)));
    }
    return part;
  });
}

/** The part of a configuration that a base VM has built in. */
export function fixedPart(config: HypervisorConfig): Readonly<Record<string, unknown>> {
  return Object.fromEntries(Object.entries(config).filter(([key]) => !FREE_FIELDS.has(key as keyof HypervisorConfig)));
}

/** A configuration that no VM can be made from; InvalidArgument, in upstream's words. VMs that are no VMs need none of it. */
export function checkVmConfig({ type, kernel, image, initrd }: HypervisorConfig): void {
  if (type === 'mock' || type === 'remote') {
    return;
  }
  const wrong =
    kernel === '' ? 'Missing kernel path' : image === '' && initrd === '' ? 'Missing image and initrd path' : image !== '' && initrd !== '' ? 'Image and initrd path cannot be both set' : undefined;
  if (wrong !== undefined) {
    throw new KataError('InvalidArgument', `get a virtual machine from the factory: ${wrong}`, { hint: `set kernel, and either initrd or image, in [hypervisor.${type}]` });
  }
}

/** Why a base VM cannot become the VM of `spec`; undefined if it can. Names the first field that differs. */
export function mismatch(base: BaseConfig, spec: VmSpec): string | undefined {
  if (base.hypervisor.type !== spec.config.type) {
    return `hypervisor type does not match: ${base.hypervisor.type} vs. ${spec.config.type}`;
  }
  const [have, want] = [fixedPart(base.hypervisor), fixedPart(spec.config)];
  for (const key of Object.keys({ ...have, ...want }).sort()) {
    if (canonicalJson([have[key]]) !== canonicalJson([want[key]])) {
      return `hypervisor config does not match: ${key}`;
    }
  }
  if (canonicalJson(base.kernelParams) !== canonicalJson(spec.kernelParams)) {
    return 'kernel parameters of the agent do not match';
  }
  if (spec.selinuxLabel !== undefined) {
    return 'the virtual machine is to run with an SELinux label of its own';
  }
  return spec.devices.length > 0 ? 'the virtual machine wants devices at boot' : undefined;
}
