/** Every annotation of the configuration: the gate, a value that is taken with its effect, and values that are refused. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { describeError, isCode, KataError } from '../../base/errors';
import { ANNOTATIONS, CONFIG_PREFIX, type AnnotationSpec } from './annotation-keys';
import { annotate } from './annotations';
import { keySpec } from './layers';
import { parseConfig } from './load';
import { fieldOf, type ConfigValue } from './schema';
import type { RuntimeConfig } from './types';

const HOST = { cpus: 4, memoryMiB: 8192, arch: 'x64' };
const HV = `${CONFIG_PREFIX}hypervisor.`;

/** Value of the annotation, and what the key is afterwards; or the error of what is refused with any value. */
type Row = readonly [value: string, effect: ConfigValue] | readonly [value: string, refused: RegExp];
const VERITY = `root_hash=${'ab'.repeat(32)},salt=00,data_blocks=8,data_block_size=4096,hash_block_size=4096`;
const HASH = 'AB'.repeat(64);
const TAKEN = 'taken';

const HYPERVISOR: Readonly<Record<string, Row>> = {
  kernel: ['/k', '/k'], image: ['/x', '/x'], initrd: ['/y', '/y'], firmware: ['/f', '/f'], firmware_volume: ['/v', '/v'],
  path: ['/ok/qemu', '/ok/qemu'], jailer_path: ['/ok/jailer', '/ok/jailer'], ctlpath: ['/ok/ctl', '/ok/ctl'], file_mem_backend: ['/ok/shm', '/ok/shm'],
  virtio_fs_daemon: ['/ok/virtiofsd', '/ok/virtiofsd'], vhost_user_store_path: ['/ok/store', '/ok/store'], entropy_source: ['/ok/random', '/ok/random'],
  kernel_hash: [HASH, TAKEN], image_hash: [HASH, /there is no image/], initrd_hash: [HASH, TAKEN], firmware_hash: [HASH, /there is no firmware/],
  firmware_volume_hash: [HASH, /there is no firmware_volume/], hypervisor_hash: [HASH, TAKEN], hypervisorctl_hash: [HASH, /there is no ctlpath/], jailer_hash: [HASH, /there is no jailer_path/],
  kernel_params: ['a=2 b', 'x a=2 b'], machine_type: ['microvm', 'microvm'], machine_accelerators: ['hpet=off', 'hpet=off'], cpu_features: ['pmu=off', 'pmu=off'],
  guest_hook_path: ['/hooks', '/hooks'], kernel_verity_params: [VERITY, /only an image can be verified/], default_gpu_model: ['m', 'm'],
  default_vcpus: ['1.5', 1.5], default_memory: ['512', 512], default_max_vcpus: ['3', 3], memory_slots: ['4', 4], memory_offset: ['64', 64],
  enable_virtio_mem: ['true', true], enable_mem_prealloc: ['1', true], enable_hugepages: ['T', true], enable_iommu: ['true', true], enable_iommu_platform: ['true', true],
  enable_guest_swap: ['true', true], rootless: ['true', /annotation .*rootless.* is refused: the VMM would run as root all the same/], disable_block_device_use: ['true', true],
  enable_iothreads: ['true', true], block_device_cache_set: ['true', true], block_device_cache_direct: ['true', true], block_device_cache_noflush: ['true', true],
  disable_vhost_net: ['true', true], enable_vhost_user_store: ['true', /enable_vhost_user_store: needs enable_hugepages/], disable_image_nvdimm: ['true', true],
  hotplug_vfio_on_root_bus: ['true', true], use_legacy_serial: ['true', true], reclaim_guest_freed_memory: ['true', true], rx_rate_limiter_max_rate: ['1000', 1000],
  tx_rate_limiter_max_rate: ['1000', 1000], pcie_root_port: ['2', 2], pcie_switch_port: ['2', 2], virtio_fs_cache: ['always', 'always'], virtio_fs_cache_size: ['64', 64],
  block_device_driver: ['virtio-blk', 'virtio-blk'], block_device_aio: ['threads', 'threads'], vhost_user_reconnect_timeout_sec: ['5', 5], hot_plug_vfio: ['root-port', 'root-port'],
  cold_plug_vfio: ['root-port', 'root-port'], default_gpus: ['1', 1], msize_9p: ['16384', 16384], shared_fs: ['virtio-9p', 'virtio-9p'], indep_iothreads: ['2', 2],
  virtio_fs_extra_args: ['["-b"]', ['-a', '-b']], numa_mapping: ['0  1', ['0', '1']], blk_logical_sector_size: ['4096', 4096], blk_physical_sector_size: ['4096', 4096],
  use_vsock: ['true', TAKEN], asset_hash_type: ['sha512', TAKEN], cc_init_data: ['x', /cc_init_data is not supported/],
};
const OTHERS: Readonly<Record<string, Row>> = {
  'config.runtime.disable_guest_seccomp': ['true', true], 'config.runtime.sandbox_cgroup_only': ['true', true], 'config.runtime.enable_pprof': ['true', true],
  'config.runtime.disable_new_netns': ['true', /annotation .*disable_new_netns: runtime.disable_new_netns: needs internetworking_model = "none"/],
  'config.runtime.internetworking_model': ['none', 'none'], 'config.runtime.vfio_mode': ['vfio', 'vfio'],
  'config.runtime.guest_selinux_label': ['l', /annotation .*guest_selinux_label.* is refused: containers would run without the label/],
  'config.runtime.create_container_timeout': ['9', 9],
  'config.runtime.experimental_force_guest_pull': ['true', /is refused: images would pass through the host/],
  'config.runtime.experimental': ['x', /unknown feature "x"/], enable_vcpus_pinning: ['true', true], 'config.agent.kernel_modules': ['a b=1;c', ['a b=1', 'c']],
  'config.agent.enable_tracing': ['true', true], 'config.agent.container_pipe_size': ['4096', 4096], 'config.agent.policy': ['eA==', /policy is not supported/],
};
const ROWS = new Map<string, Row>([
  ...Object.entries(HYPERVISOR).map(([suffix, row]): [string, Row] => [HV + suffix, row]),
  ...Object.entries(OTHERS).map(([suffix, row]): [string, Row] => [`io.katacontainers.${suffix}`, row]),
]);

