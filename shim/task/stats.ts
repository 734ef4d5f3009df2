/** The guest's cgroup figures as the message that the host's cgroup mode makes its collectors expect. */
import { existsSync } from 'node:fs';
import type { BlkioEntry, ContainerStats, MemoryData } from '../../agent-client/types';
import * as v1 from '../../gen/containerd/cgroups/v1';
import * as v2 from '../../gen/containerd/cgroups/v2';
import type { Any } from '../../gen/google/protobuf/any';

export type CgroupMode = 'v1' | 'v2';

/** `v2` only where the host has the unified hierarchy alone. */
export function hostCgroupMode(root = '/sys/fs/cgroup'): CgroupMode {
  return existsSync(`${root}/cgroup.controllers`) ? 'v2' : 'v1';
}

/** Never without cpu and memory: one message that a collector cannot read spoils the figures of all containers. */
export function metricsOf(stats: ContainerStats, mode: CgroupMode = hostCgroupMode()): Any {
  return mode === 'v2'
    ? { typeUrl: 'io.containerd.cgroups.v2.Metrics', value: v2.Metrics.encode(metricsV2(stats)).finish() }
    : { typeUrl: 'io.containerd.cgroups.v1.Metrics', value: v1.Metrics.encode(metricsV1(stats)).finish() };
}

/** The first of the names that the guest's memory.stat has: v1 and v2 guests name the same things differently. */
function memoryStat(stats: ContainerStats, ...names: readonly string[]): bigint {
  for (const name of names) {
    const value = stats.memory.stats.get(name);
    if (value !== undefined) {
      return value;
    }
  }
  return 0n;
}

export function metricsV2(stats: ContainerStats): v2.Metrics {
  const { cpu, memory, pids } = stats;
  const total = (name: string, ...old: readonly string[]): bigint => memoryStat(stats, `total_${name}`, name, ...old.flatMap((o) => [`total_${o}`, o]));
  return v2.Metrics.fromPartial({
    pids: { current: pids.current, limit: pids.limit },
    cpu: {
      usageUsec: cpu.totalNs / 1000n,
      userUsec: cpu.userNs / 1000n,
      systemUsec: cpu.kernelNs / 1000n,
      nrPeriods: cpu.periods,
      nrThrottled: cpu.throttledPeriods,
      throttledUsec: cpu.throttledNs / 1000n,
    },
    memory: {
      anon: total('anon', 'rss'),
      file: total('file', 'cache'),
      kernelStack: total('kernel_stack'),
      slab: total('slab'),
      sock: total('sock'),
      shmem: total('shmem'),
      fileMapped: total('file_mapped', 'mapped_file'),
      fileDirty: total('file_dirty', 'dirty'),
      fileWriteback: total('file_writeback', 'writeback'),
      anonThp: total('anon_thp', 'rss_huge'),
      inactiveAnon: total('inactive_anon'),
      activeAnon: total('active_anon'),
      inactiveFile: total('inactive_file'),
      activeFile: total('active_file'),
      unevictable: total('unevictable'),
      slabReclaimable: total('slab_reclaimable'),
      slabUnreclaimable: total('slab_unreclaimable'),
      pgfault: total('pgfault'),
      pgmajfault: total('pgmajfault'),
      workingsetRefault: total('workingset_refault'),
      workingsetActivate: total('workingset_activate'),
      workingsetNodereclaim: total('workingset_nodereclaim'),
      pgrefill: total('pgrefill'),
      pgscan: total('pgscan'),
      pgsteal: total('pgsteal'),
      pgactivate: total('pgactivate'),
      pgdeactivate: total('pgdeactivate'),
      pglazyfree: total('pglazyfree'),
      pglazyfreed: total('pglazyfreed'),
      thpFaultAlloc: total('thp_fault_alloc'),
      thpCollapseAlloc: total('thp_collapse_alloc'),
      usage: memory.usage.usage,
      usageLimit: memory.usage.limit,
      maxUsage: memory.usage.maxUsage,
      swapUsage: memory.swap.usage,
      swapLimit: memory.swap.limit,
      swapMaxUsage: memory.swap.maxUsage,
    },
    io: { usage: devicesOf(stats) },
    hugetlb: [...stats.hugetlb].map(([pagesize, h]) => ({ current: h.usage, max: h.maxUsage, failcnt: h.failcnt, pagesize })),
    network: [...stats.network],
  });
}

