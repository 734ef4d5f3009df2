import type { BlkioStatsEntry, CgroupStats, HugetlbStats } from '../../../gen/agent/stats';
import { HUGE_PAGE_SIZES, NO_LIMIT, toCounter, toTable } from './figures';

/** Reads a file of one cgroup; undefined where it is not there. */
export type ReadV2 = (file: string) => string | undefined;

const MICRO = 1000n;

/** What v1 calls a figure that v2 has under another name: host tools look for those. */
const V1_NAMES: Readonly<Record<string, string>> = { cache: 'file', rss: 'anon', mapped_file: 'file_mapped', dirty: 'file_dirty', writeback: 'file_writeback' };

/** Entries of io.stat: bytes and operations of reads, writes and discards. */
export function ioEntriesFrom(text: string | undefined): { bytes: BlkioStatsEntry[]; operations: BlkioStatsEntry[] } {
  const bytes: BlkioStatsEntry[] = [];
  const operations: BlkioStatsEntry[] = [];
  for (const line of (text ?? '').split('\n')) {
    const match = /^(\d+):(\d+) (.*)$/.exec(line.trim());
    if (match === null) {
      continue;
    }
    const [major, minor] = [toCounter(match[1]), toCounter(match[2])];
    const figures = new Map((match[3] ?? '').split(' ').map((word) => [word.slice(0, word.indexOf('=')), word.slice(word.indexOf('=') + 1)]));
    for (const [op, byteKey, countKey] of [['Read', 'rbytes', 'rios'], ['Write', 'wbytes', 'wios'], ['Discard', 'dbytes', 'dios']] as const) {
      bytes.push({ major, minor, op, value: toCounter(figures.get(byteKey)) });
      operations.push({ major, minor, op, value: toCounter(figures.get(countKey)) });
    }
  }
  return { bytes, operations };
}

function hugetlb(read: ReadV2): Map<string, HugetlbStats> {
  const stats = new Map<string, HugetlbStats>();
  for (const size of HUGE_PAGE_SIZES) {
    const usage = read(`hugetlb.${size}.current`);
    if (usage !== undefined) {
      const failcnt = toTable(read(`hugetlb.${size}.events`)).get('max') ?? 0n;
      stats.set(size, { usage: toCounter(usage), maxUsage: 0n, failcnt });
    }
  }
  return stats;
}

/**
 * memory.stat may be two seconds old, memory.current is of now. Files whose pages have gone meanwhile would leave a working
 * set (usage less inactive file memory) of zero, which those who watch pods take for one that has ended: there is no more
 * inactive file memory than usage leaves beside what is no file.
 */
function boundInactiveFile(memory: Map<string, bigint>, usage: bigint): void {
  const inactive = memory.get('inactive_file');
  const others = (memory.get('anon') ?? 0n) + (memory.get('kernel') ?? 0n);
  const most = usage > others ? usage - others : 0n;
  if (inactive !== undefined && inactive > most) {
    memory.set('inactive_file', most);
  }
}

function memoryStats(read: ReadV2): NonNullable<CgroupStats['memoryStats']> {
  const memory = toTable(read('memory.stat'));
  const events = toTable(read('memory.events'));
  const limit = toCounter(read('memory.max'), NO_LIMIT);
  const usage = toCounter(read('memory.current'));
  boundInactiveFile(memory, usage);
  const swap = toCounter(read('memory.swap.current'));
  const swapLimit = toCounter(read('memory.swap.max'), NO_LIMIT);
  const named = Object.entries(V1_NAMES).flatMap(([name, key]): [string, bigint][] => {
    const value = memory.get(key);
    return value === undefined ? [] : [[name, value], [`total_${name}`, value]];
  });
  for (const key of ['inactive_file', 'active_file', 'inactive_anon', 'active_anon', 'pgfault', 'pgmajfault', 'unevictable']) {
    const value = memory.get(key);
    if (value !== undefined) {
      named.push([`total_${key}`, value]);
    }
  }
  return {
    cache: memory.get('file') ?? 0n,
    usage: { usage, maxUsage: toCounter(read('memory.peak')), failcnt: events.get('max') ?? 0n, limit },
    // v1 counts memory and swap together here.
    swapUsage: {
      usage: usage + swap, maxUsage: 0n, failcnt: toTable(read('memory.swap.events')).get('max') ?? 0n,
      limit: limit === NO_LIMIT || swapLimit === NO_LIMIT ? NO_LIMIT : limit + swapLimit,
    },
    kernelUsage: { usage: memory.get('kernel') ?? memory.get('kernel_stack') ?? 0n, maxUsage: 0n, failcnt: 0n, limit: 0n },
    useHierarchy: true,
    stats: new Map([...memory, ...named, ['hierarchical_memory_limit', limit]]),
  };
}

/** Figures of a cgroup of the unified hierarchy. */
export function statsV2(read: ReadV2): CgroupStats {
  const cpu = toTable(read('cpu.stat'));
  const io = ioEntriesFrom(read('io.stat'));
  return {
    cpuStats: {
      cpuUsage: {
        totalUsage: (cpu.get('usage_usec') ?? 0n) * MICRO,
        percpuUsage: [],
        usageInKernelmode: (cpu.get('system_usec') ?? 0n) * MICRO,
        usageInUsermode: (cpu.get('user_usec') ?? 0n) * MICRO,
      },
      throttlingData: {
        periods: cpu.get('nr_periods') ?? 0n,
        throttledPeriods: cpu.get('nr_throttled') ?? 0n,
        throttledTime: (cpu.get('throttled_usec') ?? 0n) * MICRO,
      },
    },
    memoryStats: memoryStats(read),
    pidsStats: { current: toCounter(read('pids.current')), limit: toCounter(read('pids.max')) },
    blkioStats: {
      ioServiceBytesRecursive: io.bytes,
      ioServicedRecursive: io.operations,
      ioQueuedRecursive: [], ioServiceTimeRecursive: [], ioWaitTimeRecursive: [], ioMergedRecursive: [], ioTimeRecursive: [], sectorsRecursive: [],
    },
    hugetlbStats: hugetlb(read),
  };
}
