import type { BlkioStatsEntry, CgroupStats, HugetlbStats, MemoryData } from '../../../gen/agent/stats';
import { HUGE_PAGE_SIZES, toCounter, toTable } from './figures';

/** Reads a file of a controller of one cgroup; undefined where it is not there. */
export type ReadV1 = (controller: string, file: string) => string | undefined;

/** Clock ticks of cpuacct.stat, in nanoseconds. */
const TICK_NS = 10_000_000n;

function memoryData(read: ReadV1, prefix: string): MemoryData {
  return {
    usage: toCounter(read('memory', `${prefix}.usage_in_bytes`)),
    maxUsage: toCounter(read('memory', `${prefix}.max_usage_in_bytes`)),
    failcnt: toCounter(read('memory', `${prefix}.failcnt`)),
    limit: toCounter(read('memory', `${prefix}.limit_in_bytes`)),
  };
}

/** `major:minor [operation] value` lines. */
export function blkioEntriesFrom(text: string | undefined): BlkioStatsEntry[] {
  return (text ?? '').split('\n').flatMap((line) => {
    const match = /^(\d+):(\d+) (?:(\S+) )?(\d+)$/.exec(line.trim());
    if (match === null) {
      return [];
    }
    return [{ major: toCounter(match[1]), minor: toCounter(match[2]), op: match[3] ?? '', value: toCounter(match[4]) }];
  });
}

/** A file of the throttling layer, or of the scheduler where only that counts. */
function blkio(read: ReadV1, name: string): BlkioStatsEntry[] {
  const entries = blkioEntriesFrom(read('blkio', `blkio.${name}_recursive`));
  return entries.length > 0 ? entries : blkioEntriesFrom(read('blkio', `blkio.throttle.${name}`));
}

function hugetlb(read: ReadV1): Map<string, HugetlbStats> {
  const stats = new Map<string, HugetlbStats>();
  for (const size of HUGE_PAGE_SIZES) {
    const usage = read('hugetlb', `hugetlb.${size}.usage_in_bytes`);
    if (usage !== undefined) {
      stats.set(size, {
        usage: toCounter(usage),
        maxUsage: toCounter(read('hugetlb', `hugetlb.${size}.max_usage_in_bytes`)),
        failcnt: toCounter(read('hugetlb', `hugetlb.${size}.failcnt`)),
      });
    }
  }
  return stats;
}

/** Figures of a cgroup of the v1 hierarchies. */
export function statsV1(read: ReadV1): CgroupStats {
  const cpu = toTable(read('cpuacct', 'cpuacct.stat'));
  const throttling = toTable(read('cpu', 'cpu.stat'));
  const memory = toTable(read('memory', 'memory.stat'));
  const percpu = (read('cpuacct', 'cpuacct.usage_percpu') ?? '').split(/\s+/).filter((word) => word !== '');
  return {
    cpuStats: {
      cpuUsage: {
        totalUsage: toCounter(read('cpuacct', 'cpuacct.usage')),
        percpuUsage: percpu.map((word) => toCounter(word)),
        usageInKernelmode: (cpu.get('system') ?? 0n) * TICK_NS,
        usageInUsermode: (cpu.get('user') ?? 0n) * TICK_NS,
      },
      throttlingData: {
        periods: throttling.get('nr_periods') ?? 0n,
        throttledPeriods: throttling.get('nr_throttled') ?? 0n,
        throttledTime: throttling.get('throttled_time') ?? 0n,
      },
    },
    memoryStats: {
      cache: memory.get('cache') ?? 0n,
      usage: memoryData(read, 'memory'),
      swapUsage: memoryData(read, 'memory.memsw'),
      kernelUsage: memoryData(read, 'memory.kmem'),
      useHierarchy: read('memory', 'memory.use_hierarchy') === '1',
      stats: memory,
    },
    pidsStats: { current: toCounter(read('pids', 'pids.current')), limit: toCounter(read('pids', 'pids.max')) },
    blkioStats: {
      ioServiceBytesRecursive: blkio(read, 'io_service_bytes'),
      ioServicedRecursive: blkio(read, 'io_serviced'),
      ioQueuedRecursive: blkioEntriesFrom(read('blkio', 'blkio.io_queued_recursive')),
      ioServiceTimeRecursive: blkioEntriesFrom(read('blkio', 'blkio.io_service_time_recursive')),
      ioWaitTimeRecursive: blkioEntriesFrom(read('blkio', 'blkio.io_wait_time_recursive')),
      ioMergedRecursive: blkioEntriesFrom(read('blkio', 'blkio.io_merged_recursive')),
      ioTimeRecursive: blkioEntriesFrom(read('blkio', 'blkio.time_recursive')),
      sectorsRecursive: blkioEntriesFrom(read('blkio', 'blkio.sectors_recursive')),
    },
    hugetlbStats: hugetlb(read),
  };
}
