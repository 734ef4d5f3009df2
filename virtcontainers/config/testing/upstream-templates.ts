/**
 * The configurations that upstream ships with 3.0.0 and 4.1: which keys each sets, and to what (values as TOML). Facts,
 * put together key by key; a release puts its files below /opt/kata.
 */
export type Keys = Readonly<Record<string, string>>;

export interface Template {
  readonly hypervisor: string;
  readonly keys: Keys;
  /** Absent: the file has no such section. */
  readonly factory?: Keys;
  readonly agent: Keys;
  readonly runtime: Keys;
  readonly image?: Keys;
}

const SHARE = '/opt/kata/share/kata-containers';
const quoted = (text: string): string => JSON.stringify(text);
const listed = (...items: readonly string[]): string => JSON.stringify(items);

/** Without some keys, and with others; `null` takes a key away. */
function change(keys: Keys, changes: Readonly<Record<string, string | null>>): Keys {
  const out: Record<string, string> = { ...keys };
  for (const [key, value] of Object.entries(changes)) {
    if (value === null) {
      // eslint-disable-next-line @typescript-eslint/no-dynamic-delete
      delete out[key];
    } else {
      out[key] = value;
    }
  }
  return out;
}

function only(keys: Keys, names: string): Keys {
  return Object.fromEntries(names.split(/\s+/).filter((name) => name !== '').map((name) => [name, keys[name] ?? '']));
}

const program = (name: string): Keys => ({ path: quoted(`/opt/kata/bin/${name}`), valid_hypervisor_paths: listed(`/opt/kata/bin/${name}`) });
const OFF = (names: string): Keys => Object.fromEntries(names.split(' ').map((name) => [name, 'false']));
const ZERO = (names: string): Keys => Object.fromEntries(names.split(' ').map((name) => [name, '0']));
const EMPTY = (names: string): Keys => Object.fromEntries(names.split(' ').map((name) => [name, '""']));
const LIMITS = ZERO(['disk', 'net'].flatMap((what) => ['bw', 'ops'].flatMap((unit) => ['max_rate', 'one_time_burst'].map((rule) => `${what}_rate_limiter_${unit}_${rule}`))).join(' '));

const QEMU_3: Keys = {
  ...program('qemu-system-x86_64'),
  kernel: quoted(`${SHARE}/vmlinux.container`),
  image: quoted(`${SHARE}/kata-containers.img`),
  machine_type: '"q35"',
  enable_annotations: listed('enable_iommu'),
  ...EMPTY('kernel_params firmware firmware_volume machine_accelerators'),
  cpu_features: '"pmu=off"',
  default_vcpus: '1', default_maxvcpus: '0', default_bridges: '1', default_memory: '2048', default_maxmemory: '0',
  disable_block_device_use: 'false',
  shared_fs: '"virtio-fs"',
  virtio_fs_daemon: '"/opt/kata/libexec/virtiofsd"',
  valid_virtio_fs_daemon_paths: listed('/opt/kata/libexec/virtiofsd'),
  virtio_fs_cache_size: '0',
  virtio_fs_extra_args: listed('--thread-pool-size=1', '-o', 'announce_submounts'),
  virtio_fs_cache: '"auto"',
  block_device_driver: '"virtio-scsi"',
  block_device_aio: '"io_uring"',
  ...OFF('enable_iothreads enable_vhost_user_store disable_selinux'),
  vhost_user_store_path: '"/var/run/kata-containers/vhost-user"',
  valid_vhost_user_store_paths: listed('/var/run/kata-containers/vhost-user'),
  valid_file_mem_backends: listed(''),
  pflashes: '[]',
  valid_entropy_sources: listed('/dev/urandom', '/dev/random', ''),
};
const RUNTIME_3: Keys = {
  internetworking_model: '"tcfilter"',
  disable_guest_seccomp: 'true',
  sandbox_cgroup_only: 'false',
  static_sandbox_resource_mgmt: 'false',
  sandbox_bind_mounts: '[]',
  vfio_mode: '"guest-kernel"',
  disable_guest_empty_dir: 'false',
  experimental: '[]',
};
const FIRECRACKER = { ...program('firecracker'), jailer_path: '"/opt/kata/bin/jailer"', valid_jailer_paths: listed('/opt/kata/bin/jailer'), block_device_driver: '"virtio-mmio"' };

