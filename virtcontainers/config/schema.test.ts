import assert from 'node:assert/strict';
import { test } from 'node:test';
import { describeError, isCode, KataError } from '../../base/errors';
import { HYPERVISOR_FIELDS, HYPERVISOR_KEYS } from './hypervisor-keys';
import { normaliseHypervisor } from './complete';
import { countCpus } from './host-facts';
import { checkRules } from './checks';
import { parseConfig } from './load';
import { defaultOf, fieldOf, INT32, nearest, UINT32, type ConfigValue, type KeySpec } from './schema';
import { AGENT_FIELDS, AGENT_KEYS, FACTORY_FIELDS, FACTORY_KEYS, RUNTIME_FIELDS, RUNTIME_KEYS } from './section-keys';
import type { HypervisorType, RuntimeConfig } from './types';

const HOST = { cpus: 4, memoryMiB: 8192, arch: 'x64' };
const SECTIONS: readonly [string, readonly KeySpec[], ReadonlySet<string>][] = [
  ['hypervisor.qemu', HYPERVISOR_KEYS, HYPERVISOR_FIELDS],
  ['agent.kata', AGENT_KEYS, AGENT_FIELDS],
  ['factory', FACTORY_KEYS, FACTORY_FIELDS],
  ['runtime', RUNTIME_KEYS, RUNTIME_FIELDS],
];
/** The smallest configuration of a hypervisor that passes. */
const base = (type: HypervisorType = 'qemu') => `[hypervisor.${type}]\n${type === 'acrn' ? 'image' : 'initrd'} = "/i"\n`;
const parse = (text: string) => parseConfig(text, '/c.toml', { host: HOST });
const withLine = (section: string, line: string) => (section === 'hypervisor.qemu' ? `[hypervisor.qemu]\n${line}\n` : `${base()}[${section}]\n${line}\n`);

function valueIn(config: RuntimeConfig, section: string, key: string): unknown {
  const part = section.startsWith('hypervisor') ? config.hypervisor : section.startsWith('agent') ? config.agent : section === 'factory' ? config.factory : config.runtime;
  const fields = new Map<string, unknown>(Object.entries(part));
  const other = fields.get('other') as Record<string, unknown> | undefined;
  return fields.has(fieldOf(key)) ? fields.get(fieldOf(key)) : other?.[key];
}

test('the schema covers every field of the types, and no key is there twice', () => {
  for (const [section, keys, fields] of SECTIONS) {
    assert.equal(new Set(keys.map((spec) => spec.key)).size, keys.length, section);
    const named = new Set(keys.map((spec) => fieldOf(spec.key)));
    assert.deepEqual([...fields].filter((field) => !named.has(field)), [], section);
  }
});

/** Defaults as upstream's tables give them, but `msize_9p` (8192 there); what is not here is false, 0, '' or []. */
const DEFAULTS: Readonly<Record<string, ConfigValue>> = {
  path: '/usr/bin/qemu-system-x86_64', kernel: '/usr/share/kata-containers/vmlinuz.container', machine_type: 'q35', default_vcpus: 1,
  default_maxvcpus: 4, default_memory: 2048, memory_slots: 10, default_maxmemory: 8192, default_bridges: 1, shared_fs: 'virtio-fs',
  virtio_fs_cache: 'none', msize_9p: 512_000, block_device_driver: 'virtio-scsi', block_device_aio: 'io_uring',
  vhost_user_store_path: '/var/run/kata-containers/vhost-user/', entropy_source: '/dev/urandom', rootfs_type: 'ext4', hypervisor_loglevel: 1,
  hot_plug_vfio: 'no-port', cold_plug_vfio: 'no-port', measurement_algo: 'sha512', accelerator: 'auto', agent_channel: 'auto', initrd: '/i',
  template_path: '/run/vc/vm/template', vm_cache_endpoint: '/var/run/kata-containers/cache.sock', internetworking_model: 'tcfilter',
  vfio_mode: 'guest-kernel', create_container_timeout: 60, jaeger_endpoint: 'http://localhost:14268/api/traces', emptydir_mode: 'shared-fs',
  dan_conf: '/run/kata-containers/dans', kubelet_root_dir: '/var/lib/kubelet',
};

