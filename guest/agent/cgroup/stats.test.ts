import assert from 'node:assert/strict';
import { test } from 'node:test';
import { NO_LIMIT } from './figures';
import { networkStatsFrom } from './stats';
import { statsV1 } from './stats-v1';
import { statsV2 } from './stats-v2';

const V2: Readonly<Record<string, string>> = {
  'cpu.stat': 'usage_usec 1500\nuser_usec 1000\nsystem_usec 500\nnr_periods 3\nnr_throttled 2\nthrottled_usec 7',
  'memory.current': '4096000', 'memory.max': 'max', 'memory.peak': '5000000',
  'memory.stat': 'anon 1000\nfile 2000\nkernel 300\ninactive_file 40\npgfault 9',
  'memory.events': 'low 0\nhigh 0\nmax 4\noom 1\noom_kill 1', 'memory.swap.current': '10', 'memory.swap.max': 'max',
  'pids.current': '3', 'pids.max': 'max',
  'io.stat': '253:0 rbytes=4096 wbytes=8192 rios=1 wios=2 dbytes=0 dios=0',
  'hugetlb.2MB.current': '2097152', 'hugetlb.2MB.events': 'max 5',
};

test('figures of the unified hierarchy, in the names and units of v1', () => {
  const stats = statsV2((file) => V2[file]);
  assert.deepEqual(stats.cpuStats?.cpuUsage, { totalUsage: 1_500_000n, percpuUsage: [], usageInKernelmode: 500_000n, usageInUsermode: 1_000_000n });
  assert.deepEqual(stats.cpuStats.throttlingData, { periods: 3n, throttledPeriods: 2n, throttledTime: 7000n });
  assert.deepEqual(stats.memoryStats?.usage, { usage: 4096000n, maxUsage: 5000000n, failcnt: 4n, limit: NO_LIMIT });
  assert.equal(stats.memoryStats.swapUsage?.usage, 4096010n);
  assert.equal(stats.memoryStats.stats.get('rss'), 1000n);
  assert.equal(stats.memoryStats.stats.get('total_inactive_file'), 40n);
  assert.deepEqual(stats.pidsStats, { current: 3n, limit: 0n });
  assert.deepEqual(stats.blkioStats?.ioServiceBytesRecursive.slice(0, 2), [{ major: 253n, minor: 0n, op: 'Read', value: 4096n }, { major: 253n, minor: 0n, op: 'Write', value: 8192n }]);
  assert.deepEqual(stats.hugetlbStats.get('2MB'), { usage: 2097152n, maxUsage: 0n, failcnt: 5n });
});

test('pages that have gone since memory.stat was counted do not make the working set zero', () => {
  const inactive = (current: string): bigint | undefined =>
    statsV2((file) => ({ 'memory.current': current, 'memory.stat': 'anon 200\nfile 5000\nkernel 100\ninactive_file 4000' })[file]).memoryStats?.stats.get('total_inactive_file');
  assert.deepEqual(['5300', '4300', '900', '300', '250', '0'].map(inactive), [4000n, 4000n, 600n, 0n, 0n, 0n]);
});

const V1: Readonly<Record<string, string>> = {
  'cpuacct/cpuacct.usage': '123456', 'cpuacct/cpuacct.usage_percpu': '100000 23456 ', 'cpuacct/cpuacct.stat': 'user 5\nsystem 2',
  'cpu/cpu.stat': 'nr_periods 0\nnr_throttled 0\nthrottled_time 0',
  'memory/memory.usage_in_bytes': '1000', 'memory/memory.limit_in_bytes': '9223372036854771712', 'memory/memory.stat': 'cache 10\nrss 20', 'memory/memory.use_hierarchy': '1',
  'pids/pids.current': '1', 'pids/pids.max': '100',
  'blkio/blkio.throttle.io_service_bytes': '8:0 Read 512\n8:0 Write 0\nTotal 512',
};

test('figures of the v1 hierarchies', () => {
  const stats = statsV1((controller, file) => V1[`${controller}/${file}`]);
  assert.deepEqual(stats.cpuStats?.cpuUsage, { totalUsage: 123456n, percpuUsage: [100000n, 23456n], usageInKernelmode: 20_000_000n, usageInUsermode: 50_000_000n });
  assert.equal(stats.memoryStats?.cache, 10n);
  assert.equal(stats.memoryStats.usage?.limit, NO_LIMIT);
  assert.equal(stats.memoryStats.useHierarchy, true);
  assert.deepEqual(stats.pidsStats, { current: 1n, limit: 100n });
  assert.deepEqual(stats.blkioStats?.ioServiceBytesRecursive, [{ major: 8n, minor: 0n, op: 'Read', value: 512n }, { major: 8n, minor: 0n, op: 'Write', value: 0n }]);
});

test('a cgroup that is gone gives zeros, not an error', () => {
  assert.equal(statsV1(() => undefined).cpuStats?.cpuUsage?.totalUsage, 0n);
  assert.equal(statsV2(() => undefined).memoryStats?.usage?.usage, 0n);
});

test('figures per interface', () => {
  const text = 'Inter-|   Receive\n face |bytes packets\n    lo:  10 1 0 0 0 0 0 0 20 2 0 0 0 0 0 0\n  eth0: 100 5 1 2 0 0 0 0 200 6 3 4 0 0 0 0\n';
  assert.deepEqual(networkStatsFrom(text)[1], { name: 'eth0', rxBytes: 100n, rxPackets: 5n, rxErrors: 1n, rxDropped: 2n, txBytes: 200n, txPackets: 6n, txErrors: 3n, txDropped: 4n });
});
