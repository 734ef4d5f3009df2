/** Everything about one QEMU that is known before its command line is written: the spec plus facts of the host. */
import type { VmSpec } from '../types';

/** Where the agent is reached. */
export type AgentChannel = { readonly kind: 'vsock'; readonly cid: number; readonly fd: number } | { readonly kind: 'serial' };

export interface QemuPlan {
  readonly spec: VmSpec;
  readonly accelerator: 'kvm' | 'tcg';
  readonly tscKhz: number;
  /** PCI devices without the modern interface (upstream: in nested virtualisation with KVM). */
  readonly disableModern: boolean;
  readonly uuid: string;
  readonly channel: AgentChannel;
  /** Size of `config.image`; 0 without one. */
  readonly imageBytes: number;
  /** Suffix of ids that upstream makes random. */
  readonly token: string;
}

/** Numbers descriptors as the child sees them: the first is 3. */
export class InheritedFds {
  private readonly list: number[] = [];

  /** The number in the child of our descriptor. */
  add(fd: number): number {
    this.list.push(fd);
    return this.list.length + 2;
  }

  /** Ours, in the order of the child's numbers. */
  get all(): readonly number[] {
    return this.list;
  }
}

export function isMicrovm(plan: QemuPlan): boolean {
  return plan.spec.config.machineType === 'microvm';
}

/** The image is a persistent memory device (else a virtio disk). */
export function imageIsNvdimm({ spec: { config } }: QemuPlan): boolean {
  return config.image !== '' && !config.disableImageNvdimm && !config.confidentialGuest;
}

/**
 * The console is an ISA serial port: asked for, or under TCG, or for an initrd guest. There virtio-console is often a
 * module, and a kernel that finds no init would die without a word.
 */
export function hasSerialConsole(plan: QemuPlan): boolean {
  const { config } = plan.spec;
  return config.useLegacySerial || plan.accelerator === 'tcg' || config.initrd !== '';
}

export function hasDebugConsole(plan: QemuPlan): boolean {
  const { spec } = plan;
  return [...spec.kernelParams, ...spec.config.kernelParams.split(/\s+/)].includes('agent.debug_console');
}
