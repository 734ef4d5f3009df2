/** Keys whose effect is in how sandboxes and containers are made: from the text of the file to what VM, agent and host see. */
import assert from 'node:assert/strict';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, renameSync, rmdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, test } from 'node:test';
import { describeError } from '../../base/errors';
import type { OciSpec } from '../../base/oci-spec';
import { annotate } from '../config/annotations';
import { parseConfig } from '../config/load';
import { AGENT_KEYS, FACTORY_KEYS, RUNTIME_KEYS } from '../config/section-keys';
import { guardWords } from '../hypervisor/processes';
import { vmmLabel } from '../vm/spec';
import { createSandbox } from './sandbox';
import { World } from './testing/world';
import type { Sandbox } from './types';

const HOST = { cpus: 8, memoryMiB: 8192, arch: 'x64' };
let world: World;
let sandbox: Sandbox | undefined;
beforeEach(() => {
  world = new World();
});
afterEach(async () => {
  await sandbox?.stop();
  sandbox = undefined;
  assert.deepEqual(world.leftovers(), []);
  world.dispose();
});

/** A sandbox of a configuration file; `hv` are lines of its hypervisor. */
async function create(hv: string, rest = '', spec: Partial<OciSpec> = {}): Promise<Sandbox> {
  const config = parseConfig(`[hypervisor.mock]\n${hv}\n${rest}`, '/c.toml', { host: HOST });
  sandbox = await createSandbox(world.request({ config, container: world.container('one', undefined, spec) }), world.deps);
  return sandbox;
}

/** Everything anew, for the other value of the key. */
async function renew(): Promise<void> {
  await sandbox?.stop();
  sandbox = undefined;
  assert.deepEqual(world.leftovers(), []);
  world.dispose();
  world = new World();
}

const guestSandbox = () => world.agent.sandboxes[0] ?? assert.fail('no sandbox');
const shareKind = () => world.vm.spec.share?.kind;
const guestContainer = () => world.agent.containers[0] ?? assert.fail('no container');

test('guest_hook_path and kernel_modules go to the agent', async () => {
  await create('guest_hook_path = "/hooks"', '[agent.kata]\nkernel_modules = ["e1000e a=1 b=2", "i915"]');
  assert.equal(guestSandbox().guestHookPath, '/hooks');
  assert.deepEqual(guestSandbox().kernelModules, [{ name: 'e1000e', parameters: ['a=1', 'b=2'] }, { name: 'i915', parameters: [] }]);
});

test('shared_fs, msize_9p and virtio_fs_cache_size shape the share', async () => {
  await create('shared_fs = "virtio-9p"\nmsize_9p = 65536');
  assert.equal(shareKind(), 'virtio-9p');
  assert.ok(guestSandbox().storages[0]?.options?.includes('msize=65536'));
  await renew();
  await create('virtio_fs_cache_size = 64\nvirtio_fs_cache = "auto"');
  assert.equal(shareKind(), 'virtio-fs');
  assert.ok(guestSandbox().storages[0]?.options?.includes('dax'));
  for (const [cache, dax] of [['none', false], ['never', false], ['metadata', true]] as const) {
    await renew();
    await create(`virtio_fs_cache_size = 64\nvirtio_fs_cache = "${cache}"`);
    assert.equal(guestSandbox().storages[0]?.options?.includes('dax'), dax, cache);
  }
  await renew();
  await create('shared_fs = "none"');
  assert.equal(shareKind(), undefined);
  assert.ok(!guestSandbox().storages.some(({ source }) => source === 'kataShared'));
});

test('default_vcpus and default_memory are the size at boot; static_sandbox_resource_mgmt adds the workload before it', async () => {
  const limits = { linux: { namespaces: [{ type: 'network' }], resources: { memory: { limit: 512 * 1048576 }, cpu: { quota: 200000, period: 100000 } } } };
  await create('default_vcpus = 2\ndefault_memory = 300', '', limits);
  assert.deepEqual([world.vm.spec.vcpus, world.vm.spec.memoryMiB], [2, 300]);
  await renew();
  await create('default_vcpus = 2\ndefault_memory = 300', '[runtime]\nstatic_sandbox_resource_mgmt = true', limits);
  assert.deepEqual([world.vm.spec.vcpus, world.vm.spec.memoryMiB], [4, 812]);
});

test('disable_new_netns leaves the VMM in the namespace of the host', async () => {
  await create('', '[runtime]\ndisable_new_netns = true\ninternetworking_model = "none"');
  assert.deepEqual(world.vm.spec.netns, { kind: 'host' });
  await renew();
  await create('');
  assert.deepEqual(world.vm.spec.netns, { kind: 'own' });
});