/** Of 3.0.0. */
export const TEMPLATES_3_0: Readonly<Record<string, Template>> = {
  qemu: { hypervisor: 'qemu', keys: QEMU_3, factory: {}, agent: { kernel_modules: '[]' }, runtime: RUNTIME_3, image: {} },
  clh: {
    hypervisor: 'clh',
    keys: {
      ...only(QEMU_3, 'kernel image disable_selinux enable_annotations kernel_params default_vcpus default_maxvcpus default_memory default_maxmemory shared_fs virtio_fs_daemon valid_virtio_fs_daemon_paths virtio_fs_cache_size virtio_fs_extra_args virtio_fs_cache'),
      ...program('cloud-hypervisor'),
      block_device_driver: '"virtio-blk"',
    },
    agent: {}, runtime: RUNTIME_3, image: {},
  },
  fc: {
    hypervisor: 'firecracker',
    keys: { ...only(QEMU_3, 'kernel image enable_annotations kernel_params default_vcpus default_maxvcpus default_bridges default_memory default_maxmemory valid_entropy_sources disable_selinux'), ...FIRECRACKER },
    factory: {}, agent: { kernel_modules: '[]' },
    runtime: change(RUNTIME_3, { static_sandbox_resource_mgmt: 'true', sandbox_bind_mounts: null, vfio_mode: null }),
  },
  acrn: {
    hypervisor: 'acrn',
    keys: {
      ...only(QEMU_3, 'kernel image enable_annotations kernel_params firmware default_bridges default_memory disable_selinux'),
      ...program('acrn-dm'), ctlpath: '"/opt/kata/bin/acrnctl"', valid_ctlpaths: listed('/opt/kata/bin/acrnctl'), default_maxvcpus: '1', block_device_driver: '"virtio-blk"',
    },
    agent: {},
    runtime: change(RUNTIME_3, { internetworking_model: '"macvtap"', static_sandbox_resource_mgmt: null, sandbox_bind_mounts: null, vfio_mode: null }),
  },
};

const ANNOTATIONS_4 = ['enable_iommu', 'kernel_params', 'kernel_verity_params'];
const QEMU_4: Keys = {
  ...change(QEMU_3, { valid_file_mem_backends: null }),
  rootfs_type: '"ext4"',
  enable_annotations: listed(...ANNOTATIONS_4),
  ...OFF('rootless enable_virtio_mem block_device_cache_set block_device_cache_direct block_device_cache_noflush enable_mem_prealloc reclaim_guest_freed_memory enable_hugepages enable_iommu enable_iommu_platform enable_numa enable_debug disable_nesting_checks disable_image_nvdimm disable_vhost_net guest_memory_dump_paging enable_guest_swap use_legacy_serial'),
  ...ZERO('memory_offset block_device_logical_sector_size block_device_physical_sector_size indep_iothreads vhost_user_reconnect_timeout_sec pcie_root_port rx_rate_limiter_max_rate tx_rate_limiter_max_rate'),
  ...EMPTY('seccompsandbox extra_monitor_socket guest_hook_path guest_memory_dump_path'),
  memory_slots: '10',
  disable_block_device_use: 'true',
  virtio_fs_queue_size: '1024',
  virtio_fs_extra_args: listed('--thread-pool-size=1', '--announce-submounts'),
  numa_mapping: '[]',
  msize_9p: '8192',
  hot_plug_vfio: '"no-port"',
  cold_plug_vfio: '"no-port"',
  entropy_source: '"/dev/urandom"',
  disable_guest_selinux: 'true',
};
const FACTORY_4: Keys = { enable_template: 'false', template_path: '"/run/vc/vm/template"', vm_cache_number: '0', vm_cache_endpoint: '"/var/run/kata-containers/cache.sock"' };
const AGENT_4: Keys = { ...OFF('enable_debug enable_tracing debug_console_enabled'), kernel_modules: '[]', dial_timeout: '45', cdh_api_timeout: '50' };
const RUNTIME_4: Keys = {
  ...RUNTIME_3,
  ...OFF('enable_debug enable_vcpus_pinning enable_tracing disable_new_netns enable_pprof'),
  ...EMPTY('guest_selinux_label jaeger_endpoint jaeger_user jaeger_password pod_resource_api_sock'),
  disable_guest_empty_dir: 'true',
  emptydir_mode: '"shared-fs"',
  create_container_timeout: '60',
  dan_conf: '"/run/kata-containers/dans"',
  kubelet_root_dir: '"/var/lib/kubelet"',
};
const QEMU: Template = { hypervisor: 'qemu', keys: QEMU_4, factory: FACTORY_4, agent: AGENT_4, runtime: RUNTIME_4 };

