/** What the host has; the bounds of default_vcpus, default_maxvcpus and default_maxmemory. */
import { readFileSync } from 'node:fs';
import { cpus, totalmem } from 'node:os';

export interface HostFacts {
  /** Online CPUs. */
  readonly cpus: number;
  readonly memoryMiB: number;
  /** As process.arch. */
  readonly arch: string;
  /** The kernel of the host is in FIPS mode: so must be the guest's. Absent: no. */
  readonly fips?: boolean;
}

/** Most vCPUs that a VMM can give a guest, by architecture. */
const MAX_VCPUS: Readonly<Record<string, number>> = { x64: 240, arm64: 123, ppc64: 128, s390x: 248 };

export function archMaxVcpus(arch: string): number {
  return MAX_VCPUS[arch] ?? 240;
}

/** Counts a kernel list of CPUs such as `0-3,8`. 0 for what is not one. */
export function countCpus(list: string): number {
  let count = 0;
  for (const part of list.trim().split(',')) {
    const range = /^(\d{1,7})(?:-(\d{1,7}))?$/.exec(part.trim());
    if (range === null) {
      return 0;
    }
    count += Number(range[2] ?? range[1]) - Number(range[1]) + 1;
  }
  return count;
}

let known: HostFacts | undefined;

/** The facts of this host, read once. The affinity of the process does not count: VMs outlive it. */
export function hostFacts(): HostFacts {
  known ??= { cpus: onlineCpus(), memoryMiB: Math.floor(totalmem() / 1048576), arch: process.arch, fips: inFipsMode() };
  return known;
}

function onlineCpus(): number {
  try {
    const count = countCpus(readFileSync('/sys/devices/system/cpu/online', 'utf8'));
    if (count > 0) {
      return count;
    }
  } catch {
    // no sysfs: ask libuv below
  }
  return Math.max(1, cpus().length);
}

/** Absent and unreadable mean no: kernels without the crypto sysctl have no such mode. */
function inFipsMode(): boolean {
  try {
    return readFileSync('/proc/sys/crypto/fips_enabled', 'utf8').trim() === '1';
  } catch {
    return false;
  }
}