test('disable_guest_seccomp decides whether the profile reaches the guest', async () => {
  const spec = { linux: { namespaces: [{ type: 'network' }], seccomp: { defaultAction: 'SCMP_ACT_ERRNO' } } } as Partial<OciSpec>;
  await create('', '[runtime]\ndisable_guest_seccomp = true', spec);
  assert.equal(guestContainer().spec.linux?.seccomp, undefined);
  await renew();
  await create('', '', spec);
  assert.deepEqual(guestContainer().spec.linux?.seccomp, spec.linux?.seccomp);
});

test('sandbox_bind_mounts are in the share, read-only', async () => {
  const source = join(world.root, 'bind');
  mkdirSync(source);
  await create('', `[runtime]\nsandbox_bind_mounts = [${JSON.stringify(source)}]`);
  assert.ok(world.mounts.points.some((point) => point.endsWith('/mounts/sandbox-mounts/bind')), world.mounts.points.join());
});

test('create_container_timeout bounds the creation in the guest', async () => {
  await create('', '[runtime]\ncreate_container_timeout = 7');
  assert.equal(guestContainer().timeoutMs, 7000);
});

test('sandbox_cgroup_only makes one group for everything', async () => {
  const hierarchy = (): string => join(world.root, 'cgroup', 'memory');
  const groups = (): string[] => readdirSync(hierarchy(), { recursive: true }).map(String);
  const end = async (): Promise<void> => {
    await sandbox?.stop();
    sandbox = undefined;
    rmdirSync(hierarchy());
  };
  mkdirSync(hierarchy());
  await create('', '[runtime]\nsandbox_cgroup_only = true');
  assert.deepEqual(groups().filter((name) => name.includes('kata_overhead')), []);
  assert.ok(groups().some((name) => name.endsWith('kata_one')));
  await end();
  await renew();
  mkdirSync(hierarchy());
  await create('');
  assert.ok(groups().some((name) => name.endsWith('kata_overhead/one')));
  await end();
});

test('disable_block_device_use keeps block devices out of the VM', async (context) => {
  const loop = '/dev/loop0';
  if (!existsSync(loop)) {
    context.skip(`${loop} is missing`);
    return;
  }
  const spec = { linux: { namespaces: [{ type: 'network' }], devices: [{ type: 'b', path: '/dev/sdx', major: 7, minor: 0 }] } } as Partial<OciSpec>;
  await create('', '', spec);
  assert.equal(world.vm.blocks.size, 1);
  await renew();
  await create('disable_block_device_use = true', '', spec);
  assert.equal(world.vm.blocks.size, 0);
});

