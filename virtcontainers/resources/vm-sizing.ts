/**
 * How large a VM is: at boot (with static_sandbox_resource_mgmt also for the workload), and as containers come and go.
 * Pure. Upstream's rules, with fractions of a CPU added up before they are rounded (as 4.1).
 */
import type { OciInteger, OciResources } from '../../base/oci-spec';
import type { ContainerType } from '../bundle/container-type';
import type { RuntimeConfig } from '../config/types';

export interface VmSize {
  /** Whole vCPUs, at least 1. */
  readonly vcpus: number;
  readonly memoryMiB: number;
}

/** What the containers of a sandbox ask for; 0: they set no limit. */
export interface Workload {
  /** CPUs, with fraction. */
  readonly cpus: number;
  readonly memoryMiB: number;
  /** Annotations that could not be read and count as 0; one sentence each. */
  readonly warnings: readonly string[];
}

/** What sizing reads of a container. Stopped containers do not belong in the list. */
export interface ContainerDemand {
  readonly resources: OciResources | undefined;
}

const MIB = 1048576;
/** Limits from here on are the kernel's way to say "none" (9223372036854771712). */
const NO_LIMIT_BYTES = 2 ** 62;

/** CPUs of a quota (microseconds per period): 0 if there is none (-1) or a part is missing. */
export function cpusOfQuota(quota: OciInteger | undefined, period: OciInteger | undefined): number {
  const [q, p] = [Number(quota ?? 0), Number(period ?? 0)];
  return q > 0 && p > 0 ? q / p : 0;
}

/** Bytes of a limit: 0 if it is absent, negative or the kernel's figure for none. */
export function limitBytes(limit: OciInteger | undefined): number {
  const bytes = Number(limit ?? 0);
  return bytes > 0 && bytes < NO_LIMIT_BYTES ? bytes : 0;
}

/** CPUs named by a cpuset list such as `0-3,8`; a part that is not one is left out. */
export function cpusetMembers(list: string): ReadonlySet<number> {
  const members = new Set<number>();
  for (const part of list.split(',')) {
    const range = /^\s*(\d{1,5})(?:-(\d{1,5}))?\s*$/.exec(part);
    if (range !== null) {
      const first = Number(range[1]);
      for (let cpu = first; cpu <= Math.min(Number(range[2] ?? range[1]), first + 8191); cpu++) {
        members.add(cpu);
      }
    }
  }
  return members;
}

/**
 * The workload of a whole sandbox as it is known before boot: a pod's from the annotations of its pause container, a
 * single container's from its own limits, none for a container of a pod.
 */
export function sandboxWorkload(type: ContainerType, annotations: Readonly<Record<string, string>> | undefined, resources: OciResources | undefined): Workload {
  if (type === 'pod_container') {
    return { cpus: 0, memoryMiB: 0, warnings: [] };
  }
  if (type === 'single_container') {
    const memoryMiB = Math.floor(limitBytes(resources?.memory?.limit) / MIB);
    return { cpus: cpusOfQuota(resources?.cpu?.quota, resources?.cpu?.period), memoryMiB, warnings: [] };
  }
  const warnings: string[] = [];
  const read = (name: string): number => {
    const text = annotations?.[`io.kubernetes.cri.sandbox-${name}`];
    if (text === undefined) {
      return 0;
    }
    const value = /^[+-]?\d{1,19}$/.test(text) ? Number(text) : Number.NaN;
    if (Number.isNaN(value)) {
      warnings.push(`annotation io.kubernetes.cri.sandbox-${name}: ${JSON.stringify(text.slice(0, 80))} is no integer and counts as 0`);
      return 0;
    }
    return value;
  };
  const [period, quota, shares, memory] = [read('cpu-period'), read('cpu-quota'), read('cpu-shares'), read('memory')];
  const byQuota = cpusOfQuota(quota, period);
  const cpus = byQuota === 0 && quota < 0 && shares > 0 ? Math.ceil(shares / 1024) : byQuota;
  return { cpus, memoryMiB: Math.floor(limitBytes(memory) / MIB), warnings };
}

/** The size at boot, and the most vCPUs that the VM may ever have. */
export function bootSize(config: RuntimeConfig, workload: Pick<Workload, 'cpus' | 'memoryMiB'>): VmSize & { readonly maxVcpus: number } {
  const { defaultVcpus, defaultMemory, defaultMaxvcpus } = config.hypervisor;
  if (!config.runtime.staticSandboxResourceMgmt) {
    return { vcpus: wholeCpus(defaultVcpus), memoryMiB: defaultMemory, maxVcpus: Math.max(defaultMaxvcpus, wholeCpus(defaultVcpus)) };
  }
  const vcpus = wholeCpus(defaultVcpus + workload.cpus);
  return { vcpus, memoryMiB: defaultMemory + workload.memoryMiB, maxVcpus: vcpus };
}

/**
 * The size that the VM should have for these containers, within default_maxvcpus and default_maxmemory. With static
 * management `undefined`: the VM stays as it booted. Without any CPU quota the CPUs of the cpusets count, each once.
 */
export function grownSize(config: RuntimeConfig, containers: Iterable<ContainerDemand>): VmSize | undefined {
  if (config.runtime.staticSandboxResourceMgmt) {
    return undefined;
  }
  const { defaultVcpus, defaultMemory, defaultMaxvcpus, defaultMaxmemory } = config.hypervisor;
  const cpuset = new Set<number>();
  let cpus = 0;
  let bytes = 0;
  for (const { resources } of containers) {
    cpus += cpusOfQuota(resources?.cpu?.quota, resources?.cpu?.period);
    bytes += limitBytes(resources?.memory?.limit);
    for (const huge of resources?.hugepageLimits ?? []) {
      bytes += limitBytes(huge.limit);
    }
    for (const cpu of cpusetMembers(resources?.cpu?.cpus ?? '')) {
      cpuset.add(cpu);
    }
  }
  const wanted = wholeCpus(defaultVcpus + (cpus === 0 ? cpuset.size : cpus));
  return {
    vcpus: Math.min(wanted, Math.max(defaultMaxvcpus, wholeCpus(defaultVcpus))),
    memoryMiB: Math.min(defaultMemory + Math.ceil(bytes / MIB), Math.max(defaultMaxmemory, defaultMemory)),
  };
}

/** Rounded up, at least 1; what a float sum is too large by (2.0000000000000004) does not count. */
function wholeCpus(cpus: number): number {
  return Math.max(1, Math.ceil(Math.round(cpus * 1000) / 1000));
}
