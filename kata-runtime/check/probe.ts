/** Looks at the host: modules, devices, and whether a VM can be made. */
import { closeSync, constants, existsSync, openSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { run } from '../../base/child';
import { describeError, errnoOf } from '../../base/errors';
import { errnoName, ioctl } from '../../base/syscalls';
import type { CliHost } from '../host';

const KVM_CREATE_VM = 0xae01;
const KVM_CHECK_EXTENSION = 0xae03;
const KVM_CAP_ARM_VM_IPA_SIZE = 165;
const ACRN_CREATE_VM = 0x43000010;
const ACRN_DESTROY_VM = 0x43000011;
const MODPROBE_TIMEOUT_MS = 10_000;

/** Loaded, or built into the kernel, or (as root) loadable and now loaded. */
export async function moduleThere(host: CliHost, name: string): Promise<boolean> {
  const folder = join(host.roots.sys, 'module', name);
  if (existsSync(folder)) {
    return true;
  }
  if (host.euid !== 0) {
    return false;
  }
  try {
    await run('modprobe', [name], { timeoutMs: MODPROBE_TIMEOUT_MS });
  } catch {
    return false;
  }
  // modprobe succeeds for a built-in one that has no folder because it has no parameters.
  return true;
}

/** The value of a module's parameter; undefined if it cannot be read. */
export function moduleParameter(host: CliHost, module: string, parameter: string): string | undefined {
  try {
    return readFileSync(join(host.roots.sys, 'module', module, 'parameters', parameter), 'utf8').trim();
  } catch {
    return undefined;
  }
}

export interface ProbeResult {
  readonly ok: boolean;
  /** Why not; '' when ok. */
  readonly reason: string;
  readonly remedy: string;
}

const OK: ProbeResult = { ok: true, reason: '', remedy: '' };

const OPEN_REMEDIES: Readonly<Record<string, string>> = {
  EACCES: 'run as root, or join the group that owns it',
  EPERM: 'the container or sandbox around this shell forbids the device: allow it there',
};

function openFailure(path: string, reason: unknown, module: string): ProbeResult {
  const errno = errnoOf(reason) ?? '';
  const remedy = errno === 'ENOENT' ? `load the module: modprobe ${module}` : (OPEN_REMEDIES[errno] ?? `look at ${path}`);
  return { ok: false, reason: `open ${path}: ${errno === '' ? describeError(reason) : errno}`, remedy };
}

/** Makes a VM with KVM and gives it back at once. On arm64 KVM must know the guest's address width too. */
export function probeKvm(host: CliHost): ProbeResult {
  const path = join(host.roots.dev, 'kvm');
  let fd: number;
  try {
    fd = openSync(path, constants.O_RDWR);
  } catch (reason) {
    return openFailure(path, reason, 'kvm');
  }
  try {
    const vm = ioctl(fd, KVM_CREATE_VM, 0);
    if (vm < 0) {
      const errno = errnoName(vm);
      const busy = errno === 'EBUSY';
      return {
        ok: false,
        reason: `create a VM with ${path}: ${busy ? 'another hypervisor running (EBUSY)' : errno}`,
        remedy: busy ? 'end the other hypervisor (VirtualBox, VMware) or unload its modules' : 'look at dmesg for what kvm says',
      };
    }
    closeSync(vm);
    if (host.arch === 'arm64' && ioctl(fd, KVM_CHECK_EXTENSION, KVM_CAP_ARM_VM_IPA_SIZE) <= 0) {
      return { ok: false, reason: 'KVM lacks the extension KVM_CAP_ARM_VM_IPA_SIZE', remedy: 'use a kernel from 4.20 on' };
    }
    return OK;
  } finally {
    closeSync(fd);
  }
}

/** Makes a VM with ACRN's service device and destroys it. */
export function probeAcrn(host: CliHost): ProbeResult {
  const path = [join(host.roots.dev, 'acrn_hsm'), join(host.roots.dev, 'acrn_vhm')].find((device) => existsSync(device)) ?? join(host.roots.dev, 'acrn_vhm');
  let fd: number;
  try {
    fd = openSync(path, constants.O_RDWR);
  } catch (reason) {
    return openFailure(path, reason, 'vhm_dev');
  }
  try {
    const made = ioctl(fd, ACRN_CREATE_VM, Buffer.alloc(64));
    if (made < 0) {
      return { ok: false, reason: `create a VM with ${path}: ${errnoName(made)}`, remedy: 'look at dmesg for what acrn says' };
    }
    ioctl(fd, ACRN_DESTROY_VM, null);
    return OK;
  } finally {
    closeSync(fd);
  }
}

/** Why the device cannot be opened for reading and writing, with the remedy where there is one; '' if it can. */
export function deviceObstacle(host: CliHost, name: string): string {
  try {
    closeSync(openSync(join(host.roots.dev, name), constants.O_RDWR));
    return '';
  } catch (reason) {
    const errno = errnoOf(reason) ?? describeError(reason);
    return errno in OPEN_REMEDIES ? `${errno} (${OPEN_REMEDIES[errno] ?? ''})` : errno;
  }
}

/** True if the device can be opened for reading and writing. */
export function deviceOpens(host: CliHost, name: string): boolean {
  return deviceObstacle(host, name) === '';
}
