/** Rules between keys (pure), and what must be there on the host. Every refusal names place, key and remedy. */
import { existsSync, statSync, type Stats } from 'node:fs';
import { KataError } from '../../base/errors';
import { HYPERVISOR_KEYS } from './hypervisor-keys';
import { asksForMore, fieldOf, sameValue, type ConfigValue, type KeySpec } from './schema';
import { RUNTIME_KEYS } from './section-keys';
import { SUPPORTED_HYPERVISORS, type HypervisorConfig, type RuntimeConfig } from './types';
import { parseVerity } from './verity';

/** PCI slots that a template keeps for root ports (hypervisor/qemu/layout.ts). */
const MAX_TEMPLATE_PORTS = 7;

/** Fails the check of one key; the place is where the key was set, else the table, else the file. */
function refuse(config: RuntimeConfig, key: string, what: string, hint: string): never {
  const table = key.slice(0, key.lastIndexOf('.'));
  const where = config.sources.get(key) ?? config.sources.get(table) ?? config.path;
  throw new KataError('InvalidArgument', `check configuration${where === '' ? '' : ` ${where}`}: ${key}: ${what}`, { hint });
}

/** Rules that need no file system. Run at load, and again after annotations. */
export function checkRules(config: RuntimeConfig): void {
  const { hypervisor: hv, runtime, factory } = config;
  const hvKey = (key: string): string => `hypervisor.${hv.type}.${key}`;
  checkRefused(config, `hypervisor.${hv.type}`, HYPERVISOR_KEYS, hv);
  checkRefused(config, 'runtime', RUNTIME_KEYS, runtime);
  if (hv.type !== 'remote' && hv.type !== 'mock') {
    checkGuest(config, hvKey);
  }
  if (runtime.disableNewNetns && runtime.internetworkingModel !== 'none') {
    refuse(config, 'runtime.disable_new_netns', `needs internetworking_model = "none", which is "${runtime.internetworkingModel}"`, 'set internetworking_model = "none" in [runtime], or remove disable_new_netns');
  }
  if (factory.enableTemplate && hv.type === 'qemu' && hv.initrd === '') {
    refuse(config, 'factory.enable_template', 'a template needs an initrd', `set initrd in [hypervisor.${hv.type}] instead of image, or enable_template = false`);
  }
  if (factory.enableTemplate && hv.fileMemBackend !== '') {
    refuse(config, 'factory.enable_template', 'a template and file_mem_backend exclude each other', `remove file_mem_backend from [hypervisor.${hv.type}]`);
  }
  if (factory.enableTemplate && hv.guestExtensionImages.length > 0) {
    refuse(config, hvKey('guest_extension_images'), 'a template has none', 'set guest_extension_images = [], or enable_template = false');
  }
  if (factory.enableTemplate && hv.pcieRootPort > MAX_TEMPLATE_PORTS) {
    refuse(config, hvKey('pcie_root_port'), `a template has room for ${String(MAX_TEMPLATE_PORTS)} root ports`, `set pcie_root_port to ${String(MAX_TEMPLATE_PORTS)} or less, or enable_template = false`);
  }
  if (factory.vmCacheNumber > 0 && hv.type !== 'qemu') {
    refuse(config, 'factory.vm_cache_number', 'VM cache just supports qemu', 'set vm_cache_number = 0, or use [hypervisor.qemu]');
  }
  const [experimental] = runtime.experimental;
  if (experimental !== undefined) {
    refuse(config, 'runtime.experimental', `unknown feature "${experimental}"`, 'there are no experimental features: set experimental = []');
  }
  if (runtime.sandboxBindMounts.length > 0 && hv.sharedFs === 'none') {
    refuse(config, 'runtime.sandbox_bind_mounts', 'there is no share that the guest could see them in: shared_fs is "none"', 'set sandbox_bind_mounts = [], or shared_fs to "virtio-fs" or "virtio-9p"');
  }
  checkDevices(config, hvKey);
  checkPorts(config, hvKey);
  if (hv.type === 'qemu') {
    checkQemu(config, hvKey);
  }
}