test('every default is the one of the tables', { skip: process.arch === 'x64' ? false : 'paths and machine of x86_64' }, () => {
  const config = parse(base());
  const zeros: Readonly<Record<KeySpec['kind'], ConfigValue>> = { string: '', boolean: false, integer: 0, number: 0, strings: [], tables: [] };
  for (const [section, keys, fields] of SECTIONS) {
    for (const spec of keys) {
      const value = valueIn(config, section, spec.key);
      if (fields.has(fieldOf(spec.key)) || value !== undefined) {
        assert.deepEqual(value, DEFAULTS[spec.key] ?? zeros[spec.kind], `${section}.${spec.key}`);
      }
    }
  }
  assert.deepEqual([config.hypervisor.type, config.warnings, config.dropIns], ['qemu', [], []]);
  assert.deepEqual(parse(base('clh')).hypervisor.blockDeviceDriver, 'virtio-blk');
  assert.deepEqual(parse(base('firecracker')).hypervisor.blockDeviceDriver, 'virtio-mmio');
  assert.equal(parse('[hypervisor.mock]').hypervisor.type, 'mock');
  assert.equal(parse('[hypervisor.remote]').hypervisor.sharedFs, 'none');
});

/** A value of the right type that is not the default, as TOML text. */
function good(spec: KeySpec): string {
  switch (spec.kind) {
    case 'string':
      return JSON.stringify(spec.key === 'block_device_driver' ? 'virtio-blk' : (spec.choices?.at(-1) ?? '/some/where'));
    case 'boolean':
      return 'true';
    case 'integer':
    case 'number':
      return String(Math.min(3, spec.max ?? 3));
    case 'strings':
      return '["a"]';
    case 'tables':
      return '[{ name = "a", path = "/p" }]';
  }
}

/** Values of every wrong type. */
function bad(spec: KeySpec): string[] {
  const all: Readonly<Record<string, string>> = { string: '"text"', boolean: 'true', integer: '7', float: '1.5', strings: '["a"]', numbers: '[1, 2]', table: '{ a = 1 }', date: '1979-05-27', nan: 'nan', inf: 'inf' };
  const fitting: Readonly<Record<KeySpec['kind'], readonly string[]>> = {
    string: spec.choices === undefined ? ['string'] : [], boolean: ['boolean'], integer: ['integer'], number: ['integer', 'float'], strings: ['strings'], tables: [],
  };
  const values = Object.entries(all).filter(([kind]) => !fitting[spec.kind].includes(kind)).map(([, value]) => value);
  if (spec.kind === 'integer' || spec.kind === 'number') {
    values.push(String(BigInt(spec.max ?? UINT32) + 1n), '9223372036854775807', String(BigInt(spec.min ?? 0) - 1n));
  }
  if (spec.kind === 'integer') {
    values.push('1.0', '"1"');
  }
  return values;
}

/** Keys whose good value breaks a rule between keys. */
const RULES = new Set(['image', 'disable_new_netns', 'enable_template', 'experimental', 'enable_vhost_user_store', 'block_device_logical_sector_size', 'block_device_physical_sector_size', 'snp_id_block', 'snp_id_auth', 'initrd', 'kernel_verity_params']);
/** Asks for a protection that is not given: refused on their own, see below. */
const isRefused = (spec: KeySpec): boolean => spec.status === 'refused';

test('every key takes a value of its type and says where it comes from', () => {
  for (const [section, keys] of SECTIONS) {
    for (const spec of keys.filter((candidate) => !RULES.has(candidate.key) && !isRefused(candidate))) {
      const initrd = section === 'hypervisor.qemu' ? '\ninitrd = "/i"' : '';
      const config = parse(withLine(section, `${spec.key} = ${good(spec)}${initrd}`));
      assert.match(config.sources.get(`${section}.${spec.key}`) ?? '', /^\/c\.toml:\d+$/, spec.key);
      const reported = config.warnings.some((warning) => warning.includes(`.${spec.key} `));
      if (spec.status === 'later' && spec.kind === 'boolean' && spec.inert === undefined) {
        assert.ok(reported, `${spec.key} is not honoured and must be reported`);
      }
      const spelt = parse(withLine(section, `${spec.key.toUpperCase()} = ${good(spec)}${initrd}`));
      assert.deepEqual(valueIn(spelt, section, spec.key), valueIn(config, section, spec.key), spec.key);
    }
  }
});

