import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { describeError, isCode, type ErrorCode } from '../../base/errors';
import { ANNOTATIONS } from './annotation-keys';
import { globMatches, mergeParams, patternMatches } from './annotation-values';
import { annotate, applyAnnotations } from './annotations';
import { containerSwap } from './container-annotations';
import { keySpec } from './layers';
import { parseConfig } from './load';

const HOST = { cpus: 4, memoryMiB: 8192, arch: 'x64' };
const HV = 'io.katacontainers.config.hypervisor.';
const RT = 'io.katacontainers.config.runtime.';
const AGENT = 'io.katacontainers.config.agent.';

const configOf = (lines = 'enable_annotations = [".*"]', more = '') => parseConfig(`[hypervisor.qemu]\ninitrd = "/i"\n${lines}\n${more}`, '/c.toml', { host: HOST });
const run = (annotations: Record<string, string>, config = configOf()) => annotate(config, annotations, { host: HOST, exists: (path) => !path.includes('gone') }).config;
const hv = (key: string, value: string, config = configOf()) => run({ [HV + key]: value }, config).hypervisor;
const refused = (annotations: Record<string, string>, code: ErrorCode, pattern: RegExp, config = configOf()): void =>
  assert.throws(() => run(annotations, config), (error) => (isCode(error, code) && pattern.test(describeError(error))) || assert.fail(describeError(error)));

test('every annotation has a key in the schema', () => {
  for (const spec of ANNOTATIONS.values()) {
    if (spec.kind !== 'unread' && spec.kind !== 'refused') {
      assert.ok(keySpec(spec.section, spec.key), spec.name);
    }
    if (spec.validKey !== undefined) {
      assert.ok(keySpec('hypervisor', spec.validKey), spec.name);
    }
  }
});

test('every hypervisor annotation is refused unless enable_annotations has its name; the refusal names the line', () => {
  const closed = configOf('enable_annotations = ["enable_iommu"]');
  for (const name of ANNOTATIONS.keys()) {
    if (name.startsWith(HV) && name !== `${HV}enable_iommu`) {
      refused({ [name]: '1' }, 'PermissionDenied', new RegExp(`annotation ${name} is not enabled \\(add "\\w+" to enable_annotations in \\[hypervisor.qemu\\], /c.toml:3\\)`), closed);
    }
  }
  refused({ [`${HV}kernel`]: '/k' }, 'PermissionDenied', /in \[hypervisor.qemu\], \/c.toml:1\)/, configOf(''));
  assert.equal(hv('enable_iommu', 'true', closed).enableIommu, true);
});

test('patterns must match the whole name; broken ones match nothing', () => {
  assert.ok(patternMatches('enable_.*', 'enable_iommu_platform'));
  assert.ok(!patternMatches('enable_iommu', 'enable_iommu_platform'));
  assert.ok(!patternMatches('a|kernel', 'kernel_params'));
  assert.ok(!patternMatches('[', '['));
  assert.match(configOf('enable_annotations = ["a", "["]').warnings.join(), /^hypervisor.qemu.enable_annotations \(\/c.toml:3\): "\[" is no regular expression, it matches nothing$/);
  assert.ok(patternMatches('(?i)KERNEL', 'kernel'));
});

