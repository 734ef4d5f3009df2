/** How long a VM and its agent may take, where the configuration does not say: emulation is many times slower than KVM. */
import type { Vm } from '../hypervisor/types';

const BOOT_MS = { kvm: 10_000, other: 60_000 };
const DIAL_MS = { kvm: 30_000, other: 60_000 };

/** A configured time in seconds, or the default for the VM's accelerator. Milliseconds. */
function timeOutMs(vm: Vm, seconds: number, defaults: typeof BOOT_MS): number {
  return seconds > 0 ? seconds * 1000 : vm.facts().accelerator === 'kvm' ? defaults.kvm : defaults.other;
}

/** For a guest to be up (`boot_timeout`). */
export function bootTimeoutMs(vm: Vm, seconds: number): number {
  return timeOutMs(vm, seconds, BOOT_MS);
}

/**
 * For an agent to be there, and once more to answer its first request (`dial_timeout`). A resumed one answers in a moment, but
 * many may be resumed at once.
 */
export function dialTimeoutMs(vm: Vm, seconds = 0): number {
  return timeOutMs(vm, seconds, DIAL_MS);
}
