/** The ways in which this runtime can run sandboxes on this host, best first. */
import { accessSync, constants, existsSync } from 'node:fs';
import { join } from 'node:path';
import type { RuntimeConfig } from '../../virtcontainers/config/types';
import type { CliHost } from '../host';
import { deviceOpens } from './probe';
import type { KvmFact } from './capability';

export interface WorkingWay {
  readonly name: string;
  readonly works: boolean;
  readonly text: string;
}

const QEMU_OF_ARCH: Readonly<Record<string, string>> = { x64: 'qemu-system-x86_64', arm64: 'qemu-system-aarch64', ppc64: 'qemu-system-ppc64', s390x: 'qemu-system-s390x', riscv64: 'qemu-system-riscv64' };

function executable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}

/** A program by name in PATH and where distributions and kata-deploy put it. */
export function findProgram(host: CliHost, name: string): string | undefined {
  const folders = [...(host.env['PATH'] ?? '').split(':'), '/usr/local/bin', '/usr/bin', '/opt/kata/bin', '/usr/libexec'];
  return folders.filter((folder) => folder !== '').map((folder) => join(folder, name)).find(executable);
}

/** Each way says why it works or what is missing. Never throws. */
export async function whatWorks(host: CliHost, kvm: KvmFact, config: RuntimeConfig | undefined): Promise<WorkingWay[]> {
  const configured = config?.hypervisor.type === 'qemu' && existsSync(config.hypervisor.path) ? config.hypervisor.path : undefined;
  const qemu = configured ?? findProgram(host, QEMU_OF_ARCH[host.arch] ?? 'qemu-system-x86_64');
  const channel = deviceOpens(host, 'vhost-vsock') ? 'agent over vsock' : 'agent over virtio-serial (no /dev/vhost-vsock)';
  const qemuWay = (name: string, works: boolean, text: string): WorkingWay => ({ name, works: works && qemu !== undefined, text: qemu === undefined ? 'QEMU is not installed: install qemu-system-x86 (Debian) or qemu-kvm' : text });
  const usable = kvm.state === 'usable';
  return Promise.resolve([
    qemuWay('qemu with KVM', usable, usable ? `${qemu ?? ''}, ${channel}` : kvm.text),
    qemuWay('qemu with TCG (software emulation, slow)', true, `${qemu ?? ''}, ${channel}; chosen by itself where KVM is not usable, or with accelerator = "tcg"`),
    { name: 'mock (containers on the host, no isolation; for tests)', works: findProgram(host, 'crun') !== undefined, text: findProgram(host, 'crun') === undefined ? 'crun is not installed' : 'with [hypervisor.mock] in the configuration' },
  ]);
}