test('unknown annotations of the configuration are refused by name, others are left alone', () => {
  refused({ [`${HV}default_vcpu`]: '1' }, 'InvalidArgument', /unknown annotation io.katacontainers.config.hypervisor.default_vcpu \(did you mean .*default_vcpus/);
  refused({ [`${RT}nothing`]: '1' }, 'InvalidArgument', /unknown annotation/);
  refused({ 'io.katacontainers.config.zzz': '' }, 'InvalidArgument', /unknown annotation/);
  const config = configOf();
  assert.equal(run({ 'io.katacontainers.pkg.oci.bundle_path': '/b', 'io.katacontainers.container.resource.swappiness': '1', 'a.b': 'c' }, config), config);
});

test('values of each kind are taken, with their source', () => {
  assert.equal(hv('default_vcpus', '2').defaultVcpus, 2);
  assert.equal(hv('default_vcpus', '1.5').defaultVcpus, 1.5);
  assert.equal(hv('default_max_vcpus', '3').defaultMaxvcpus, 3);
  assert.equal(hv('default_memory', '512').defaultMemory, 512);
  assert.equal(hv('memory_slots', '0').memorySlots, 10);
  for (const text of ['1', 't', 'T', 'true', 'TRUE', 'True']) {
    assert.equal(hv('use_legacy_serial', text).useLegacySerial, true);
  }
  assert.equal(hv('use_legacy_serial', 'f', configOf('use_legacy_serial = true\nenable_annotations = [".*"]')).useLegacySerial, false);
  assert.equal(hv('machine_type', '', configOf('machine_type = "microvm"\nenable_annotations = [".*"]')).machineType, 'microvm');
  assert.deepEqual(hv('virtio_fs_extra_args', '["-o", "x"]', configOf('virtio_fs_extra_args = ["-d"]\nenable_annotations = [".*"]')).virtioFsExtraArgs, ['-d', '-o', 'x']);
  assert.equal(hv('kernel_params', 'quiet b=2 c', configOf('kernel_params = "a b=1"\nenable_annotations = [".*"]')).kernelParams, 'a quiet b=2 c');
  assert.deepEqual(hv('numa_mapping', '0 1').other['numa_mapping'], ['0', '1']);
  assert.equal(hv('blk_logical_sector_size', '4096').blockDeviceLogicalSectorSize, 4096);
  assert.equal(run({ [`${HV}default_memory`]: '512' }).sources.get('hypervisor.qemu.default_memory'), `annotation ${HV}default_memory`);
  const config = run({ [`${AGENT}kernel_modules`]: 'e1000 a=1; i915', [`${AGENT}container_pipe_size`]: '65536', [`${RT}sandbox_cgroup_only`]: 'true', [`${RT}create_container_timeout`]: '9' });
  assert.deepEqual([config.agent.kernelModules, config.agent.containerPipeSize, config.runtime.sandboxCgroupOnly, config.runtime.createContainerTimeout], [['e1000 a=1', 'i915'], 65536, true, 9]);
  assert.equal(run({ [`${RT}enable_pprof`]: 'nonsense' }).runtime.enablePprof, false);
});

test('wrong values are refused with the annotation and the reason', () => {
  const table: readonly [string, string, RegExp][] = [
    ['use_legacy_serial', 'yes', /Please specify boolean value 'true\|false'/],
    ['default_vcpus', '-1', /Please specify positive numeric value/],
    ['default_vcpus', '5', /more than the CPUs of the host, 4/],
    ['default_max_vcpus', '5', /more than the CPUs of the host/],
    ['default_max_vcpus', '1.5', /positive numeric/],
    ['default_memory', '255', /less than 256/],
    ['default_memory', '0x200', /positive numeric/],
    ['default_memory', '99999999999', /positive numeric/],
    ['msize_9p', '0', /positive numeric/],
    ['shared_fs', 'virtio-fs-nydus', /wanted one of "virtio-9p", "virtio-fs"/],
    ['shared_fs', '', /is not allowed/],
    ['block_device_driver', 'ide', /is not allowed, wanted one of/],
    ['block_device_aio', 'posix', /is not allowed/],
    ['indep_iothreads', '51', /positive numeric/],
    ['blk_logical_sector_size', '1000', /no sector size/],
    ['hot_plug_vfio', 'port', /is not allowed/],
    ['virtio_fs_extra_args', '--x', /not valid JSON/],
    ['virtio_fs_extra_args', '[1]', /wanted a list of strings/],
    ['kernel', 'vmlinux', /not an absolute path/],
    ['kernel_hash', 'abc', /not the hexadecimal digits/],
  ];
  for (const [key, value, pattern] of table) {
    refused({ [HV + key]: value }, 'InvalidArgument', pattern);
    refused({ [HV + key]: value }, 'InvalidArgument', new RegExp(key === 'blk_logical_sector_size' ? 'block_device_logical' : HV + key));
  }
  refused({ [`${RT}internetworking_model`]: 'bridge' }, 'InvalidArgument', /internetworking_model/);
  refused({ [`${RT}experimental`]: 'x' }, 'InvalidArgument', /unknown feature/);
  refused({ [`${RT}disable_new_netns`]: 'true' }, 'InvalidArgument', /needs internetworking_model/);
  refused({ 'io.katacontainers.asset_hash_type': 'sha256' }, 'InvalidArgument', /only hash is sha512/);
});

test('paths must be what a glob of the configuration allows, and be there', () => {
  const config = configOf('enable_annotations = [".*"]\nvalid_hypervisor_paths = ["/usr/bin/qemu-*"]\nvalid_entropy_sources = ["/dev/urandom", ""]\nvalid_jailer_paths = ["/j"]');
  assert.equal(hv('path', '/usr/bin/qemu-x', config).path, '/usr/bin/qemu-x');
  assert.equal(hv('jailer_path', '/j', config).other['jailer_path'], '/j');
  assert.equal(hv('entropy_source', '', config).entropySource, '/dev/urandom');
  refused({ [`${HV}path`]: '/tmp/evil' }, 'PermissionDenied', /add it to valid_hypervisor_paths in \[hypervisor.qemu\], \/c.toml:4/, config);
  refused({ [`${HV}path`]: '/usr/bin/qemu-x/../../tmp/evil' }, 'PermissionDenied', /not valid/, config);
  refused({ [`${HV}path`]: '/usr/bin/qemu-gone' }, 'PermissionDenied', /no such file/, config);
  refused({ [`${HV}virtio_fs_daemon`]: '/usr/libexec/virtiofsd' }, 'PermissionDenied', /valid_virtio_fs_daemon_paths in \[hypervisor.qemu\], \/c.toml:1/, config);
  const globs: readonly [string, string, boolean][] = [
    ['/a/*', '/a/b', true], ['/a/*', '/a/b/c', false], ['/a/?', '/a/b', true], ['/a?b', '/a/b', false], ['/a/[a-c]x', '/a/bx', true],
    ['/a/[^a]', '/a/a', false], ['/a/[', '/a/[', false], ['/a/\\*', '/a/*', true], ['/a/\\*', '/a/b', false], ['/a.b', '/axb', false], ['a[^b]c', 'a/c', false],
  ];
  for (const [pattern, path, expected] of globs) {
    assert.equal(globMatches(pattern, path), expected, `${pattern} ${path}`);
  }
});

test('image and initrd, hot and cold plug exclude each other: the annotation wins', () => {
  assert.deepEqual([hv('image', '/x').image, hv('image', '/x').initrd], ['/x', '']);
  const config = configOf('hot_plug_vfio = "root-port"\nenable_annotations = [".*"]');
  assert.deepEqual([hv('cold_plug_vfio', 'root-port', config).other['hot_plug_vfio'], hv('cold_plug_vfio', 'root-port', config).other['cold_plug_vfio']], ['no-port', 'root-port']);
  assert.equal(mergeParams('', ' a  b '), 'a b');
});

test('what guards a pod is refused while unsupported; what has no effect is told', () => {
  refused({ [`${AGENT}policy`]: 'cGFja2FnZQ==' }, 'Unimplemented', /policy is not supported/);
  refused({ [`${HV}cc_init_data`]: 'x' }, 'Unimplemented', /not supported/);
  assert.match(run({ [`${HV}use_vsock`]: 'true' }).warnings.join(), /use_vsock has no effect/);
  assert.match(run({ [`${HV}hotplug_vfio_on_root_bus`]: 'true' }).warnings.join(), /hotplug_vfio_on_root_bus is not supported yet/);
  assert.match(run({ [`${HV}enable_iommu_platform`]: 'true' }).warnings.join(), /enable_iommu_platform has no effect/);
  assert.match(run({ 'io.katacontainers.config_path': '/x' }).warnings.join(), /a pod may not choose the configuration/);
});

test('the hash of an asset is compared with the file', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'kata-ts-'));
  try {
    const file = (name: string): string => {
      writeFileSync(join(folder, name), name);
      return join(folder, name);
    };
    const kernel = file('kernel');
    const config = configOf(`path = "${file('qemu')}"\nkernel = "/old"\nshared_fs = "none"\nenable_annotations = [".*"]`.replace('/i', '/i'));
    const annotations = { [`${HV}kernel`]: kernel, [`${HV}initrd`]: file('initrd'), [`${HV}kernel_hash`]: createHash('sha512').update('kernel').digest('hex') };
    assert.equal((await applyAnnotations(config, annotations, { host: HOST })).hypervisor.kernel, kernel);
    writeFileSync(kernel, 'other');
    await assert.rejects(applyAnnotations(config, annotations, { host: HOST }), /SHA-512 of .*kernel does not match/);
    rmSync(kernel);
    await assert.rejects(applyAnnotations(config, annotations, { host: HOST }), /kernel does not exist/);
    assert.equal(await applyAnnotations(config, { a: 'b' }), config);
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test('swap of a container is read as Go reads numbers', () => {
  const swap = (swappiness: string, bytes = '0') => containerSwap({ 'io.katacontainers.container.resource.swappiness': swappiness, 'io.katacontainers.container.resource.swap_in_bytes': bytes });
  assert.deepEqual(swap('60', '0x100000'), { swappiness: 60, swapBytes: 1048576n });
  assert.equal(swap('0100').swappiness, 64);
  assert.deepEqual(containerSwap(undefined), { swappiness: undefined, swapBytes: undefined });
  for (const value of ['201', '-1', '', '1k', '99999999999999999999999']) {
    assert.throws(() => swap(value), (error) => isCode(error, 'InvalidArgument'), value);
  }
});