test('every key refuses every wrong type and what is out of range, naming file, line and key', () => {
  for (const [section, keys] of SECTIONS) {
    for (const spec of keys) {
      for (const value of bad(spec)) {
        const text = withLine(section, `${spec.key} = ${value}`);
        const line = section === 'hypervisor.qemu' ? 2 : 4;
        assert.throws(
          () => parse(text),
          (error) => isCode(error, 'InvalidArgument') && describeError(error).includes(`/c.toml:${String(line)}: ${section}.${spec.key}: found `) && (error as KataError).hint !== undefined,
          `${section}.${spec.key} = ${value}`,
        );
      }
    }
  }
});

test('zero, "" and [] mean the default, as upstream', () => {
  const config = parse(`${base()}default_vcpus = 0\ndefault_memory = 0\nmemory_slots = 0\ndefault_bridges = 0\nmsize_9p = 0\nshared_fs = ""\nmachine_type = ""\n[runtime]\ninternetworking_model = ""\n[agent.kata]\n`);
  const hv = config.hypervisor;
  assert.deepEqual([hv.defaultVcpus, hv.defaultMemory, hv.memorySlots, hv.defaultBridges, hv.msize9p, hv.sharedFs], [1, 2048, 10, 1, 512_000, 'virtio-fs']);
  assert.equal(hv.machineType, parse(base()).hypervisor.machineType);
  assert.equal(parse(`${base()}[runtime]\ninternetworking_model = "default"`).runtime.internetworkingModel, 'tcfilter');
});

test('sizes are clamped to the host, and what was put right is told', () => {
  const hv = (lines: string) => parse(`${base()}${lines}`).hypervisor;
  assert.equal(hv('default_vcpus = -1').defaultVcpus, 4);
  assert.equal(hv('default_vcpus = 99').defaultVcpus, 4);
  assert.equal(hv('default_vcpus = 1.5').defaultVcpus, 1.5);
  assert.equal(hv('default_maxvcpus = 99').defaultMaxvcpus, 4);
  assert.equal(hv('default_vcpus = 3\ndefault_maxvcpus = 2').defaultMaxvcpus, 3);
  assert.equal(normaliseHypervisor({ ...hv('default_vcpus = 1.5'), confidentialGuest: true }, HOST, []).defaultMaxvcpus, 2);
  assert.equal(hv('pcie_root_port = 17').pcieRootPort, 16);
  assert.equal(hv('default_memory = 255').defaultMemory, 2048);
  assert.equal(hv('default_memory = 256').defaultMemory, 256);
  assert.equal(hv('default_maxmemory = 99999').defaultMaxmemory, 8192);
  assert.equal(hv('default_bridges = 9').defaultBridges, 5);
  assert.equal(hv('machine_accelerators = " a, ,b,"').machineAccelerators, 'a,b');
  assert.equal(hv('machine_type = "microvm"').disableImageNvdimm, true);
  assert.equal(parseConfig(base(), '/c', { host: { cpus: 1000, memoryMiB: 1, arch: 'x64' } }).hypervisor.defaultMaxvcpus, 240);
  assert.equal(parseConfig(base(), '/c', { host: { cpus: 1000, memoryMiB: 1, arch: 'arm64' } }).hypervisor.defaultMaxvcpus, 123);
  const warned = parse(`${base()}default_memory = 1\ndefault_vcpus = 9\ndefault_bridges = 6`).warnings.join('\n');
  assert.match(warned, /default_memory = 1 is less than 256 MiB: 2048 is used\n?/);
  assert.match(warned, /default_vcpus = 9 is more than the host has: 4 is used/);
  assert.equal(parse(`${base('clh')}net_rate_limiter_bw_one_time_burst = 5`).hypervisor.other['net_rate_limiter_bw_one_time_burst'], 0);
});

