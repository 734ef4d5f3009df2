/** Checked values to the whole configuration: defaults and clamps. Pure; nothing of the file system is looked at. */
import { isPattern, mergeParams } from './annotation-values';
import { HYPERVISOR_FIELDS, HYPERVISOR_KEYS } from './hypervisor-keys';
import { archMaxVcpus, type HostFacts } from './host-facts';
import type { GivenValue, Layers } from './layers';
import { defaultOf, fieldOf, isZero, LETTER, type ConfigValue, type KeySpec } from './schema';
import { AGENT_FIELDS, AGENT_KEYS, FACTORY_FIELDS, FACTORY_KEYS, RUNTIME_FIELDS, RUNTIME_KEYS } from './section-keys';
import type { AgentConfig, FactoryConfig, HypervisorConfig, HypervisorType, RuntimeConfig, RuntimeSection } from './types';

type Mutable<T> = { -readonly [K in keyof T]: T[K] };
const MAX_BRIDGES = 5;
const MAX_PCIE_PORTS = 16;
const MIN_MEMORY_MIB = 256;
const DEFAULT_MEMORY_MIB = 2048;

/** Puts the configuration together from what the files say. */
export function completeConfig(layers: Layers, path: string, dropIns: readonly string[], host: HostFacts): RuntimeConfig {
  const { type } = layers;
  const warnings = [...layers.warnings];
  const hypervisor = section(HYPERVISOR_KEYS, HYPERVISOR_FIELDS, layers.hypervisor, type) as unknown as HypervisorConfig;
  for (const pattern of hypervisor.enableAnnotations.filter((one) => !isPattern(one))) {
    warnings.push(`hypervisor.${type}.enable_annotations (${layers.hypervisor.get('enable_annotations')?.where ?? path}): ${JSON.stringify(pattern)} is no regular expression, it matches nothing`);
  }
  const factory = section(FACTORY_KEYS, FACTORY_FIELDS, layers.factory, type) as unknown as FactoryConfig;
  if (factory.enableTemplate && hypervisor.sharedFs.startsWith('virtio-fs')) {
    warnings.push(`factory.enable_template with shared_fs = "${hypervisor.sharedFs}": each sandbox gets a copy of the template's memory, which costs time and memory; shared_fs = "virtio-9p", or "none" with a block device snapshotter, shares it`);
  }
  const runtime = section(RUNTIME_KEYS, RUNTIME_FIELDS, layers.runtime, type) as unknown as RuntimeSection;
  return {
    path,
    dropIns,
    hypervisor: normaliseHypervisor({ ...hypervisor, type }, host, warnings),
    agent: section(AGENT_KEYS, AGENT_FIELDS, layers.agent, type) as unknown as AgentConfig,
    factory,
    runtime: { ...runtime, internetworkingModel: (runtime.internetworkingModel as string) === 'default' ? 'tcfilter' : runtime.internetworkingModel },
    sources: layers.sources,
    warnings,
  };
}

/** Keys to fields; what has no field goes to `other` by its key, if it was given or has a default that says something. */
function section(keys: readonly KeySpec[], fields: ReadonlySet<string>, given: ReadonlyMap<string, GivenValue>, type: HypervisorType): Record<string, unknown> {
  const out: Record<string, unknown> = {};
  const other: Record<string, unknown> = {};
  const whole = keys.every((spec) => fields.has(fieldOf(spec.key)));
  for (const spec of keys) {
    const set = given.get(spec.key)?.value;
    const value = set === undefined || isZero(set) ? defaultOf(spec, type) : set;
    const field = fieldOf(spec.key);
    if (fields.has(field)) {
      out[field] = value;
    } else if (set !== undefined || (!isZero(value) && isReadBy(spec, type))) {
      other[spec.key] = value;
    }
  }
  return whole ? out : { ...out, other };
}

function isReadBy(spec: KeySpec, type: HypervisorType): boolean {
  return spec.readBy === 'all' || spec.readBy === '' || spec.readBy.includes(LETTER[type]);
}

/** Replaces one key of a section, in its field or in `other`. For annotations. */
export function replaceKey<T extends object>(part: T, fields: ReadonlySet<string>, key: string, value: ConfigValue): T {
  const field = fieldOf(key);
  if (fields.has(field)) {
    return { ...part, [field]: value };
  }
  const other = 'other' in part && typeof part.other === 'object' ? part.other : {};
  return { ...part, other: { ...other, [key]: value } };
}

