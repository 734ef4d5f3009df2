import assert from 'node:assert/strict';
import { test } from 'node:test';
import { parseConfig } from '../config/load';
import { bootSize, cpusetMembers, grownSize, limitBytes, sandboxWorkload } from './vm-sizing';

const HOST = { cpus: 16, memoryMiB: 32768, arch: 'x64' };
const config = (runtime = '', hypervisor = '') => parseConfig(`[hypervisor.qemu]\ninitrd = "/i"\n${hypervisor}\n[runtime]\n${runtime}`, '/c.toml', { host: HOST });
const pod = (values: Record<string, string>) =>
  sandboxWorkload('pod_sandbox', Object.fromEntries(Object.entries(values).map(([key, value]) => [`io.kubernetes.cri.sandbox-${key}`, value])), undefined);

/** memory, quota, period, shares -> CPUs, MiB. */
const POD_TABLE: readonly [string, string, string, string, number, number][] = [
  ['1048576', '200', '100', '', 2, 1],
  ['1048575', '150', '100', '', 1.5, 0],
  ['', '', '', '', 0, 0],
  ['-1', '-1', '100', '', 0, 0],
  ['-1048576', '0', '0', '', 0, 0],
  ['1048576', '200', '0', '', 0, 1],
  ['', '-1', '100', '2048', 2, 0],
  ['', '-1', '100', '1536', 2, 0],
  ['', '0', '100', '2', 0, 0],
  ['', '300', '100', '1024', 3, 0],
  ['', '-1', '100', '0', 0, 0],
  ['9223372036854771712', '', '', '', 0, 0],
];

test('a pod is sized by the annotations of its sandbox', () => {
  for (const [memory, quota, period, shares, cpus, memoryMiB] of POD_TABLE) {
    const given = Object.entries({ memory, 'cpu-quota': quota, 'cpu-period': period, 'cpu-shares': shares }).filter(([, value]) => value !== '');
    assert.deepEqual(pod(Object.fromEntries(given)), { cpus, memoryMiB, warnings: [] }, JSON.stringify(given));
  }
});

test('garbage in sizing annotations counts as 0 and is told', () => {
  const workload = pod({ memory: 'abc', 'cpu-quota': '1e3', 'cpu-period': '', 'cpu-shares': '99999999999999999999' });
  assert.deepEqual([workload.cpus, workload.memoryMiB, workload.warnings.length], [0, 0, 4]);
  assert.match(workload.warnings.join('\n'), /sandbox-memory: "abc" is no integer/);
});

test('a single container is sized by its own limits, and needs quota and period', () => {
  const single = (resources: object) => sandboxWorkload('single_container', undefined, resources);
  assert.deepEqual(single({ memory: { limit: 2 * 1048576 }, cpu: { quota: 200000, period: 100000 } }), { cpus: 2, memoryMiB: 2, warnings: [] });
  assert.equal(single({ cpu: { quota: 200000 } }).cpus, 0);
  assert.equal(single({ memory: { limit: 9223372036854771712n } }).memoryMiB, 0);
  assert.deepEqual(sandboxWorkload('pod_container', undefined, { memory: { limit: 2 * 1048576 } }), { cpus: 0, memoryMiB: 0, warnings: [] });
});

test('the boot size is the default; with static management the workload is added and is the maximum', () => {
  assert.deepEqual(bootSize(config(), { cpus: 3, memoryMiB: 100 }), { vcpus: 1, memoryMiB: 2048, maxVcpus: 16 });
  assert.deepEqual(bootSize(config('static_sandbox_resource_mgmt = true'), { cpus: 2.5, memoryMiB: 100 }), { vcpus: 4, memoryMiB: 2148, maxVcpus: 4 });
  assert.deepEqual(bootSize(config('static_sandbox_resource_mgmt = true', 'default_vcpus = 0.5'), { cpus: 0.5, memoryMiB: 0 }).vcpus, 1);
  assert.equal(bootSize(config('', 'default_vcpus = 1.5'), { cpus: 0, memoryMiB: 0 }).vcpus, 2);
});

test('the VM grows by the limits of all containers, rounded once, within its bounds', () => {
  const half = { resources: { cpu: { quota: 50000, period: 100000 }, memory: { limit: 100 * 1048576 + 1 } } };
  assert.deepEqual(grownSize(config(), []), { vcpus: 1, memoryMiB: 2048 });
  assert.deepEqual(grownSize(config(), [{ resources: undefined }]), { vcpus: 1, memoryMiB: 2048 });
  assert.deepEqual(grownSize(config(), [half]), { vcpus: 2, memoryMiB: 2149 });
  assert.deepEqual(grownSize(config(), [half, half, half]), { vcpus: 3, memoryMiB: 2349 });
  const third = { resources: { cpu: { quota: 10000, period: 100000 } } };
  assert.equal(grownSize(config(), Array.from({ length: 10 }, () => third))?.vcpus, 2, '10 x 0.1 is 1, not a bit more');
  assert.deepEqual(grownSize(config(), [{ resources: { cpu: { quota: -1, period: 100000 }, memory: { limit: -1 } } }]), { vcpus: 1, memoryMiB: 2048 });
  assert.deepEqual(grownSize(config(), [{ resources: { hugepageLimits: [{ pageSize: '2MB', limit: 64 * 1048576 }] } }]), { vcpus: 1, memoryMiB: 2112 });
  const huge = { resources: { cpu: { quota: 10 ** 8, period: 100000 }, memory: { limit: 2 ** 50 } } };
  assert.deepEqual(grownSize(config('', 'default_maxvcpus = 4\ndefault_maxmemory = 4096'), [huge]), { vcpus: 4, memoryMiB: 4096 });
  assert.equal(grownSize(config('static_sandbox_resource_mgmt = true'), [half]), undefined);
});

test('without quotas the CPUs of the cpusets count, each once', () => {
  const set = (cpus: string) => ({ resources: { cpu: { cpus } } });
  assert.equal(grownSize(config(), [set('0-2'), set('2,3')])?.vcpus, 5);
  assert.equal(grownSize(config(), [set('0-2'), { resources: { cpu: { quota: 100000, period: 100000 } } }])?.vcpus, 2);
  assert.deepEqual([...cpusetMembers('0-1, 4,x,7-5')], [0, 1, 4]);
  assert.ok(cpusetMembers('0-99999').size <= 8192);
  assert.equal(limitBytes(undefined), 0);
});