test('a misspelt key, table or section is refused with what was meant', () => {
  const refused = (text: string, pattern: RegExp) => assert.throws(() => parse(text), (error) => isCode(error, 'InvalidArgument') && pattern.test(describeError(error)), text);
  refused('[hypervisor.qemu]\nkernal = "/k"', /\/c\.toml:2: unknown key "kernal" in \[hypervisor.qemu\] \(did you mean kernel\?\)/);
  refused('[hypervisor.qemu]\ndefault_max_vcpus = 1', /did you mean default_maxvcpus/);
  refused('[hypervisor.qemu]\nfrobnicate = 1', /docs\/configuration.md lists every key/);
  refused(`${base()}[runtime]\nhypervisor_name = "x"`, /c.toml:4: runtime.hypervisor_name: this is a configuration of the Rust runtime/);
  refused(`${base()}[agent.kata]\ndial_timeout_ms = 1`, /c.toml:4: unknown key "dial_timeout_ms" .*Rust runtime/);
  refused('[hypervisor.qemo]\n', /invalid hypervisor section: "qemo" \(did you mean \[hypervisor.qemu\]\?\)/);
  refused('[hypervisor.toString]\n', /invalid hypervisor section: "toString"/);
  refused(`${base()}[runtme]\n`, /\/c\.toml:3: unknown section \[runtme\] \(did you mean \[runtime\]\?\)/);
  refused('hypervisor = 1', /hypervisor is a single value, wanted a table/);
  refused('[hypervisor]\nqemu = 1', /hypervisor.qemu is a single value/);
  refused('[hypervisor.qemu]\nkernel = "a"\nKernel = "b"', /given twice, in different case/);
  refused('[__proto__]\na = 1', /unsafe property/);
  assert.deepEqual(nearest('kernel_parms', ['kernel_params', 'kernel', 'initrd']), ['kernel_params']);
});

test('sections and keys of old versions are accepted, and told once', () => {
  const config = parse(`${base()}use_vsock = true\nenable_swap = true\n[proxy.kata]\npath = "/p"\nx = 1\n[shim.kata]\n[netmon]\nenable_netmon = true\n[image]\nservice_offload = false\n[agent.kata]\ntrace_mode = "dynamic"`);
  assert.equal(config.warnings.length, 7);
  assert.match(config.warnings.join('\n'), /\[proxy\] \(\/c.toml\) is ignored: Kata 1.x|\[proxy\]/);
});

test('a key of another VMM has no effect and is told; templates may spell out what changes nothing', () => {
  assert.deepEqual(parse(`${base()}rootless = false`).warnings, []);
  assert.match(parse(`${base()}disable_seccomp = true\njailer_path = "/j"`).warnings.join('\n'), /disable_seccomp \(\/c.toml:3\) is not supported yet/);
  assert.match(parse(`${base('firecracker')}seccompsandbox = "on"`).warnings.join('\n'), /firecracker does not read it/);
  assert.deepEqual(parse(`${base()}enable_iommu = false\npcie_root_port = 0\nhot_plug_vfio = "no-port"\ndisable_guest_selinux = true\nguest_hook_path = ""`).warnings, []);
});

