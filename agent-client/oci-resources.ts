import type { OciCpu, OciMemory, OciResources, OciThrottle } from '../base/oci-spec';
import type { LinuxBlockIO, LinuxCPU, LinuxMemory, LinuxResources, LinuxThrottleDevice } from '../gen/agent/oci';
import { i64, u32, u64 } from './wire-number';

/** Resource limits of a container, as part of its configuration or for an update. */
export function toWireResources(resources: OciResources): LinuxResources {
  const { memory, cpu, pids, blockIO, network } = resources;
  return {
    devices: (resources.devices ?? []).map(({ allow, type, major, minor, access }) => ({
      allow,
      type: type ?? '',
      major: i64(major, 'linux.resources.devices.major'),
      minor: i64(minor, 'linux.resources.devices.minor'),
      access: access ?? '',
    })),
    memory: memory === undefined ? undefined : toMemory(memory),
    cpu: cpu === undefined ? undefined : toCpu(cpu),
    pids: pids === undefined ? undefined : { limit: i64(pids.limit, 'linux.resources.pids.limit') },
    blockIo: blockIO === undefined ? undefined : toBlockIo(blockIO),
    hugepageLimits: (resources.hugepageLimits ?? []).map(({ pageSize, limit }) => ({
      pageSize,
      limit: u64(limit, 'linux.resources.hugepageLimits.limit'),
    })),
    network:
      network === undefined
        ? undefined
        : {
            classId: u32(network.classID, 'linux.resources.network.classID'),
            priorities: (network.priorities ?? []).map(({ name, priority }) => ({
              name,
              priority: u32(priority, 'linux.resources.network.priorities.priority'),
            })),
          },
  };
}

function toMemory(memory: OciMemory): LinuxMemory {
  return {
    limit: i64(memory.limit, 'linux.resources.memory.limit'),
    reservation: i64(memory.reservation, 'linux.resources.memory.reservation'),
    swap: i64(memory.swap, 'linux.resources.memory.swap'),
    kernel: i64(memory.kernel, 'linux.resources.memory.kernel'),
    kernelTcp: i64(memory.kernelTCP, 'linux.resources.memory.kernelTCP'),
    swappiness: u64(memory.swappiness, 'linux.resources.memory.swappiness'),
    disableOomKiller: memory.disableOOMKiller ?? false,
  };
}

function toCpu(cpu: OciCpu): LinuxCPU {
  return {
    shares: u64(cpu.shares, 'linux.resources.cpu.shares'),
    quota: i64(cpu.quota, 'linux.resources.cpu.quota'),
    period: u64(cpu.period, 'linux.resources.cpu.period'),
    realtimeRuntime: i64(cpu.realtimeRuntime, 'linux.resources.cpu.realtimeRuntime'),
    realtimePeriod: u64(cpu.realtimePeriod, 'linux.resources.cpu.realtimePeriod'),
    cpus: cpu.cpus ?? '',
    mems: cpu.mems ?? '',
  };
}

function toBlockIo(blockIo: NonNullable<OciResources['blockIO']>): LinuxBlockIO {
  const field = 'linux.resources.blockIO';
  return {
    weight: u32(blockIo.weight, `${field}.weight`),
    leafWeight: u32(blockIo.leafWeight, `${field}.leafWeight`),
    weightDevice: (blockIo.weightDevice ?? []).map(({ major, minor, weight, leafWeight }) => ({
      major: i64(major, `${field}.weightDevice.major`),
      minor: i64(minor, `${field}.weightDevice.minor`),
      weight: u32(weight, `${field}.weightDevice.weight`),
      leafWeight: u32(leafWeight, `${field}.weightDevice.leafWeight`),
    })),
    throttleReadBpsDevice: toThrottles(blockIo.throttleReadBpsDevice, `${field}.throttleReadBpsDevice`),
    throttleWriteBpsDevice: toThrottles(blockIo.throttleWriteBpsDevice, `${field}.throttleWriteBpsDevice`),
    throttleReadIopsDevice: toThrottles(blockIo.throttleReadIOPSDevice, `${field}.throttleReadIOPSDevice`),
    throttleWriteIopsDevice: toThrottles(blockIo.throttleWriteIOPSDevice, `${field}.throttleWriteIOPSDevice`),
  };
}

function toThrottles(devices: readonly OciThrottle[] | undefined, field: string): LinuxThrottleDevice[] {
  return (devices ?? []).map(({ major, minor, rate }) => ({
    major: i64(major, `${field}.major`),
    minor: i64(minor, `${field}.minor`),
    rate: u64(rate, `${field}.rate`),
  }));
}
