import assert from 'node:assert/strict';
import { test } from 'node:test';
import { fakeStats } from '../testing/fake-guest';
import { metricsOf, metricsV1, metricsV2 } from './stats';

const V2_GUEST = { anon: 70n, file: 30n, inactive_file: 5n, active_file: 6n, pgfault: 8n };
const V1_GUEST = { rss: 7n, total_rss: 70n, cache: 3n, total_cache: 30n, inactive_file: 1n, total_inactive_file: 5n, pgfault: 2n, total_pgfault: 8n };

for (const [name, guest] of [['v1', V1_GUEST], ['v2', V2_GUEST]] as const) {
  test(`the working set is right on both kinds of host for a ${name} guest`, () => {
    const stats = fakeStats(guest);
    const v1 = metricsV1(stats).memory;
    assert.deepEqual([v1?.usage?.usage, v1?.totalInactiveFile, v1?.totalRss, v1?.totalCache, v1?.totalPgFault], [100n, 5n, 70n, 30n, 8n]);
    const v2 = metricsV2(stats).memory;
    assert.deepEqual([v2?.usage, v2?.usageLimit, v2?.inactiveFile, v2?.anon, v2?.file, v2?.pgfault], [100n, 200n, 5n, 70n, 30n, 8n]);
  });
}

test('user and system time are not mixed up, in each message\'s unit', () => {
  const stats = fakeStats({});
  const v1 = metricsV1(stats).cpu;
  assert.deepEqual([v1?.usage?.total, v1?.usage?.user, v1?.usage?.kernel, v1?.throttling?.throttledTime], [9_000n, 7_000n, 2_000n, 3_000n]);
  const v2 = metricsV2(stats).cpu;
  assert.deepEqual([v2?.usageUsec, v2?.userUsec, v2?.systemUsec, v2?.throttledUsec], [9n, 7n, 2n, 3n]);
});

test('every device has its entry', () => {
  const usage = metricsV2(fakeStats({})).io?.usage.map(({ major, minor, rbytes, wbytes }) => [major, minor, rbytes, wbytes]);
  assert.deepEqual(usage, [[8n, 0n, 1n, 2n], [8n, 16n, 3n, 0n]]);
});

test('no part that collectors read is missing for a guest that says nothing', () => {
  const v1 = metricsV1(fakeStats({}));
  assert.ok(v1.cpu?.usage && v1.cpu.throttling && v1.memory?.usage && v1.memory.swap && v1.pids && v1.blkio);
  const v2 = metricsV2(fakeStats({}));
  assert.ok(v2.cpu && v2.memory && v2.pids && v2.io);
  assert.equal(metricsOf(fakeStats({}), 'v1').typeUrl, 'io.containerd.cgroups.v1.Metrics');
});