const VALID = ['valid_hypervisor_paths', 'valid_jailer_paths', 'valid_ctlpaths', 'valid_file_mem_backends', 'valid_virtio_fs_daemon_paths', 'valid_vhost_user_store_paths', 'valid_entropy_sources'];
function configOf(patterns: readonly string[]): RuntimeConfig {
  const valid = VALID.map((name) => `${name} = ["/ok/*"]\n`).join('');
  return parseConfig(`[hypervisor.qemu]\ninitrd = "/i"\nkernel_params = "x a=1"\nvirtio_fs_extra_args = ["-a"]\n${valid}enable_annotations = ${JSON.stringify(patterns)}\n`, '/etc/c.toml', { host: HOST });
}
const GATE_LINE = 5 + VALID.length;
const run = (config: RuntimeConfig, name: string, value: string): RuntimeConfig => annotate(config, { [name]: value }, { host: HOST, exists: () => true }).config;

function valueOf(config: RuntimeConfig, spec: AnnotationSpec): unknown {
  const part = spec.section === 'hypervisor' ? config.hypervisor : spec.section === 'agent' ? config.agent : config.runtime;
  const values = new Map<string, unknown>(Object.entries(part));
  return values.has(fieldOf(spec.key)) ? values.get(fieldOf(spec.key)) : (values.get('other') as Record<string, unknown> | undefined)?.[spec.key];
}

function fails(work: () => unknown, pattern: RegExp, what: string): void {
  assert.throws(work, (error) => (error instanceof KataError && pattern.test(describeError(error)) && error.hint !== undefined) || assert.fail(`${what}: ${describeError(error)}`), what);
}

test('the table has every annotation', () => {
  assert.deepEqual([...ROWS.keys()].sort(), [...ANNOTATIONS.keys()].sort());
});

test('a good value has its effect, and where it comes from is kept', () => {
  const config = configOf(['.*']);
  for (const spec of ANNOTATIONS.values()) {
    const [value, expected] = ROWS.get(spec.name) ?? assert.fail(spec.name);
    if (expected instanceof RegExp) {
      fails(() => run(config, spec.name, value), expected, spec.name);
      continue;
    }
    const changed = run(config, spec.name, value);
    if (expected !== TAKEN) {
      assert.deepEqual(valueOf(changed, spec), expected, spec.name);
      assert.ok([...changed.sources].some(([key, where]) => key.endsWith(`.${spec.key}`) && where === `annotation ${spec.name}`), spec.name);
    }
  }
});