/** Keys that ask for a protection which is not given here: ignoring them would be worse than not starting. */
function checkRefused(config: RuntimeConfig, table: string, keys: readonly KeySpec[], part: object): void {
  const values = new Map(Object.entries({ ...('other' in part && typeof part.other === 'object' ? part.other : {}), ...part }));
  for (const spec of keys) {
    const value = values.get(fieldOf(spec.key)) ?? values.get(spec.key);
    if (spec.refusal === undefined || value === undefined || !config.sources.has(`${table}.${spec.key}`)) {
      continue;
    }
    const { values: refused, why, hint } = spec.refusal;
    const given = value as ConfigValue;
    if (refused === undefined ? asksForMore(spec, config.hypervisor.type, given) : refused.some((one) => sameValue(one, given))) {
      refuse(config, `${table}.${spec.key}`, `${JSON.stringify(given)} is refused: ${why}`, hint);
    }
  }
}

function checkGuest(config: RuntimeConfig, hvKey: (key: string) => string): void {
  const hv = config.hypervisor;
  if (hv.kernel === '') {
    refuse(config, hvKey('kernel'), 'no guest kernel', 'set kernel to the path of a kernel');
  }
  if (hv.image !== '' && hv.initrd !== '') {
    refuse(config, hvKey('initrd'), 'image and initrd are both set', 'keep one of them; a drop-in unsets the other with ""');
  }
  if (hv.image === '' && hv.initrd === '' && !(hv.confidentialGuest && hv.machineType === 's390-ccw-virtio')) {
    refuse(config, hvKey('initrd'), 'neither image nor initrd is set', 'set one of them to the root file system of the guest');
  }
  if (hv.type === 'acrn' && hv.image === '') {
    refuse(config, hvKey('image'), 'acrn boots from an image only', 'set image');
  }
  if (hv.type === 'clh' && hv.sharedFs === 'virtio-9p') {
    refuse(config, hvKey('shared_fs'), 'Cloud Hypervisor has no virtio-9p', 'use "virtio-fs" or "none"');
  }
  if (hv.kernelVerityParams !== '') {
    checkVerity(config, hvKey('kernel_verity_params'), hv.kernelVerityParams);
    if (hv.image === '') {
      refuse(config, hvKey('kernel_verity_params'), 'only an image can be verified, and there is none', 'set image instead of initrd, or kernel_verity_params = ""');
    }
  }
  for (const extension of hv.guestExtensionImages) {
    if ((extension.verity_params ?? '') !== '') {
      checkVerity(config, hvKey('guest_extension_images'), extension.verity_params ?? '', `verity_params of "${extension.name}": `);
    }
  }
}

function checkVerity(config: RuntimeConfig, key: string, text: string, of = ''): void {
  try {
    parseVerity(text);
  } catch (reason) {
    const error = KataError.from(reason, '');
    refuse(config, key, `${of}${reason instanceof Error ? reason.message : String(reason)}`, error.hint ?? 'correct it');
  }
}

/** What the other drivers of block devices, and the other machines, would need. */
function checkQemu(config: RuntimeConfig, hvKey: (key: string) => string): void {
  const hv = config.hypervisor;
  const isMicrovm = hv.machineType === 'microvm';
  const fits = hv.blockDeviceDriver === 'virtio-mmio' ? isMicrovm : hv.blockDeviceDriver === 'virtio-blk-ccw' ? hv.machineType === 's390-ccw-virtio' : hv.blockDeviceDriver !== 'nvdimm';
  if (!fits) {
    refuse(config, hvKey('block_device_driver'), `"${hv.blockDeviceDriver}" is not possible with machine_type "${hv.machineType}"`, 'use "virtio-scsi" or "virtio-blk"');
  }
  if (hv.enableIommu && isMicrovm) {
    refuse(config, hvKey('enable_iommu'), 'machine_type "microvm" has no IOMMU', 'use machine_type = "q35", or enable_iommu = false');
  }
  const names = new Set<string>();
  for (const { name } of hv.guestExtensionImages) {
    if (names.has(name)) {
      refuse(config, hvKey('guest_extension_images'), `two images are named "${name}"`, 'their names must differ');
    }
    names.add(name);
  }
}