test('rules between keys name the key and the remedy', () => {
  const refused = (text: string, pattern: RegExp) => assert.throws(() => parse(text), (error) => isCode(error, 'InvalidArgument') && pattern.test(describeError(error)), text);
  refused('[hypervisor.qemu]\n', /\/c.toml:1: hypervisor.qemu.initrd: neither image nor initrd is set/);
  refused('[hypervisor.qemu]\ninitrd = "/i"\nimage = "/x"', /\/c.toml:2: .*image and initrd are both set/);
  refused('[hypervisor.acrn]\ninitrd = "/i"', /acrn boots from an image only/);
  refused(`${base('clh')}shared_fs = "virtio-9p"`, /no virtio-9p/);
  refused(`${base()}[runtime]\ndisable_new_netns = true`, /needs internetworking_model = "none", which is "tcfilter"/);
  refused('[hypervisor.qemu]\nimage = "/x"\n[factory]\nenable_template = true', /a template needs an initrd/);
  refused(`${base()}file_mem_backend = "/d"\n[factory]\nenable_template = true`, /exclude each other/);
  refused(`${base('clh')}[factory]\nvm_cache_number = 1`, /VM cache just supports qemu/);
  refused(`${base()}[runtime]\nexperimental = ["x"]`, /unknown feature "x"/);
  refused(`${base()}enable_vhost_user_store = true`, /needs enable_hugepages/);
  assert.throws(() => { checkRules({ ...parse(base()), hypervisor: { ...parse(base()).hypervisor, confidentialGuest: true, blockDeviceDriver: 'virtio-mmio' } }); }, /may not use virtio-mmio/);
  for (const driver of ['virtio-mmio', 'nvdimm', 'virtio-blk-ccw']) {
    refused(`${base()}block_device_driver = "${driver}"`, new RegExp(`/c.toml:3: hypervisor.qemu.block_device_driver: "${driver}" is not possible with machine_type "q35"`));
  }
  assert.equal(parse(`${base()}machine_type = "microvm"\nblock_device_driver = "virtio-mmio"`).hypervisor.blockDeviceDriver, 'virtio-mmio');
  refused(`${base()}machine_type = "microvm"\nenable_iommu = true`, /c.toml:4: hypervisor.qemu.enable_iommu: machine_type "microvm" has no IOMMU/);
  refused(`${base()}guest_extension_images = [{ name = "a", path = "/1" }, { name = "a", path = "/2" }]`, /two images are named "a"/);
  refused(`${base()}shared_fs = "none"\n[runtime]\nsandbox_bind_mounts = ["/a"]`, /c.toml:5: runtime.sandbox_bind_mounts: there is no share/);
  refused(`${base()}block_device_logical_sector_size = 1000`, /1000 is no sector size/);
  refused(`${base()}block_device_logical_sector_size = 4096\nblock_device_physical_sector_size = 512`, /more than the physical/);
  refused(`${base()}hot_plug_vfio = "root-port"\ncold_plug_vfio = "root-port"`, /both set/);
  refused(`${base()}snp_id_block = "x"`, /needs the other/);
  refused('', /no hypervisor section/);
  refused('[hypervisor.qemu]\n[hypervisor.clh]', /more than one hypervisor: \[hypervisor.qemu\] \(\/c.toml:1\) and \[hypervisor.clh\] \(\/c.toml:2\)/);
  refused(`${base()}[agent.kata]\n[agent.other]`, /more than one agent/);
  assert.ok(parse(`${base()}[runtime]\ndisable_new_netns = true\ninternetworking_model = "none"`).runtime.disableNewNetns);
});

test('what asks for a protection that is not given is refused with its place, and is no more than that', () => {
  const refused = (text: string, pattern: RegExp) => assert.throws(() => parse(text), (error) => (isCode(error, 'InvalidArgument') && pattern.test(describeError(error))) || assert.fail(describeError(error)), text);
  for (const [section, keys] of SECTIONS) {
    for (const spec of keys.filter((candidate) => isRefused(candidate) && candidate.refusal?.values === undefined)) {
      const initrd = section === 'hypervisor.qemu' ? '\ninitrd = "/i"' : '';
      refused(withLine(section, `${spec.key} = ${good(spec)}${initrd}`), new RegExp(`^check configuration /c.toml:\\d: ${section}.${spec.key}: .* is refused: .*not supported`));
      const zero = spec.kind === 'boolean' ? 'false' : '""';
      assert.deepEqual(parse(withLine(section, `${spec.key} = ${zero}${initrd}`)).warnings, [], spec.key);
    }
  }
  assert.deepEqual(SECTIONS.flatMap(([, keys]) => keys.filter(isRefused).map((spec) => spec.key)), ['confidential_guest', 'rootless', 'disable_guest_selinux', 'sev_snp_guest', 'guest_selinux_label', 'experimental_force_guest_pull']);
  refused(`${base()}disable_guest_selinux = false`, /c.toml:3: hypervisor.qemu.disable_guest_selinux: false is refused: containers would run without SELinux/);
  refused(`${base()}shared_fs = "virtio-fs-nydus"`, /"virtio-fs-nydus" is refused: nydus is not supported/);
  refused(`${base()}[runtime]\nemptydir_mode = "block-encrypted"`, /"block-encrypted" is refused/);
  assert.match(parse(`${base()}[runtime]\nemptydir_mode = "block-plain"`).warnings.join(), /emptydir_mode \(\/c.toml:4\) is not supported yet/);
});

