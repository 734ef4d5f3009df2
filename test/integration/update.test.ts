/** Update by RPC with a real VM: the guest's cgroups follow, and the VM grows where limits ask for more. */
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import type { OciResources } from '../../base/oci-spec';
import { FactoryMode } from '../support/factory-mode';
import { configText } from '../support/host';
import { leftOf } from '../support/leaks';
import { busyboxRootfs, defaultSpec, ShimDriver } from '../support/shim-driver';
import { endAll } from '../support/suite';

const MIB = 1048576;
const id = `update-${String(process.pid)}`;
let scratch: string;
let config: string;
let shim: ShimDriver;
const mode = FactoryMode.fromEnv();

before(async () => {
  scratch = mkdtempSync(join(tmpdir(), 'kata-ts-update-'));
  config = join(scratch, 'configuration.toml');
  const hypervisor = { default_vcpus: '1', default_maxvcpus: '2', default_memory: '512' };
  writeFileSync(config, configText('qemu', { hypervisor, ...(mode === undefined ? {} : { factory: mode.keys }) }));
  await mode?.begin(config);
  const rootfs = join(scratch, 'rootfs');
  busyboxRootfs(rootfs);
  shim = new ShimDriver(id, scratch, { config });
  const spec = defaultSpec(['sleep', '100000'], rootfs);
  await shim.start({ ...spec, linux: { ...spec.linux, resources: { ...spec.linux?.resources, memory: { limit: 64 * MIB } } } });
  await shim.create();
  await shim.startTask();
});

after(async () => {
  await endAll(() => shim.end(), () => mode?.end(config, ''), () => rmSync(scratch, { recursive: true, force: true }));
  assert.deepEqual(await leftOf([id, shim.address.replace('unix://', '') || id]), []);
});

async function update(resources: OciResources): Promise<void> {
  const value = Buffer.from(JSON.stringify(resources));
  await shim.client.call('Update', { id, resources: { typeUrl: 'types.containerd.io/opencontainers/runtime-spec/1/LinuxResources', value } });
}

async function cgroup(file: string): Promise<string> {
  // The whole tree of the guest is mounted: guests have no cgroup namespaces.
  return (await shim.run(`cat /sys/fs/cgroup$(sed -n 's/^0:://p' /proc/self/cgroup)/${file} 2>&1`)).stdout.trim();
}

const memTotalMiB = async (): Promise<number> => Number((await shim.run("awk '/MemTotal/ { print $2 }' /proc/meminfo")).stdout) / 1024;
const cpus = async (): Promise<number> => Number((await shim.run('grep -c ^processor /proc/cpuinfo')).stdout);

test('a new memory limit is the one of the guest; what is not named stays', async () => {
  assert.equal(await cgroup('memory.max'), String(64 * MIB));
  await update({ memory: { limit: 96 * MIB } });
  assert.equal(await cgroup('memory.max'), String(96 * MIB));
  await update({ cpu: { shares: 512 } });
  assert.equal(await cgroup('memory.max'), String(96 * MIB));
  assert.notEqual(await cgroup('cpu.weight'), '100');
});

test('a limit beyond the memory of the VM makes the VM grow by as much', async () => {
  const before = await memTotalMiB();
  await update({ memory: { limit: 640 * MIB } });
  assert.equal(await cgroup('memory.max'), String(640 * MIB));
  const grownMiB = (await memTotalMiB()) - before;
  assert.ok(grownMiB >= 384, `grew by ${String(Math.round(grownMiB))} MiB`);
});

test('a quota of more CPUs than the VM has plugs one in, and the quota holds', async () => {
  assert.equal(await cpus(), 1);
  await update({ cpu: { quota: 150_000, period: 100_000 } });
  assert.equal(await cgroup('cpu.max'), '150000 100000');
  assert.equal(await cpus(), 2);
});

test('a wrong payload is refused and changes nothing', async () => {
  const value = Buffer.from('{"memory":{"limit":"plenty"}}');
  await assert.rejects(shim.client.call('Update', { id, resources: { typeUrl: 'types.containerd.io/opencontainers/runtime-spec/1/LinuxResources', value } }), /limit/);
  await assert.rejects(shim.client.call('Update', { id, resources: { typeUrl: 'types.containerd.io/opencontainers/runtime-spec/1/Process', value } }), /LinuxResources/);
  assert.equal(await cgroup('memory.max'), String(640 * MIB));
});