test('a device below /dev/vfio is refused, not dropped; the control node alone is not', async () => {
  const withDevice = (path: string): Partial<OciSpec> => ({ linux: { namespaces: [{ type: 'network' }], devices: [{ type: 'c', path, major: 244, minor: 0 }] } });
  for (const mode of ['guest-kernel', 'vfio']) {
    await assert.rejects(create('', `[runtime]\nvfio_mode = "${mode}"`, withDevice('/dev/vfio/12')), (error) => /device \/dev\/vfio\/12 in container "one": device pass-through \(VFIO\) is not supported yet \(.*privileged_without_host_devices/.test(describeError(error)) || assert.fail(describeError(error)));
  }
  await create('', '', withDevice('/dev/vfio/vfio'));
});

test('the VMM runs with the label of the container where the host has SELinux, unless disable_selinux', () => {
  const label = 'system_u:system_r:container_kvm_t:s0:c1,c2';
  const labelOf = (lines: string, selinuxLabel: string, enabled: boolean) => vmmLabel(parseConfig(`[hypervisor.mock]\n${lines}`, '/c.toml', { host: HOST }), { process: { selinuxLabel } }, enabled);
  assert.deepEqual([labelOf('', label, true), labelOf('', label, false), labelOf('', '', true), labelOf('disable_selinux = true', label, true)], [label, undefined, undefined, undefined]);
  assert.deepEqual(guardWords('/qemu', ['-S'], label), ['--pdeathsig', 'KILL', '--selinux-label', label, '--', '/qemu', '-S']);
  assert.deepEqual(guardWords('/qemu', []), ['--pdeathsig', 'KILL', '--', '/qemu']);
});

test('swap annotations of a container become its limits', async () => {
  await create('', '', { annotations: { 'io.katacontainers.container.resource.swappiness': '60', 'io.katacontainers.container.resource.swap_in_bytes': '0x100000' } });
  assert.deepEqual(guestContainer().spec.linux?.resources?.memory, { swappiness: 60, swap: 1048576n });
  await renew();
  await assert.rejects(create('', '', { annotations: { 'io.katacontainers.container.resource.swappiness': '201' } }), (error) => /Error parsing annotation for io.katacontainers.container.resource.swappiness: 201 is more than 200/.test(describeError(error)));
});

test('settings of the agent by annotation reach the kernel command line of the guest', async () => {
  const file = parseConfig('[hypervisor.mock]\n', '/c.toml', { host: HOST });
  const { config } = annotate(file, { 'io.katacontainers.config.agent.container_pipe_size': '4096', 'io.katacontainers.config.agent.enable_tracing': 'true' }, { host: HOST });
  sandbox = await createSandbox(world.request({ config }), world.deps);
  assert.deepEqual(world.vm.spec.kernelParams.filter((param) => param.startsWith('agent.')), ['agent.trace=true', 'agent.container_pipe_size=4096']);
});

/** Key of [agent.*], [factory] and [runtime] -> the test that shows its effect, or what integration suites configure with it. */
const ELSEWHERE: Readonly<Record<string, string>> = {
  'agent.enable_debug': 'virtcontainers/config/load.test.ts',
  'agent.debug_console_enabled': 'virtcontainers/config/load.test.ts',
  'agent.dial_timeout': 'virtcontainers/sandbox/sandbox.test.ts',
  'agent.kernel_modules': 'virtcontainers/sandbox/config-keys.test.ts',
  'agent.container_pipe_size': 'virtcontainers/config/load.test.ts',
  'agent.cdh_api_timeout': 'virtcontainers/config/load.test.ts',
  'agent.launch_process_timeout': 'virtcontainers/config/load.test.ts',
  'agent.visible_cdi_devices': 'virtcontainers/config/load.test.ts',
  'factory.enable_template': 'test/support/factory-mode.ts',
  'factory.template_path': 'factory/factory.test.ts',
  'factory.vm_cache_number': 'test/support/factory.ts',
  'factory.vm_cache_endpoint': 'test/support/factory.ts',
  'runtime.enable_debug': 'shim/wiring-config.test.ts',
  'runtime.disable_guest_seccomp': 'virtcontainers/sandbox/config-keys.test.ts',
  'runtime.disable_new_netns': 'virtcontainers/sandbox/config-keys.test.ts',
  'runtime.sandbox_cgroup_only': 'virtcontainers/sandbox/config-keys.test.ts',
  'runtime.static_sandbox_resource_mgmt': 'virtcontainers/sandbox/config-keys.test.ts',
  'runtime.sandbox_bind_mounts': 'virtcontainers/sandbox/config-keys.test.ts',
  'runtime.disable_guest_empty_dir': 'virtcontainers/fs-share/container-mounts.test.ts',
  'runtime.experimental': 'virtcontainers/config/schema.test.ts',
  'runtime.enable_pprof': 'shim/management/server.test.ts',
  'runtime.create_container_timeout': 'virtcontainers/sandbox/config-keys.test.ts',
};

test('every key outside of the hypervisor that is called honoured has a test of its effect', () => {
  const named = (section: string, keys: typeof AGENT_KEYS): string[] => keys.filter((spec) => spec.status === 'yes').map((spec) => `${section}.${spec.key}`);
  assert.deepEqual([...named('agent', AGENT_KEYS), ...named('factory', FACTORY_KEYS), ...named('runtime', RUNTIME_KEYS)].sort(), Object.keys(ELSEWHERE).sort());
  for (const [name, file] of Object.entries(ELSEWHERE)) {
    const key = name.split('.')[1] ?? '';
    const field = key.replace(/_([a-z0-9])/g, (_, letter: string) => letter.toUpperCase());
    assert.match(readFileSync(join(__dirname, '../..', file), 'utf8'), new RegExp(`${key}|\\b${field}\\b`), `${file} does not name ${key}`);
  }
});

test('dan_conf: a sandbox that has a network there is refused with the file, others are not', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'kata-ts-dans-'));
  try {
    const id = world.request({}).id;
    writeFileSync(join(folder, `${id}.json`), '{}');
    await assert.rejects(create('', `[runtime]\ndan_conf = "${folder}"`), { code: 'Unimplemented', message: new RegExp(`${folder}/${id}\\.json.*not supported yet`) });
    renameSync(join(folder, `${id}.json`), join(folder, 'another.json'));
    await create('', `[runtime]\ndan_conf = "${folder}"`);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});
