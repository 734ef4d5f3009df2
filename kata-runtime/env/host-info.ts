/** The host as `env` shows it. Nothing here throws: what cannot be found out is `<<unknown>>` or 0. */
import { existsSync, readFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { run } from '../../base/child';
import type { HypervisorType } from '../../virtcontainers/config/types';
import type { CpuInfo } from '../check/cpuinfo';
import type { CliHost } from '../host';
import { UNKNOWN } from '../version';

function readOr(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return '';
  }
}

/** Third word of /proc/version. */
export function kernelVersion(host: CliHost): string {
  return readOr(join(host.roots.proc, 'version')).split(/\s+/)[2] ?? UNKNOWN;
}

/** NAME and VERSION_ID of os-release. */
export function distro(host: CliHost): { readonly Name: string; readonly Version: string } {
  const file = host.roots.osRelease.find((path) => existsSync(path));
  const text = file === undefined ? '' : readOr(file);
  const field = (name: string): string => {
    const value = new RegExp(`^${name}=(.*)$`, 'm').exec(text)?.[1]?.trim();
    return value === undefined || value === '' ? UNKNOWN : value.replace(/^(["'])(.*)\1$/, '$2');
  };
  return { Name: field('NAME'), Version: field('VERSION_ID') };
}

/** From /proc/meminfo, in kB. */
export function memory(host: CliHost): { readonly Total: number; readonly Free: number; readonly Available: number } {
  const text = readOr(join(host.roots.proc, 'meminfo'));
  const field = (name: string): number => Number(new RegExp(`^${name}:\\s*(\\d+)`, 'm').exec(text)?.[1] ?? 0);
  return { Total: field('MemTotal'), Free: field('MemFree'), Available: field('MemAvailable') };
}

/** At most one, as upstream; null for none. */
export function guestProtections(host: CliHost, cpu: CpuInfo): string[] | null {
  const sys = host.roots.sys;
  const parameter = (module: string, name: string): string => readOr(join(sys, 'module', module, 'parameters', name)).trim();
  if (existsSync(join(sys, 'firmware/tdx_seam')) || cpu.flags?.has('tdx') === true || parameter('kvm_intel', 'tdx') === 'Y') {
    return ['tdx'];
  }
  if (['1', 'Y'].includes(parameter('kvm_amd', 'sev'))) {
    return ['sev'];
  }
  if (existsSync(join(sys, 'firmware/ultravisor'))) {
    return ['pef'];
  }
  return readOr(join(sys, 'firmware/uv/prot_virt_host')).trim() === '1' ? ['se'] : null;
}

const VERSION_TIMEOUT_MS = 5_000;

/** Trimmed output of `<path> --version`. */
export async function hypervisorVersion(path: string): Promise<string> {
  try {
    const text = (await run(path, ['--version'], { timeoutMs: VERSION_TIMEOUT_MS })).trim();
    return text === '' ? UNKNOWN : text;
  } catch {
    return UNKNOWN;
  }
}

/** Where the VMM's socket of a sandbox would be; `{ID}` stands for the sandbox. Unknown without root. */
export function socketPath(host: CliHost, type: HypervisorType, path: string): string {
  if (host.euid !== 0) {
    return UNKNOWN;
  }
  switch (type) {
    case 'clh':
      return join(host.roots.vm, '{ID}', 'clh.sock');
    case 'firecracker':
      return `/run/vc/${basename(path)}/{ID}/root/kata.hvsock`;
    default:
      return '';
  }
}

/** `/dev/vhost-vsock` is there. */
export function supportsVsocks(host: CliHost): boolean {
  return existsSync(join(host.roots.dev, 'vhost-vsock'));
}