test('an annotation whose key is not honoured is reported by its name', () => {
  const config = configOf(['.*']);
  for (const spec of ANNOTATIONS.values()) {
    const [value, expected] = ROWS.get(spec.name) ?? assert.fail(spec.name);
    const key = keySpec(spec.section, spec.key);
    const silent = expected instanceof RegExp || spec.kind === 'hash' || key?.status === 'yes' || key?.inert?.some((inert) => inert === expected) === true;
    const reported = expected instanceof RegExp ? [] : run(config, spec.name, value).warnings.filter((warning) => warning.includes(spec.name));
    assert.equal(reported.length, silent ? 0 : 1, `${spec.name}: ${reported.join()}`);
  }
});

test('a hypervisor annotation needs its whole name in enable_annotations; the refusal names key, file and line', () => {
  for (const spec of ANNOTATIONS.values()) {
    const [value, expected] = ROWS.get(spec.name) ?? assert.fail(spec.name);
    if (!spec.name.startsWith(HV)) {
      continue;
    }
    const suffix = spec.name.slice(HV.length);
    // One that upstream's unanchored match would let through: a part of the name, and a longer one.
    for (const pattern of [suffix.slice(0, -1), suffix.slice(1), `${suffix}x`, '']) {
      assert.throws(
        () => run(configOf([pattern]), spec.name, value),
        (error) => isCode(error, 'PermissionDenied') && describeError(error) === `annotation ${spec.name} is not enabled (add "${suffix}" to enable_annotations in [hypervisor.qemu], /etc/c.toml:${String(GATE_LINE)})`,
        `${spec.name} with ${JSON.stringify(pattern)}`,
      );
    }
    if (!(expected instanceof RegExp)) {
      assert.ok(run(configOf([suffix]), spec.name, value));
    }
  }
});

test('annotations of runtime and agent need no gate', () => {
  for (const spec of ANNOTATIONS.values()) {
    const [value, expected] = ROWS.get(spec.name) ?? assert.fail(spec.name);
    if (!spec.name.startsWith(HV) && !(expected instanceof RegExp)) {
      assert.ok(run(configOf([]), spec.name, value), spec.name);
    }
  }
});

test('a path must match the list of its key; the refusal names list, file and line', () => {
  const config = configOf(['.*']);
  for (const spec of ANNOTATIONS.values()) {
    if (spec.kind === 'gated') {
      const line = config.sources.get(`hypervisor.qemu.${spec.validKey ?? ''}`) ?? assert.fail(spec.validKey);
      for (const path of ['/elsewhere/x', '/ok/../etc/x', '/ok/a/b', 'ok/x', '']) {
        fails(() => run(config, spec.name, path), new RegExp(`^${spec.key} "${path.replaceAll('.', '\\.')}" required from annotation ${spec.name} is not valid \\(add it to ${spec.validKey ?? ''} in \\[hypervisor.qemu\\], ${line}\\)$`), `${spec.name} = ${path}`);
      }
    }
  }
});

/** Values that no annotation of the kind takes. */
const BAD: Readonly<Record<string, readonly string[]>> = {
  boolean: ['', 'yes', 'TRue', '2', 'on', ' true'],
  integer: ['', '-1', '1.5', '1e3', '0x10', '1 ', '1Mi', '99999999999999999999999'],
  number: ['', '-1', '1e3', '0x10', 'NaN', 'Infinity', '1.'],
};

test('a value of the wrong type is refused with the name of the annotation and what is wanted', () => {
  const config = configOf(['.*']);
  for (const spec of ANNOTATIONS.values()) {
    const key = keySpec(spec.section, spec.key);
    // A bad enable_pprof means off, as upstream; the last two kinds look at no value.
    if (key === undefined || spec.key === 'enable_pprof' || ['hash', 'unread', 'refused'].includes(spec.kind)) {
      continue;
    }
    const values = key.choices === undefined ? (BAD[key.kind] ?? []) : ['nonsense', 'a\0b'];
    for (const value of values.filter((text) => !(text === '' && spec.skipEmpty === true))) {
      fails(() => run(config, spec.name, value), new RegExp(`^Error parsing annotation for ${spec.name}: `), `${spec.name} = ${value}`);
    }
  }
  for (const asset of ['kernel', 'image', 'initrd', 'firmware', 'firmware_volume']) {
    for (const value of ['', 'relative', './x']) {
      fails(() => run(config, HV + asset, value), /is not an absolute path \(write the whole path\)$/, asset);
    }
  }
  for (const value of ['', 'abc', `${HASH}0`, HASH.replace('A', 'G')]) {
    fails(() => run(config, `${HV}kernel_hash`, value), /kernel_hash: not the hexadecimal digits of a SHA-512/, value);
  }
});