type Changes = Readonly<Record<string, string | null>>;
function qemu(keys: Changes, agent: Changes, runtime: Changes): Template {
  return { ...QEMU, keys: change(QEMU_4, keys), agent: change(AGENT_4, agent), runtime: change(RUNTIME_4, runtime) };
}

const COCO_KEYS: Changes = {
  enable_annotations: listed(...ANNOTATIONS_4, 'default_vcpus', 'default_memory', 'cc_init_data'),
  image: quoted(`${SHARE}/kata-containers-confidential.img`),
  kernel_verity_params: '""',
  shared_fs: '"none"',
};
const COCO_RUNTIME: Changes = { emptydir_mode: '"block-encrypted"', experimental_force_guest_pull: 'false', static_sandbox_resource_mgmt: 'true' };
const TEE_KEYS: Changes = { ...COCO_KEYS, confidential_guest: 'true', disable_image_nvdimm: 'true', extra_monitor_socket: null, hot_plug_vfio: null };
const SNP: Changes = { sev_snp_guest: 'true', snp_guest_policy: '196608', snp_id_block: '""', snp_id_auth: '""', firmware: '"/opt/kata/share/ovmf/AMDSEV.fd"' };
const TDX: Changes = { tdx_quote_generation_service_socket_port: '0', firmware: '"/opt/kata/share/ovmf/OVMF.inteltdx.fd"', cpu_features: '"pmu=off"' };

const NVIDIA_KEYS: Changes = {
  disable_image_nvdimm: 'true', disable_nesting_checks: 'true', rootfs_type: '"erofs"', kernel_verity_params: '""',
  kernel_params: '"cgroup_no_v1=all pci=realloc pci=nocrs pci=assign-busses"',
  image: quoted(`${SHARE}/kata-containers-nvidia-gpu.img`),
};
const NVIDIA_RUNTIME: Changes = { sandbox_cgroup_only: 'true', static_sandbox_resource_mgmt: 'true' };
const GPU_KEYS: Changes = { ...NVIDIA_KEYS, cold_plug_vfio: '"root-port"', default_memory: '8192', firmware: '"/opt/kata/share/edk2/OVMF.fd"' };
const GPU_AGENT: Changes = { dial_timeout: '1200', launch_process_timeout: '15', cdh_api_timeout: null, visible_cdi_devices: 'false' };
const GPU_RUNTIME: Changes = { ...NVIDIA_RUNTIME, create_container_timeout: '1200', pod_resource_api_sock: '"/var/lib/kubelet/pod-resources/kubelet.sock"' };

const CLH: Template = {
  hypervisor: 'clh',
  keys: {
    ...only(QEMU_4, 'kernel image rootfs_type rootless disable_selinux disable_guest_selinux enable_annotations kernel_params default_vcpus default_maxvcpus default_memory memory_slots default_maxmemory disable_block_device_use shared_fs virtio_fs_daemon valid_virtio_fs_daemon_paths virtio_fs_cache_size virtio_fs_queue_size virtio_fs_extra_args virtio_fs_cache block_device_cache_set block_device_cache_direct reclaim_guest_freed_memory enable_hugepages enable_iommu enable_debug hot_plug_vfio cold_plug_vfio guest_hook_path'),
    ...program('cloud-hypervisor'), ...LIMITS, block_device_driver: '"virtio-blk"', disable_seccomp: 'false', hypervisor_loglevel: '1', disable_image_nvdimm: 'true',
  },
  agent: change(AGENT_4, { kernel_modules: null }),
  runtime: change(RUNTIME_4, { enable_vcpus_pinning: null }),
};

