/**
 * Chooses KVM or TCG by fact. A /dev/kvm that only opens proves nothing: software KVM (kvm_pvm) opens, makes VMs, and
 * a stock kernel crawls and dies in them. Without vmx or svm in the CPU there is no KVM for us.
 */
import { closeSync, constants, openSync, readFileSync } from 'node:fs';
import { errnoOf, KataError } from '../../../base/errors';
import type { HypervisorConfig } from '../../config/types';

/** What is looked at; replaced in tests. */
export interface AcceleratorProbe {
  /** Opens and closes /dev/kvm; throws as open(2) does. */
  readonly openKvm: () => void;
  /** Content of /proc/cpuinfo. */
  readonly cpuinfo: () => string;
  readonly arch: string;
}

export interface Accelerator {
  readonly kind: 'kvm' | 'tcg';
  /** One sentence on why it is not KVM; undefined with KVM. */
  readonly reason: string | undefined;
  /** This host is itself a virtual machine. */
  readonly nested: boolean;
  /** Frequency of the host's time stamp counter, kHz; 0 if unknown. Ticks at this rate in a TCG guest, too. */
  readonly tscKhz: number;
}

export const HOST_PROBE: AcceleratorProbe = {
  openKvm: () => { closeSync(openSync('/dev/kvm', constants.O_RDWR)); },
  cpuinfo: () => readFileSync('/proc/cpuinfo', 'utf8'),
  arch: process.arch,
};

/** Why KVM cannot be used, or undefined if it can. */
function kvmObstacle(probe: AcceleratorProbe, flags: ReadonlySet<string>): string | undefined {
  if (probe.arch === 'x64' && !flags.has('vmx') && !flags.has('svm')) {
    return 'the CPU has no vmx or svm flag in /proc/cpuinfo';
  }
  try {
    probe.openKvm();
    return undefined;
  } catch (reason) {
    return `/dev/kvm cannot be opened (${errnoOf(reason) ?? 'unknown error'})`;
  }
}

/** Decides by configuration and facts. FailedPrecondition where `accelerator = "kvm"` is asked for and cannot be had. */
export function chooseAccelerator(wanted: HypervisorConfig['accelerator'], probe: AcceleratorProbe = HOST_PROBE): Accelerator {
  const cpuinfo = probe.cpuinfo();
  const flags = new Set((/^flags\s*:\s*(.*)$/m.exec(cpuinfo)?.[1] ?? '').split(' '));
  const bogomips = Number(/^bogomips\s*:\s*([0-9.]+)/im.exec(cpuinfo)?.[1] ?? 0);
  const common = { nested: flags.has('hypervisor'), tscKhz: Math.round(bogomips * 500) };
  if (wanted === 'tcg') {
    return { ...common, kind: 'tcg', reason: 'accelerator = "tcg" is configured' };
  }
  const obstacle = kvmObstacle(probe, flags);
  if (obstacle === undefined) {
    return { ...common, kind: 'kvm', reason: undefined };
  }
  if (wanted === 'kvm') {
    throw new KataError('FailedPrecondition', `accelerator = "kvm" is configured, but ${obstacle}`, {
      hint: 'load kvm_intel or kvm_amd (in a VM: allow nested virtualisation), or set accelerator = "auto"',
    });
  }
  return { ...common, kind: 'tcg', reason: obstacle };
}

let warned = false;
let chosen: { readonly wanted: HypervisorConfig['accelerator']; readonly accelerator: Accelerator } | undefined;

/** The choice for this host, made once per process; `warn` hears the reason for TCG the first time. */
export function hostAccelerator(wanted: HypervisorConfig['accelerator'], warn?: (text: string) => void): Accelerator {
  if (chosen?.wanted !== wanted) {
    chosen = { wanted, accelerator: chooseAccelerator(wanted) };
    warned = false;
  }
  if (chosen.accelerator.reason !== undefined && warn !== undefined && !warned) {
    warned = true;
    warn(`virtual machines run without KVM, many times slower: ${chosen.accelerator.reason}`);
  }
  return chosen.accelerator;
}