/** One entry per device, with what was read and written in bytes and in operations. */
function devicesOf(stats: ContainerStats): v2.IOEntry[] {
  const devices = new Map<string, v2.IOEntry>();
  const add = (entries: readonly BlkioEntry[], read: 'rbytes' | 'rios', write: 'wbytes' | 'wios'): void => {
    for (const { major, minor, op, value } of entries) {
      const key = `${String(major)}:${String(minor)}`;
      const device = devices.get(key) ?? v2.IOEntry.fromPartial({ major, minor });
      devices.set(key, device);
      const letter = op.charAt(0).toLowerCase();
      if (letter === 'r') {
        device[read] += value;
      } else if (letter === 'w') {
        device[write] += value;
      }
    }
  };
  add(stats.blkio.serviceBytes, 'rbytes', 'wbytes');
  add(stats.blkio.serviced, 'rios', 'wios');
  return [...devices.values()];
}

export function metricsV1(stats: ContainerStats): v1.Metrics {
  const { cpu, memory, pids, blkio } = stats;
  const own = (name: string, newName = name): bigint => memoryStat(stats, name, newName);
  const total = (name: string, newName = name): bigint => memoryStat(stats, `total_${name}`, name, newName);
  const entry = (data: MemoryData): v1.MemoryEntry => ({ limit: data.limit, usage: data.usage, max: data.maxUsage, failcnt: data.failcnt });
  return v1.Metrics.fromPartial({
    hugetlb: [...stats.hugetlb].map(([pagesize, h]) => ({ usage: h.usage, max: h.maxUsage, failcnt: h.failcnt, pagesize })),
    pids: { current: pids.current, limit: pids.limit },
    cpu: {
      usage: { total: cpu.totalNs, kernel: cpu.kernelNs, user: cpu.userNs, perCpu: [...cpu.perCpuNs] },
      throttling: { periods: cpu.periods, throttledPeriods: cpu.throttledPeriods, throttledTime: cpu.throttledNs },
    },
    memory: {
      cache: own('cache', 'file'),
      rss: own('rss', 'anon'),
      rssHuge: own('rss_huge', 'anon_thp'),
      mappedFile: own('mapped_file', 'file_mapped'),
      dirty: own('dirty', 'file_dirty'),
      writeback: own('writeback', 'file_writeback'),
      pgPgIn: own('pgpgin'),
      pgPgOut: own('pgpgout'),
      pgFault: own('pgfault'),
      pgMajFault: own('pgmajfault'),
      inactiveAnon: own('inactive_anon'),
      activeAnon: own('active_anon'),
      inactiveFile: own('inactive_file'),
      activeFile: own('active_file'),
      unevictable: own('unevictable'),
      hierarchicalMemoryLimit: memoryStat(stats, 'hierarchical_memory_limit'),
      hierarchicalSwapLimit: memoryStat(stats, 'hierarchical_memsw_limit'),
      totalCache: total('cache', 'file'),
      totalRss: total('rss', 'anon'),
      totalRssHuge: total('rss_huge', 'anon_thp'),
      totalMappedFile: total('mapped_file', 'file_mapped'),
      totalDirty: total('dirty', 'file_dirty'),
      totalWriteback: total('writeback', 'file_writeback'),
      totalPgPgIn: total('pgpgin'),
      totalPgPgOut: total('pgpgout'),
      totalPgFault: total('pgfault'),
      totalPgMajFault: total('pgmajfault'),
      totalInactiveAnon: total('inactive_anon'),
      totalActiveAnon: total('active_anon'),
      totalInactiveFile: total('inactive_file'),
      totalActiveFile: total('active_file'),
      totalUnevictable: total('unevictable'),
      usage: entry(memory.usage),
      swap: entry(memory.swap),
      kernel: entry(memory.kernel),
      kernelTcp: entry({ usage: 0n, maxUsage: 0n, failcnt: 0n, limit: 0n }),
    },
    blkio: {
      ioServiceBytesRecursive: blkioOf(blkio.serviceBytes),
      ioServicedRecursive: blkioOf(blkio.serviced),
      ioQueuedRecursive: blkioOf(blkio.queued),
      ioServiceTimeRecursive: blkioOf(blkio.serviceTime),
      ioWaitTimeRecursive: blkioOf(blkio.waitTime),
      ioMergedRecursive: blkioOf(blkio.merged),
      ioTimeRecursive: blkioOf(blkio.time),
      sectorsRecursive: blkioOf(blkio.sectors),
    },
    network: [...stats.network],
  });
}

function blkioOf(entries: readonly BlkioEntry[]): v1.BlkIOEntry[] {
  return entries.map(({ op, major, minor, value }) => ({ op, device: '', major, minor, value }));
}