/** Of 4.1. */
export const TEMPLATES_4_1: Readonly<Record<string, Template>> = {
  qemu: QEMU,
  'qemu-coco-dev': qemu({ ...COCO_KEYS, disable_nesting_checks: 'true' }, { launch_process_timeout: '6' }, COCO_RUNTIME),
  'qemu-nvidia-cpu': qemu(NVIDIA_KEYS, { cdh_api_timeout: null, visible_cdi_devices: 'false' }, NVIDIA_RUNTIME),
  'qemu-nvidia-gpu': qemu({ ...GPU_KEYS, pcie_root_port: '8' }, GPU_AGENT, GPU_RUNTIME),
  'qemu-nvidia-gpu-snp': qemu({ ...TEE_KEYS, ...GPU_KEYS, ...SNP }, GPU_AGENT, { ...COCO_RUNTIME, ...GPU_RUNTIME }),
  'qemu-nvidia-gpu-tdx': qemu({ ...TEE_KEYS, ...GPU_KEYS, ...TDX }, GPU_AGENT, { ...COCO_RUNTIME, ...GPU_RUNTIME }),
  'qemu-se': qemu(
    { ...TEE_KEYS, image: null, kernel_verity_params: null, rootfs_type: null, vhost_user_reconnect_timeout_sec: null, hot_plug_vfio: '"no-port"', cold_plug_vfio: '"bridge-port"' },
    { dial_timeout: '90', launch_process_timeout: '6', cdh_api_timeout: null },
    { ...COCO_RUNTIME, vfio_mode: '"vfio"' },
  ),
  'qemu-snp': qemu({ ...TEE_KEYS, ...SNP, disable_nesting_checks: 'true', cold_plug_vfio: null }, { dial_timeout: '90', launch_process_timeout: '6', cdh_api_timeout: null }, COCO_RUNTIME),
  'qemu-tdx': qemu({ ...TEE_KEYS, ...TDX, cold_plug_vfio: null }, { dial_timeout: '60', launch_process_timeout: '6', cdh_api_timeout: null }, COCO_RUNTIME),
  clh: CLH,
  'clh-azure': { ...CLH, keys: change(CLH.keys, { image: quoted(`${SHARE}/kata-containers-mariner.img`) }), runtime: change(CLH.runtime, { static_sandbox_resource_mgmt: 'true' }) },
  fc: {
    hypervisor: 'firecracker',
    keys: {
      ...only(QEMU_4, 'kernel image rootfs_type enable_annotations kernel_params default_vcpus default_maxvcpus default_bridges default_memory memory_slots memory_offset default_maxmemory block_device_cache_set block_device_cache_noflush enable_mem_prealloc enable_hugepages enable_iommu enable_debug disable_nesting_checks msize_9p entropy_source valid_entropy_sources guest_hook_path rx_rate_limiter_max_rate tx_rate_limiter_max_rate disable_selinux'),
      ...FIRECRACKER,
    },
    factory: { enable_template: 'false' },
    agent: AGENT_4,
    runtime: change(RUNTIME_4, { static_sandbox_resource_mgmt: 'true', enable_vcpus_pinning: null, guest_selinux_label: null, sandbox_bind_mounts: null, vfio_mode: null }),
  },
  stratovirt: {
    hypervisor: 'stratovirt',
    keys: {
      ...only(QEMU_4, 'kernel image rootfs_type enable_annotations kernel_params default_vcpus default_maxvcpus default_bridges default_memory memory_slots default_maxmemory memory_offset disable_block_device_use shared_fs virtio_fs_daemon valid_virtio_fs_daemon_paths virtio_fs_cache_size virtio_fs_extra_args virtio_fs_cache block_device_cache_set block_device_cache_direct block_device_cache_noflush block_device_logical_sector_size block_device_physical_sector_size enable_hugepages enable_iommu enable_debug disable_nesting_checks entropy_source guest_hook_path disable_selinux disable_guest_selinux'),
      ...program('stratovirt'), machine_type: '"microvm"', block_device_driver: '"virtio-mmio"',
    },
    factory: { enable_template: 'false' },
    agent: AGENT_4,
    runtime: change(RUNTIME_4, { static_sandbox_resource_mgmt: 'true', enable_vcpus_pinning: 'true', sandbox_bind_mounts: null, vfio_mode: null }),
  },
  remote: {
    hypervisor: 'remote',
    keys: {
      remote_hypervisor_socket: '"/run/peerpod/hypervisor.sock"', remote_hypervisor_timeout: '600',
      ...only(QEMU_4, 'firmware default_bridges memory_slots enable_debug guest_hook_path disable_selinux disable_guest_selinux'),
      enable_annotations: listed('machine_type', 'default_memory', 'default_vcpus', 'image', 'default_gpus', 'gpu_model', 'cc_init_data'),
    },
    agent: { ...OFF('enable_debug enable_tracing debug_console_enabled'), dial_timeout: '30' },
    runtime: change(RUNTIME_4, { internetworking_model: '"none"', disable_new_netns: 'true', static_sandbox_resource_mgmt: 'true', disable_guest_empty_dir: 'false', enable_vcpus_pinning: null, sandbox_bind_mounts: null }),
  },
};