/** Ports for passed devices, and NUMA nodes: upstream 4.1's rules. */
function checkPorts(config: RuntimeConfig, hvKey: (key: string) => string): void {
  const hv = config.hypervisor;
  const port = (key: string): unknown => hv.other[key] ?? 'no-port';
  for (const key of ['hot_plug_vfio', 'cold_plug_vfio']) {
    if (port(key) === 'no-port') {
      continue;
    }
    if (hv.type === 'clh' && port(key) !== 'root-port') {
      refuse(config, hvKey(key), `Cloud Hypervisor has root ports only, not "${String(port(key))}"`, 'use "root-port" or "no-port"');
    }
    if (hv.type === 'qemu' && !['q35', 'virt', 's390-ccw-virtio'].includes(hv.machineType)) {
      refuse(config, hvKey(key), `machine_type "${hv.machineType}" has no PCIe ports`, 'use machine_type = "q35" (or "virt"), or "no-port"');
    }
  }
  if (port('hot_plug_vfio') !== 'no-port' && port('cold_plug_vfio') !== 'no-port') {
    refuse(config, hvKey('hot_plug_vfio'), 'hot_plug_vfio and cold_plug_vfio are both set', 'set one of them to "no-port"');
  }
  const mapping = hv.other['numa_mapping'];
  if (hv.other['enable_numa'] === true && Array.isArray(mapping) && mapping.length > 1) {
    refuse(config, hvKey('numa_mapping'), `${String(mapping.length)} NUMA nodes are not supported: the guest has one`, 'set enable_numa = false, or numa_mapping to one node');
  }
}

function checkDevices(config: RuntimeConfig, hvKey: (key: string) => string): void {
  const hv = config.hypervisor;
  if (hv.enableVhostUserStore && !hv.enableHugepages) {
    refuse(config, hvKey('enable_vhost_user_store'), 'needs enable_hugepages', 'set enable_hugepages = true too');
  }
  if (hv.confidentialGuest && hv.blockDeviceDriver === 'virtio-mmio') {
    refuse(config, hvKey('block_device_driver'), 'a confidential guest may not use virtio-mmio', 'use "virtio-scsi" or "virtio-blk"');
  }
  const sector = (key: string, value: number): number => {
    if (value !== 0 && (value < 512 || value > 65536 || (value & (value - 1)) !== 0)) {
      refuse(config, hvKey(key), `${String(value)} is no sector size`, 'use 0 or a power of two from 512 to 65536');
    }
    return value;
  };
  const logical = sector('block_device_logical_sector_size', hv.blockDeviceLogicalSectorSize);
  const physical = sector('block_device_physical_sector_size', hv.blockDevicePhysicalSectorSize);
  if (logical > 0 && physical > 0 && logical > physical) {
    refuse(config, hvKey('block_device_logical_sector_size'), `is more than the physical sector size, ${String(physical)}`, 'lower it');
  }
  if ((hv.other['snp_id_block'] === undefined) !== (hv.other['snp_id_auth'] === undefined)) {
    refuse(config, hvKey(hv.other['snp_id_block'] === undefined ? 'snp_id_auth' : 'snp_id_block'), 'needs the other of snp_id_block and snp_id_auth', 'set both or none');
  }
}

/** Where virtiofsd lives on the distributions that we know, best first. */
export const KNOWN_VIRTIOFSD: readonly string[] = ['/usr/libexec/virtiofsd', '/usr/lib/qemu/virtiofsd', '/opt/kata/libexec/virtiofsd', '/usr/lib/virtiofsd', '/usr/bin/virtiofsd'];

/**
 * Looks at the files that the configuration names. Returns the configuration with virtio_fs_daemon filled in, and with
 * a warning for an image that is larger than the memory. `mock` has no assets. Unimplemented for a VMM without a driver.
 */
export function checkFiles(config: RuntimeConfig, knownDaemons: readonly string[] = KNOWN_VIRTIOFSD): RuntimeConfig {
  const hv = config.hypervisor;
  for (const source of config.runtime.sandboxBindMounts) {
    fileOf(config, 'runtime.sandbox_bind_mounts', source, false);
  }
  checkBaseNames(config);
  if (!SUPPORTED_HYPERVISORS.includes(hv.type)) {
    throw new KataError('Unimplemented', `check configuration ${config.sources.get(`hypervisor.${hv.type}`) ?? config.path}: hypervisor ${hv.type} is not supported yet`, {
      hint: `use one of ${SUPPORTED_HYPERVISORS.join(', ')}: [hypervisor.<name>]`,
    });
  }
  if (hv.type === 'mock') {
    return config;
  }
  const key = (name: string): string => `hypervisor.${hv.type}.${name}`;
  const jailer = hv.other['jailer_path'];
  const assets: [string, string][] = [
    ['path', hv.path],
    ['kernel', hv.kernel],
    ['firmware', hv.firmware],
    ['firmware_volume', hv.firmwareVolume],
    ['jailer_path', typeof jailer === 'string' ? jailer : ''],
    ...hv.pflashes.map((path): [string, string] => ['pflashes', path]),
    ...hv.guestExtensionImages.map(({ path }): [string, string] => ['guest_extension_images', path]),
  ];
  for (const [name, path] of assets) {
    if (path !== '') {
      fileOf(config, key(name), path, true);
    }
  }
  if (hv.fileMemBackend !== '' && !fileOf(config, key('file_mem_backend'), hv.fileMemBackend, false).isDirectory()) {
    refuse(config, key('file_mem_backend'), `${hv.fileMemBackend} is not a folder`, 'name a folder, such as /dev/shm');
  }
  const warnings = [...config.warnings];
  checkRootSize(config, hv, warnings);
  return { ...config, warnings, hypervisor: { ...hv, virtioFsDaemon: findDaemon(config, hv, knownDaemons) } };
}

