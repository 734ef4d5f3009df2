/** Every annotation that changes the configuration of a sandbox (reference cli-and-config.md, section 3). */
import type { SectionName } from './layers';

export const CONFIG_PREFIX = 'io.katacontainers.config.';

/**
 * How a value becomes a setting: `value` by the type of its key; `asset` an absolute path; `gated` a path that a list of
 * globs must allow; `params` appended, same names replaced; `json` a JSON list, appended; `words`/`modules` a list
 * between blanks or semicolons; `hash` SHA-512 of a file; `unread` known but without effect, as upstream; `refused`
 * guards something, so that ignoring it would be wrong.
 */
export type AnnotationKind = 'value' | 'asset' | 'gated' | 'params' | 'json' | 'words' | 'modules' | 'hash' | 'unread' | 'refused';

export interface AnnotationSpec {
  /** Whole name. */
  readonly name: string;
  readonly section: SectionName;
  /** Key of the section that it sets; for `hash` the asset. */
  readonly key: string;
  readonly kind: AnnotationKind;
  /** For `gated`: the key with the globs. */
  readonly validKey?: string;
  readonly min?: number;
  readonly max?: number;
  readonly choices?: readonly string[];
  /** An empty value (or 0 for numbers) changes nothing. */
  readonly skipEmpty?: boolean;
}

function rows(section: SectionName, names: readonly string[], more: Partial<AnnotationSpec> = {}): AnnotationSpec[] {
  return names.map((key) => ({ name: `${CONFIG_PREFIX}${section}.${key}`, section, key, kind: 'value', ...more }));
}

function gated(key: string, validKey: string): AnnotationSpec {
  return { name: `${CONFIG_PREFIX}hypervisor.${key}`, section: 'hypervisor', key, kind: 'gated', validKey };
}

/** An annotation whose name differs from its key. */
function renamed(suffix: string, key: string, more: Partial<AnnotationSpec> = {}): AnnotationSpec {
  return { name: `${CONFIG_PREFIX}hypervisor.${suffix}`, section: 'hypervisor', key, kind: 'value', ...more };
}

const HYPERVISOR: readonly AnnotationSpec[] = [
  ...rows('hypervisor', ['kernel', 'image', 'initrd', 'firmware', 'firmware_volume'], { kind: 'asset' }),
  gated('path', 'valid_hypervisor_paths'),
  gated('jailer_path', 'valid_jailer_paths'),
  gated('ctlpath', 'valid_ctlpaths'),
  gated('file_mem_backend', 'valid_file_mem_backends'),
  gated('virtio_fs_daemon', 'valid_virtio_fs_daemon_paths'),
  gated('vhost_user_store_path', 'valid_vhost_user_store_paths'),
  gated('entropy_source', 'valid_entropy_sources'),
  ...['kernel', 'image', 'initrd', 'firmware', 'firmware_volume'].map((asset) => renamed(`${asset}_hash`, asset, { kind: 'hash' })),
  renamed('hypervisor_hash', 'path', { kind: 'hash' }),
  renamed('hypervisorctl_hash', 'ctlpath', { kind: 'hash' }),
  renamed('jailer_hash', 'jailer_path', { kind: 'hash' }),
  ...rows('hypervisor', ['kernel_params'], { kind: 'params', skipEmpty: true }),
  ...rows('hypervisor', ['machine_type', 'machine_accelerators', 'cpu_features', 'guest_hook_path', 'kernel_verity_params', 'default_gpu_model'], { skipEmpty: true }),
  ...rows('hypervisor', ['default_vcpus', 'default_memory'], {}),
  renamed('default_max_vcpus', 'default_maxvcpus'),
  ...rows('hypervisor', ['memory_slots', 'memory_offset'], { skipEmpty: true }),
  ...rows('hypervisor', [
    'enable_virtio_mem', 'enable_mem_prealloc', 'enable_hugepages', 'enable_iommu', 'enable_iommu_platform', 'enable_guest_swap', 'rootless',
    'disable_block_device_use', 'enable_iothreads', 'block_device_cache_set', 'block_device_cache_direct', 'block_device_cache_noflush',
    'disable_vhost_net', 'enable_vhost_user_store', 'disable_image_nvdimm', 'hotplug_vfio_on_root_bus', 'use_legacy_serial',
    'reclaim_guest_freed_memory', 'rx_rate_limiter_max_rate', 'tx_rate_limiter_max_rate', 'pcie_root_port', 'pcie_switch_port',
    'virtio_fs_cache', 'virtio_fs_cache_size', 'block_device_driver', 'block_device_aio', 'vhost_user_reconnect_timeout_sec',
    'hot_plug_vfio', 'cold_plug_vfio', 'default_gpus',
  ]),
  ...rows('hypervisor', ['msize_9p'], { min: 1 }),
  ...rows('hypervisor', ['shared_fs'], { choices: ['virtio-9p', 'virtio-fs'] }),
  ...rows('hypervisor', ['indep_iothreads'], { min: 1, max: 50 }),
  ...rows('hypervisor', ['virtio_fs_extra_args'], { kind: 'json' }),
  ...rows('hypervisor', ['numa_mapping'], { kind: 'words' }),
  renamed('blk_logical_sector_size', 'block_device_logical_sector_size'),
  renamed('blk_physical_sector_size', 'block_device_physical_sector_size'),
  ...rows('hypervisor', ['use_vsock', 'asset_hash_type'], { kind: 'unread' }),
  ...rows('hypervisor', ['cc_init_data'], { kind: 'refused' }),
];

const OTHERS: readonly AnnotationSpec[] = [
  ...rows('runtime', [
    'disable_guest_seccomp', 'sandbox_cgroup_only', 'enable_pprof', 'disable_new_netns', 'internetworking_model', 'vfio_mode',
    'guest_selinux_label', 'create_container_timeout', 'experimental_force_guest_pull',
  ]),
  ...rows('runtime', ['experimental'], { kind: 'words' }),
  { name: 'io.katacontainers.enable_vcpus_pinning', section: 'runtime', key: 'enable_vcpus_pinning', kind: 'value' },
  ...rows('agent', ['kernel_modules'], { kind: 'modules' }),
  ...rows('agent', ['enable_tracing', 'container_pipe_size']),
  ...rows('agent', ['policy'], { kind: 'refused' }),
];

export const ANNOTATIONS: ReadonlyMap<string, AnnotationSpec> = new Map([...HYPERVISOR, ...OTHERS].map((spec) => [spec.name, spec]));