const RS_HYPERVISORS: Readonly<Record<string, string>> = {
  'clh-azure-runtime-rs': 'clh', 'clh-runtime-rs': 'clh', dragonball: 'dragonball', 'openvmm-azure-runtime-rs': 'openvmm',
  'qemu-coco-dev-runtime-rs': 'qemu', 'qemu-nvidia-cpu-runtime-rs': 'qemu', 'qemu-nvidia-gpu-runtime-rs': 'qemu', 'qemu-nvidia-gpu-snp-runtime-rs': 'qemu',
  'qemu-nvidia-gpu-tdx-runtime-rs': 'qemu', 'qemu-runtime-rs': 'qemu', 'qemu-se-runtime-rs': 'qemu', 'qemu-snp-runtime-rs': 'qemu', 'qemu-tdx-runtime-rs': 'qemu',
  remote: 'remote', 'rs-fc': 'firecracker',
};

/** Of runtime-rs (4.1; dragonball in 3.0.0, too): the keys that tell them from the Go runtime's, which is all that matters. */
export const TEMPLATES_RUNTIME_RS: Readonly<Record<string, Template>> = Object.fromEntries(
  Object.entries(RS_HYPERVISORS).map(([name, hypervisor]) => [
    name,
    {
      hypervisor,
      keys: { ...only(QEMU_4, 'kernel image rootfs_type'), vm_rootfs_driver: '"virtio-blk-pci"', queue_size: '128', num_queues: '1' },
      agent: { ...OFF('enable_debug enable_tracing debug_console_enabled'), dial_timeout_ms: '10', reconnect_timeout_ms: '3000' },
      runtime: { ...only(RUNTIME_4, 'enable_debug internetworking_model disable_guest_seccomp experimental'), name: '"virt_container"', agent_name: '"kata"', hypervisor_name: quoted(hypervisor) },
    },
  ]),
);

/** The text of the file, its assets below `prefix` instead of /opt/kata. */
export function templateText(template: Template, prefix = '/opt/kata'): string {
  const section = (name: string, keys: Keys | undefined): string => (keys === undefined ? '' : `[${name}]\n${Object.entries(keys).map(([key, value]) => `${key} = ${value}\n`).join('')}`);
  const text = section(`hypervisor.${template.hypervisor}`, template.keys) + section('factory', template.factory) + section('agent.kata', template.agent) + section('runtime', template.runtime) + section('image', template.image);
  return text.replaceAll('"/opt/kata/', `"${prefix}/`);
}