/** Limits by host, architecture and VMM. Idempotent: also run after annotations. Each correction is one warning. */
export function normaliseHypervisor(given: HypervisorConfig, host: HostFacts, warnings: string[]): HypervisorConfig {
  const hv: Mutable<HypervisorConfig> = { ...given };
  sizeCpus(hv, host, warnings);
  sizeMemory(hv, host, warnings);
  if (host.fips === true) {
    // Last of all, so that neither file nor annotation takes it away.
    hv.kernelParams = mergeParams(hv.kernelParams, 'fips=1');
  }
  if (hv.pcieRootPort > MAX_PCIE_PORTS) {
    warnings.push(`hypervisor.${hv.type}.pcie_root_port = ${String(hv.pcieRootPort)} is more than ${String(MAX_PCIE_PORTS)}: ${String(MAX_PCIE_PORTS)} is used`);
    hv.pcieRootPort = MAX_PCIE_PORTS;
  }
  if (hv.defaultBridges > MAX_BRIDGES) {
    warnings.push(`hypervisor.${hv.type}.default_bridges = ${String(hv.defaultBridges)} is more than ${String(MAX_BRIDGES)}: ${String(MAX_BRIDGES)} is used`);
    hv.defaultBridges = MAX_BRIDGES;
  }
  hv.machineAccelerators = hv.machineAccelerators
    .split(',')
    .map((item) => item.trim())
    .filter((item) => item !== '')
    .join(',');
  if (hv.machineType === 'microvm' || (host.arch === 'arm64' && hv.type === 'qemu' && hv.firmware === '' && hv.pflashes.length === 0)) {
    hv.disableImageNvdimm = true;
  }
  if (hv.machineType === 's390-ccw-virtio' && hv.blockDeviceDriver === 'virtio-blk') {
    hv.blockDeviceDriver = 'virtio-blk-ccw';
  }
  if (hv.type === 'clh' || hv.type === 'firecracker') {
    hv.disableVhostNet = true;
  }
  if (hv.type === 'firecracker') {
    hv.disableBlockDeviceUse = false;
  }
  hv.other = limitOthers(hv, warnings);
  return hv;
}

function sizeCpus(hv: Mutable<HypervisorConfig>, host: HostFacts, warnings: string[]): void {
  if (hv.type === 'remote') {
    return;
  }
  const archMax = archMaxVcpus(host.arch);
  const most = Math.min(host.cpus, archMax);
  if (hv.defaultVcpus < 0) {
    hv.defaultVcpus = most;
  } else if (hv.defaultVcpus > most) {
    warnings.push(`hypervisor.${hv.type}.default_vcpus = ${String(hv.defaultVcpus)} is more than the host has: ${String(most)} is used`);
    hv.defaultVcpus = most;
  }
  hv.defaultMaxvcpus = hv.defaultMaxvcpus === 0 ? most : Math.min(hv.defaultMaxvcpus, most);
  const boot = Math.ceil(hv.defaultVcpus);
  if (hv.confidentialGuest) {
    hv.defaultMaxvcpus = boot;
  } else if (hv.defaultMaxvcpus < boot) {
    warnings.push(`hypervisor.${hv.type}.default_maxvcpus = ${String(hv.defaultMaxvcpus)} is less than default_vcpus: ${String(boot)} is used`);
    hv.defaultMaxvcpus = boot;
  }
}

function sizeMemory(hv: Mutable<HypervisorConfig>, host: HostFacts, warnings: string[]): void {
  if (hv.type === 'remote') {
    return;
  }
  if (hv.defaultMemory < MIN_MEMORY_MIB) {
    warnings.push(`hypervisor.${hv.type}.default_memory = ${String(hv.defaultMemory)} is less than ${String(MIN_MEMORY_MIB)} MiB: ${String(DEFAULT_MEMORY_MIB)} is used`);
    hv.defaultMemory = DEFAULT_MEMORY_MIB;
  }
  if (hv.defaultMaxmemory === 0 || hv.defaultMaxmemory > host.memoryMiB) {
    hv.defaultMaxmemory = host.memoryMiB;
  }
}

/** Rules of keys without a field: log level, PCIe ports, rate limiter bursts. */
function limitOthers(hv: HypervisorConfig, warnings: string[]): Readonly<Record<string, unknown>> {
  const other: Record<string, unknown> = { ...hv.other };
  const cap = (key: string, most: number): void => {
    const value = other[key];
    if (typeof value === 'number' && value > most) {
      other[key] = most;
    }
  };
  cap('hypervisor_loglevel', 3);
  cap('pcie_switch_port', MAX_PCIE_PORTS);
  for (const what of ['disk_rate_limiter_bw', 'disk_rate_limiter_ops', 'net_rate_limiter_bw', 'net_rate_limiter_ops']) {
    const burst = `${what}_one_time_burst`;
    if (Number(other[burst] ?? 0) !== 0 && Number(other[`${what}_max_rate`] ?? 0) === 0) {
      warnings.push(`hypervisor.${hv.type}.${burst} has no effect without ${what}_max_rate`);
      other[burst] = 0;
    }
  }
  return other;
}