function fileOf(config: RuntimeConfig, key: string, path: string, regular: boolean): Stats {
  if (!path.startsWith('/')) {
    refuse(config, key, `"${path}" is not an absolute path`, 'write the whole path');
  }
  let info: Stats | undefined;
  try {
    info = statSync(path, { throwIfNoEntry: false });
  } catch (reason) {
    throw KataError.from(reason, `check configuration ${config.sources.get(key) ?? config.path}: ${key}`);
  }
  if (info === undefined) {
    refuse(config, key, `file ${path} does not exist`, `install it, or correct ${key.slice(key.lastIndexOf('.') + 1)}`);
  }
  if (regular && info.isDirectory()) {
    refuse(config, key, `${path} is a folder`, 'name the file');
  }
  return info;
}

/** Upstream's rule: the initrd is unpacked into memory, so it must be smaller; an image only should be. */
function checkRootSize(config: RuntimeConfig, hv: HypervisorConfig, warnings: string[]): void {
  const name = hv.initrd !== '' ? 'initrd' : 'image';
  const path = hv[name];
  if (path === '') {
    return;
  }
  const key = `hypervisor.${hv.type}.${name}`;
  const info = fileOf(config, key, path, true);
  if (info.isFile() && info.size === 0) {
    refuse(config, key, `${path} is empty`, 'build or install the guest again');
  }
  const sizeMiB = Math.floor(info.size / 1048576);
  if (sizeMiB >= hv.defaultMemory) {
    if (name === 'initrd') {
      refuse(config, key, `${path} has ${String(sizeMiB)} MiB, the VM only ${String(hv.defaultMemory)} MiB of memory`, 'raise default_memory');
    }
    const warning = `${key}: ${path} has ${String(sizeMiB)} MiB, the VM only ${String(hv.defaultMemory)} MiB of memory (default_memory)`;
    if (!warnings.includes(warning)) {
      warnings.push(warning);
    }
  }
}

const WITH_DAEMON: ReadonlySet<string> = new Set(['qemu', 'clh', 'stratovirt']);

function findDaemon(config: RuntimeConfig, hv: HypervisorConfig, known: readonly string[]): string {
  const needed = hv.sharedFs.startsWith('virtio-fs') && WITH_DAEMON.has(hv.type);
  if (!needed) {
    return hv.virtioFsDaemon;
  }
  const there = known.find((path) => existsSync(path));
  const key = `hypervisor.${hv.type}.virtio_fs_daemon`;
  if (hv.virtioFsDaemon === '') {
    return there ?? refuse(config, key, `cannot enable ${hv.sharedFs} without daemon path in configuration file`, 'install virtiofsd and set virtio_fs_daemon, or set shared_fs to "virtio-9p" or "none"');
  }
  if (!existsSync(hv.virtioFsDaemon)) {
    refuse(config, key, `file ${hv.virtioFsDaemon} does not exist`, there === undefined ? 'install virtiofsd, or set shared_fs to "virtio-9p" or "none"' : `set virtio_fs_daemon = "${there}"`);
  }
  return hv.virtioFsDaemon;
}

function checkBaseNames(config: RuntimeConfig): void {
  const names = new Set<string>();
  for (const source of config.runtime.sandboxBindMounts) {
    const name = source.replace(/\/+$/, '').split('/').pop() ?? '';
    if (names.has(name)) {
      refuse(config, 'runtime.sandbox_bind_mounts', `two sources are named "${name}"`, 'their last parts must differ');
    }
    names.add(name);
  }
}
