import type { BlkioStatsEntry, MemoryData as WireMemoryData, NetworkStats, StatsContainerResponse } from '../gen/agent/stats';
import type { BlkioEntry, ContainerStats, MemoryData } from './types';

const NO_MEMORY: MemoryData = { usage: 0n, maxUsage: 0n, failcnt: 0n, limit: 0n };

/** The figures of the wire; what the agent left out is zero or empty. */
export function toContainerStats(answer: StatsContainerResponse): ContainerStats {
  const cgroup = answer.cgroupStats;
  const pids = cgroup?.pidsStats;
  return {
    cpu: toCpu(cgroup?.cpuStats),
    memory: toMemory(cgroup?.memoryStats),
    pids: { current: pids?.current ?? 0n, limit: pids?.limit ?? 0n },
    blkio: toBlkio(cgroup?.blkioStats),
    hugetlb: new Map(
      [...(cgroup?.hugetlbStats ?? [])].map(([size, { usage, maxUsage, failcnt }]) => [size, { usage, maxUsage, failcnt }]),
    ),
    network: answer.networkStats.map(toNetwork),
  };
}

type WireCgroup = NonNullable<StatsContainerResponse['cgroupStats']>;

function toCpu(stats: WireCgroup['cpuStats'] | undefined): ContainerStats['cpu'] {
  const usage = stats?.cpuUsage;
  const throttling = stats?.throttlingData;
  return {
    totalNs: usage?.totalUsage ?? 0n,
    perCpuNs: usage?.percpuUsage ?? [],
    kernelNs: usage?.usageInKernelmode ?? 0n,
    userNs: usage?.usageInUsermode ?? 0n,
    periods: throttling?.periods ?? 0n,
    throttledPeriods: throttling?.throttledPeriods ?? 0n,
    throttledNs: throttling?.throttledTime ?? 0n,
  };
}

function toMemory(stats: WireCgroup['memoryStats'] | undefined): ContainerStats['memory'] {
  return {
    cache: stats?.cache ?? 0n,
    usage: toMemoryData(stats?.usage),
    swap: toMemoryData(stats?.swapUsage),
    kernel: toMemoryData(stats?.kernelUsage),
    useHierarchy: stats?.useHierarchy ?? false,
    stats: stats?.stats ?? new Map<string, bigint>(),
  };
}

function toMemoryData(data: WireMemoryData | undefined): MemoryData {
  return data === undefined
    ? NO_MEMORY
    : { usage: data.usage, maxUsage: data.maxUsage, failcnt: data.failcnt, limit: data.limit };
}

function toBlkio(stats: WireCgroup['blkioStats'] | undefined): ContainerStats['blkio'] {
  const entries = (list: readonly BlkioStatsEntry[] | undefined): BlkioEntry[] =>
    (list ?? []).map(({ major, minor, op, value }) => ({ major, minor, op, value }));
  return {
    serviceBytes: entries(stats?.ioServiceBytesRecursive),
    serviced: entries(stats?.ioServicedRecursive),
    queued: entries(stats?.ioQueuedRecursive),
    serviceTime: entries(stats?.ioServiceTimeRecursive),
    waitTime: entries(stats?.ioWaitTimeRecursive),
    merged: entries(stats?.ioMergedRecursive),
    time: entries(stats?.ioTimeRecursive),
    sectors: entries(stats?.sectorsRecursive),
  };
}

function toNetwork(stats: NetworkStats): ContainerStats['network'][number] {
  const { name, rxBytes, rxPackets, rxErrors, rxDropped, txBytes, txPackets, txErrors, txDropped } = stats;
  return { name, rxBytes, rxPackets, rxErrors, rxDropped, txBytes, txPackets, txErrors, txDropped };
}
