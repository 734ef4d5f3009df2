/** The first CPU of /proc/cpuinfo. */

export type CpuVendor = 'intel' | 'amd' | 'arm' | 'unknown';

export interface CpuInfo {
  readonly vendor: CpuVendor;
  /** `vendor_id` as it is written; '' if there is none. */
  readonly vendorId: string;
  readonly model: string;
  /** Undefined: the block has no `flags` line (only x86 has one). */
  readonly flags: ReadonlySet<string> | undefined;
  /** Logical CPUs. */
  readonly count: number;
  /** We are in a virtual machine already (x86 only). */
  readonly onVmm: boolean;
}

/** Text of /proc/cpuinfo, whatever the architecture; never throws. */
export function parseCpuinfo(text: string): CpuInfo {
  const block = text.split(/\n\s*\n/)[0] ?? '';
  const field = (name: string): string | undefined => new RegExp(`^${name}[ \\t]*:[ \\t]*(.*)$`, 'm').exec(block)?.[1]?.trim();
  const flagsText = field('flags');
  const flags = flagsText === undefined ? undefined : new Set(flagsText.split(/\s+/).filter((flag) => flag !== ''));
  const implementer = field('CPU implementer');
  const arm = implementer !== undefined;
  const vendorId = arm ? (implementer === '0x41' ? 'ARM Limited' : '3rd Party Limited') : (field('vendor_id') ?? '');
  const architecture = field('CPU architecture');
  return {
    vendor: arm ? 'arm' : vendorId === 'GenuineIntel' ? 'intel' : vendorId === 'AuthenticAMD' ? 'amd' : 'unknown',
    vendorId,
    model: arm ? (architecture === undefined ? '' : `v${architecture}`) : (field('model name') ?? ''),
    flags,
    count: (text.match(/^processor\s*:/gm) ?? []).length,
    onVmm: flags?.has('hypervisor') === true,
  };
}