test('dm-verity parameters are checked before the guest sees them', () => {
  const hash = 'ab'.repeat(32);
  const whole = `root_hash=${hash},salt=cd01,data_blocks=100,data_block_size=4096,hash_block_size=4096`;
  const image = (params: string) => parse(`[hypervisor.qemu]\nimage = "/i"\nkernel_verity_params = ${JSON.stringify(params)}`);
  assert.equal(image(whole).hypervisor.kernelVerityParams, whole);
  const refused: readonly [string, RegExp][] = [
    [whole.replace(hash, 'zz'), /root_hash is not a SHA-256/], [whole.replace('salt=cd01', 'salt=c'), /salt is neither/], [whole.replace(',salt=cd01', ''), /salt is missing/],
    [whole.replace('=100', '=0'), /data_blocks is no positive/], [whole.replace('hash_block_size=4096', 'hash_block_size=100'), /hash_block_size is no multiple of 512/],
    [`${whole},x=1`, /"x=1" is not one of its fields/], [`${whole} root=/dev/evil`, /is not one of its fields|no positive/], [`${whole},salt=00`, /not one of its fields/],
  ];
  for (const [params, pattern] of refused) {
    assert.throws(() => image(params), (error) => (isCode(error, 'InvalidArgument') && describeError(error).includes('/c.toml:3: hypervisor.qemu.kernel_verity_params: ') && pattern.test(describeError(error))) || assert.fail(describeError(error)), params);
  }
  assert.throws(() => parse(`${base()}kernel_verity_params = "${whole}"`), /only an image can be verified/);
  assert.throws(() => parse(`${base()}guest_extension_images = [{ name = "a", path = "/p", verity_params = "x" }]`), /guest_extension_images: verity_params of "a": "x" is not one/);
});

test('ports for passed devices and NUMA nodes follow the rules of upstream 4.1', () => {
  const refused = (text: string, pattern: RegExp) => assert.throws(() => parse(text), (error) => (isCode(error, 'InvalidArgument') && pattern.test(describeError(error))) || assert.fail(describeError(error)), text);
  refused(`${base('clh')}hot_plug_vfio = "switch-port"`, /c.toml:3: hypervisor.clh.hot_plug_vfio: Cloud Hypervisor has root ports only/);
  assert.ok(parse(`${base('clh')}hot_plug_vfio = "root-port"`));
  refused(`${base()}machine_type = "microvm"\ncold_plug_vfio = "root-port"`, /c.toml:4: hypervisor.qemu.cold_plug_vfio: machine_type "microvm" has no PCIe ports/);
  refused(`${base()}enable_numa = true\nnuma_mapping = ["0", "1"]`, /c.toml:4: hypervisor.qemu.numa_mapping: 2 NUMA nodes are not supported/);
  assert.match(parse(`${base()}enable_numa = true`).warnings.join(), /enable_numa \(\/c.toml:3\) is not supported yet/);
  assert.match(parse(`${base()}pcie_root_port = 20`).warnings.join(), /pcie_root_port = 20 is more than 16/);
});

test('a host in FIPS mode puts its guests into it, whatever the file says', () => {
  const fips = { ...HOST, fips: true };
  assert.equal(parseConfig(`${base()}kernel_params = "fips=0 a"`, '/c', { host: fips }).hypervisor.kernelParams, 'a fips=1');
  assert.equal(parseConfig(base(), '/c', { host: HOST }).hypervisor.kernelParams, '');
});

test('a configuration cut off at any place either fails with its place or is a shorter one that passes', () => {
  const text = `[hypervisor.qemu]\ninitrd = "/i"\nkernel_params = "a b"\nvirtio_fs_extra_args = ["a",\n "b"]\n[agent.kata]\nkernel_modules = ["m"]\n`;
  for (let length = 0; length < text.length; length++) {
    try {
      parse(text.slice(0, length));
    } catch (error) {
      assert.ok(error instanceof KataError && describeError(error).includes('/c.toml'), `${String(length)}: ${describeError(error)}`);
    }
  }
  assert.throws(() => parse('[hypervisor.qemu]\nkernel = "/k'), /read configuration \/c.toml:2: not valid TOML: .* at column \d+: kernel = "\/k/);
});

test('defaults differ by hypervisor where the VMM needs it; a CPU list is counted', () => {
  const path = HYPERVISOR_KEYS.find((spec) => spec.key === 'path');
  assert.ok(path);
  assert.equal(defaultOf(path, 'clh'), '/usr/bin/cloud-hypervisor');
  assert.ok(-INT32 < 0);
  assert.deepEqual(['0', '0-3', '0-1,4,6-7\n', '', 'x'].map(countCpus), [1, 4, 5, 0, 0]);
});
