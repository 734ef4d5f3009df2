/** What a hypervisor needs of the host, by architecture and CPU vendor: the table of cli-and-config.md section 1.4. Pure. */
import { KataError } from '../../base/errors';
import type { HypervisorType } from '../../virtcontainers/config/types';
import type { CpuInfo } from './cpuinfo';

export interface ModuleNeed {
  readonly name: string;
  readonly required: boolean;
  /** Parameters that must have a value; on a VMM a mismatch of `unrestricted_guest` is tolerated, one of `nested` always. */
  readonly parameters?: Readonly<Record<string, string>>;
}

export interface Requirements {
  readonly flags: readonly string[];
  readonly modules: readonly ModuleNeed[];
  /** How it is tried out whether a VM can be made. */
  readonly probe: 'kvm' | 'acrn' | 'none';
}

/** What each CPU flag is for, in the words of who has to do something about it. */
export const FLAG_REMEDIES: Readonly<Record<string, string>> = {
  vmx: 'Intel VT-x is off or hidden: enable it in the firmware, or nested virtualization on the machine that hosts this one',
  svm: 'AMD-V is off or hidden: enable it in the firmware, or nested virtualization on the machine that hosts this one',
  lm: 'this CPU is not 64-bit: use another machine',
  sse4_1: 'this CPU lacks SSE4.1: use another machine, or a CPU model with SSE4.1 for this virtual machine',
};

const need = (name: string, required: boolean): ModuleNeed => ({ name, required });
const VHOST: readonly ModuleNeed[] = [need('vhost', true), need('vhost_net', true), need('vhost_vsock', false)];

function intel(hypervisor: HypervisorType, onVmm: boolean): Requirements {
  switch (hypervisor) {
    case 'acrn':
      return { flags: ['lm', 'sse4_1'], modules: [need('vhm_dev', false), need('vhost', false), need('vhost_net', false)], probe: 'acrn' };
    case 'mock':
      return { flags: ['vmx', 'lm', 'sse4_1'], modules: [], probe: 'none' };
    default: {
      // On bare metal a CPU without unrestricted guest is older than Westmere: too old.
      const kvmIntel: ModuleNeed = { name: 'kvm_intel', required: true, ...(onVmm ? {} : { parameters: { unrestricted_guest: 'Y' } }) };
      return { flags: ['vmx', 'lm', 'sse4_1'], modules: [need('kvm', true), kvmIntel, ...VHOST], probe: 'kvm' };
    }
  }
}

/** Unimplemented for a CPU or an architecture that upstream has no rules for. */
export function requirementsFor(arch: string, cpu: CpuInfo, hypervisor: HypervisorType): Requirements {
  if (hypervisor === 'remote') {
    return { flags: [], modules: [], probe: 'none' };
  }
  switch (arch) {
    case 'x64':
      if (cpu.vendor === 'intel') {
        return intel(hypervisor, cpu.onVmm);
      }
      if (cpu.vendor === 'amd') {
        return { flags: ['svm', 'lm', 'sse4_1'], modules: [need('kvm', true), need('kvm_amd', true), ...VHOST], probe: 'kvm' };
      }
      throw new KataError('Unimplemented', `Unknown CPU Type: vendor_id ${JSON.stringify(cpu.vendorId)} is neither GenuineIntel nor AuthenticAMD`);
    case 'arm64':
    case 'riscv64':
      return { flags: [], modules: [need('kvm', true), ...VHOST], probe: 'kvm' };
    case 'ppc64':
      return { flags: [], modules: [need('kvm', true), need('kvm_hv', true), need('vhost_vsock', false)], probe: 'kvm' };
    case 's390x':
      return { flags: [], modules: [need('kvm', true), need('vhost_vsock', false)], probe: 'kvm' };
    default:
      throw new KataError('Unimplemented', `no rules for the architecture ${arch}`);
  }
}
