/** Every key of [hypervisor.*]: upstream 3.0.0 and 4.1, what older versions had, and ours. */
import type { HypervisorConfig } from './types';
import { defineKey, defineKeys, INT32, UINT64, type KeySpec } from './schema';

const NO_VFIO = 'device pass-through comes later';
const NO_TEE = { why: 'the guest would not be protected: confidential guests (TDX, SEV, SNP, SE) are not supported', hint: 'remove it to run an ordinary virtual machine' } as const;
const PORTS = ['no-port', 'bridge-port', 'root-port', 'switch-port'] as const;

const QEMU_BY_ARCH: Readonly<Record<string, string>> = { x64: 'x86_64', arm64: 'aarch64', ppc64: 'ppc64', s390x: 's390x' };
const MACHINE_BY_ARCH: Readonly<Record<string, string>> = { x64: 'q35', arm64: 'virt', ppc64: 'pseries', s390x: 's390-ccw-virtio' };

const ASSETS: readonly KeySpec[] = [
  defineKey('path', 'string', 'all', 'VMM program; must exist', {
    default: `/usr/bin/qemu-system-${QEMU_BY_ARCH[process.arch] ?? 'x86_64'}`,
    defaults: {
      clh: '/usr/bin/cloud-hypervisor',
      firecracker: '/usr/bin/firecracker',
      acrn: '/usr/bin/acrn-dm',
      stratovirt: '/usr/bin/stratovirt',
      dragonball: '',
      remote: '',
      mock: process.execPath,
    },
  }),
  defineKey('valid_hypervisor_paths', 'strings', 'all', 'globs of what annotation `path` may name'),
  defineKey('kernel', 'string', 'all', 'guest kernel; must exist', {
    default: '/usr/share/kata-containers/vmlinuz.container',
    defaults: { mock: '', remote: '' },
  }),
  defineKey('image', 'string', 'all', 'guest root file system image; exactly one of image and initrd'),
  defineKey('initrd', 'string', 'QCFDSM', 'guest initrd; exactly one of image and initrd'),
  defineKey('firmware', 'string', 'QCFA', 'guest firmware; must exist if set'),
  defineKey('firmware_volume', 'string', 'Q', 'UEFI variables file; only TDX reads it, as upstream', { status: 'ignored' }),
  defineKey('pflashes', 'strings', 'Q', 'parallel flash images; each must exist'),
  defineKey('rootfs_type', 'string', 'all', 'file system of `image`', { default: 'ext4', choices: ['ext4', 'xfs', 'erofs'], since: '4.1' }),
  defineKey('enable_annotations', 'strings', 'all', 'patterns (whole name) of the hypervisor annotations that pods may set'),
];

const MACHINE: readonly KeySpec[] = [
  defineKey('machine_type', 'string', 'QC', 'QEMU machine', { default: MACHINE_BY_ARCH[process.arch] ?? 'q35', defaults: { mock: '' } }),
  defineKey('machine_accelerators', 'string', 'QC', 'comma-separated machine options'),
  defineKey('cpu_features', 'string', 'Q', 'comma-separated CPU features, appended to -cpu'),
  defineKey('kernel_params', 'string', 'all', 'kernel parameters of the user; the last ones, so they win'),
  defineKey('seccompsandbox', 'string', 'Q', 'argument of QEMU -sandbox'),
  defineKey('default_vcpus', 'number', 'all', 'vCPUs at boot; below 0: all of the host; fractions are rounded up', { default: 1, min: -INT32, max: INT32 }),
  defineKey('default_maxvcpus', 'integer', 'all', 'vCPUs that a VM can grow to; 0: all of the host'),
  defineKey('default_memory', 'integer', 'all', 'memory at boot; below 256: 2048', { default: 2048, unit: 'MiB' }),
  defineKey('memory_slots', 'integer', 'all', 'how often memory can be added', { default: 10 }),
  defineKey('default_maxmemory', 'integer', 'QCFA', 'memory that a VM can grow to; 0: all of the host', { max: UINT64, unit: 'MiB' }),
  defineKey('memory_offset', 'integer', 'QC', 'added to the maximum for NVDIMM', { max: UINT64, unit: 'MiB' }),
  defineKey('enable_virtio_mem', 'boolean', 'QC', 'grow and shrink by virtio-mem'),
  defineKey('default_bridges', 'integer', 'QCFA', 'PCI bridges for hot-plug, at most 5', { default: 1 }),
  defineKey('enable_mem_prealloc', 'boolean', 'QC', 'allocate all memory at start'),
  defineKey('enable_hugepages', 'boolean', 'QCFA', 'memory from huge pages'),
  defineKey('file_mem_backend', 'string', 'QC', 'folder for memory files; /dev/shm by itself with virtio-fs', { removed: 'gone in 4.1' }),
  defineKey('valid_file_mem_backends', 'strings', 'QC', 'globs of what annotation `file_mem_backend` may name', { removed: 'gone in 4.1' }),
  defineKey('reclaim_guest_freed_memory', 'boolean', 'QC', 'give freed guest memory back (balloon)', { since: '4.1' }),
];

const STORAGE: readonly KeySpec[] = [
  defineKey('disable_block_device_use', 'boolean', 'QC', 'do not pass a block root file system to the VM'),
  defineKey('shared_fs', 'string', 'QC', 'how files get into the guest', {
    default: 'virtio-fs',
    defaults: { firecracker: 'none', acrn: 'none', remote: 'none' },
    choices: ['virtio-fs', 'virtio-9p', 'virtio-fs-nydus', 'none'],
    refusal: { values: ['virtio-fs-nydus'], why: 'nydus is not supported', hint: 'use "virtio-fs", "virtio-9p" or "none"' },
  }),
  defineKey('virtio_fs_daemon', 'string', 'QC', 'virtiofsd program; looked up in the known places if absent'),
  defineKey('valid_virtio_fs_daemon_paths', 'strings', 'QC', 'globs of what annotation `virtio_fs_daemon` may name'),
  defineKey('virtio_fs_cache', 'string', 'QC', 'cache mode: none, never, metadata, auto, always', { default: 'none', defaults: { clh: '' } }),
  defineKey('virtio_fs_cache_size', 'integer', 'QC', 'DAX window; 0: no DAX; needs a QEMU whose vhost-user-fs has cache-size (the released ones have not)', { unit: 'MiB' }),
  defineKey('virtio_fs_queue_size', 'integer', 'QC', 'virtqueue size; 0: 1024', { since: '4.1', max: 1024 }),
  defineKey('virtio_fs_extra_args', 'strings', 'QC', 'appended to the command line of virtiofsd'),
  // Ours: it is also how far a guest reads ahead, and with upstream's 8192 each page of a program is a message of its own.
  defineKey('msize_9p', 'integer', 'QC', '9p message; larger ones than 512000 Linux makes smaller', { default: 512_000, unit: 'bytes' }),
  defineKey('block_device_driver', 'string', 'all', 'driver of block devices', {
    default: 'virtio-scsi',
    defaults: { clh: 'virtio-blk', firecracker: 'virtio-mmio', acrn: 'virtio-blk', stratovirt: 'virtio-mmio' },
    choices: ['virtio-scsi', 'virtio-blk', 'virtio-mmio', 'nvdimm', 'virtio-blk-ccw'],
  }),
  defineKey('block_device_aio', 'string', 'Q', 'how QEMU does block I/O', { default: 'io_uring', choices: ['threads', 'native', 'io_uring'] }),
  defineKey('block_device_cache_set', 'boolean', 'QC', 'set the two cache options below'),
  defineKey('block_device_cache_direct', 'boolean', 'QC', 'bypass the host page cache'),
  defineKey('block_device_cache_noflush', 'boolean', 'QC', 'ignore flush requests'),
  defineKey('enable_iothreads', 'boolean', 'QCF', 'own I/O thread for virtio-scsi'),
  ...defineKeys({ since: '4.1' }, [
    defineKey('indep_iothreads', 'integer', 'QCF', 'I/O threads for hot-plugged virtio-blk disks, taken in turn', { max: 1024 }),
    defineKey('block_device_logical_sector_size', 'integer', 'QS', '0, or a power of two from 512 to 65536', { max: 65536, unit: 'bytes' }),
    defineKey('block_device_physical_sector_size', 'integer', 'QS', '0, or a power of two from 512 to 65536', { max: 65536, unit: 'bytes' }),
    defineKey('guest_extension_images', 'tables', 'Q', 'more read-only images for the agent: {name, path, verity_params}'),
    defineKey('vhost_user_reconnect_timeout_sec', 'integer', 'Q', 'reconnect to a vhost-user back end', { unit: 's', status: 'later' }),
  ]),
  ...defineKeys({ status: 'later' }, [
    defineKey('enable_vhost_user_store', 'boolean', 'Q', 'vhost-user devices; needs enable_hugepages'),
    defineKey('enable_guest_swap', 'boolean', 'Q', 'swap device in the guest'),
  ]),
  defineKey('vhost_user_store_path', 'string', 'Q', 'folder of vhost-user devices', { default: '/var/run/kata-containers/vhost-user/', status: 'later', inert: ['/var/run/kata-containers/vhost-user'] }),
  defineKey('valid_vhost_user_store_paths', 'strings', 'Q', 'globs of what annotation `vhost_user_store_path` may name'),
];

const BEHAVIOUR: readonly KeySpec[] = [
  defineKey('enable_debug', 'boolean', 'all', 'debug output of VMM and guest kernel'),
  defineKey('disable_nesting_checks', 'boolean', 'QCFA', 'act as on bare metal: PCI devices with the modern interface, too'),
  defineKey('disable_image_nvdimm', 'boolean', 'Q', 'image by virtio-blk instead of NVDIMM'),
  defineKey('disable_vhost_net', 'boolean', 'QCFA', 'no in-kernel virtio-net back end: there never is one here', { status: 'ignored', inert: [true] }),
  defineKey('entropy_source', 'string', 'all', 'source of the guest random device', { default: '/dev/urandom' }),
  defineKey('valid_entropy_sources', 'strings', 'QCFA', 'globs of what annotation `entropy_source` may name'),
  defineKey('guest_hook_path', 'string', 'QCFA', 'folder of OCI hooks in the guest'),
  defineKey('use_legacy_serial', 'boolean', 'Q', 'guest console on a legacy serial port'),
  defineKey('extra_monitor_socket', 'string', 'Q', 'second monitor with enable_debug', { since: '4.1', choices: ['hmp', 'qmp', 'qmp-pretty'] }),
  defineKey('hypervisor_loglevel', 'integer', 'QCS', 'log level of Cloud Hypervisor, 1 to 3', { since: '4.1', default: 1, status: 'ignored' }),
  ...defineKeys({ status: 'refused' }, [
    defineKey('confidential_guest', 'boolean', 'QC', 'TEE guest: memory that the host cannot read', { refusal: NO_TEE }),
    defineKey('rootless', 'boolean', 'QC', 'VMM as an unprivileged user', {
      refusal: { why: 'the VMM would run as root all the same: not supported', hint: 'set rootless = false' },
    }),
  ]),
  defineKey('enable_iommu', 'boolean', 'Q', 'virtual IOMMU; q35 only'),
  defineKey('enable_iommu_platform', 'boolean', 'Q', 'iommu_platform=on; on s390x (CCW) only, as upstream', { status: 'ignored' }),
  defineKey('pcie_root_port', 'integer', 'QC', 'PCIe root ports, at most 16'),
  defineKey('guest_memory_dump_path', 'string', 'Q', 'folder for a dump of a panicked guest; the guest needs a pvpanic driver'),
  defineKey('guest_memory_dump_paging', 'boolean', 'Q', 'translate guest addresses in the dump'),
  ...defineKeys({ status: 'later' }, [
    defineKey('hotplug_vfio_on_root_bus', 'boolean', 'QC', NO_VFIO, { removed: 'gone in 4.1: hot_plug_vfio' }),
    defineKey('rx_rate_limiter_max_rate', 'integer', 'QF', 'limit of the traffic to the guest', { max: UINT64, unit: 'bit/s' }),
    defineKey('tx_rate_limiter_max_rate', 'integer', 'QF', 'limit of the traffic from the guest', { max: UINT64, unit: 'bit/s' }),
  ]),
  defineKey('disable_selinux', 'boolean', 'QCFA', 'no SELinux label on the VMM'),
  defineKey('disable_guest_selinux', 'boolean', 'QCS', 'no SELinux in the guest', {
    since: '4.1',
    status: 'refused',
    inert: [true],
    refusal: { values: [false], why: 'containers would run without SELinux all the same: not supported in the guest', hint: 'set disable_guest_selinux = true' },
  }),
];

const NEWER: readonly KeySpec[] = [
  defineKey('kernel_verity_params', 'string', 'QCFDS', 'dm-verity of `image`: root_hash=...,salt=...,data_blocks=...,data_block_size=...,hash_block_size=...', { since: '4.1' }),
  defineKey('sev_snp_guest', 'boolean', 'Q', 'SEV-SNP guest', { since: '4.1', status: 'refused', refusal: NO_TEE }),
  ...defineKeys({ since: '4.1', status: 'later' }, [
    defineKey('enable_numa', 'boolean', 'Q', 'NUMA nodes in the guest'),
    defineKey('numa_mapping', 'strings', 'Q', 'host nodes of the guest nodes'),
    defineKey('hot_plug_vfio', 'string', 'QC', NO_VFIO, { default: 'no-port', choices: PORTS }),
    defineKey('cold_plug_vfio', 'string', 'QC', NO_VFIO, { default: 'no-port', choices: PORTS }),
    defineKey('pcie_switch_port', 'integer', 'QC', `PCIe switch ports; ${NO_VFIO}`),
    defineKey('snp_id_block', 'string', 'Q', 'SNP id block; together with snp_id_auth'),
    defineKey('snp_id_auth', 'string', 'Q', 'SNP id authentication; together with snp_id_block'),
    defineKey('snp_guest_policy', 'integer', 'Q', 'SNP guest policy', { max: UINT64 }),
    defineKey('measurement_algo', 'string', 'QC', 'hash of launch measurements', { default: 'sha512', choices: ['sha256', 'sha384', 'sha512'] }),
    defineKey('tdx_quote_generation_service_socket_port', 'integer', 'Q', 'vsock port of the TDX quote service'),
    defineKey('remote_hypervisor_socket', 'string', 'R', 'socket of the cloud adaptor', { default: '/run/peerpod/hypervisor.sock' }),
    defineKey('remote_hypervisor_timeout', 'integer', 'R', 'for its answers', { default: 600, unit: 's' }),
    defineKey('default_gpus', 'integer', 'R', 'GPUs of a remote VM'),
    defineKey('default_gpu_model', 'string', 'R', 'GPU model of a remote VM'),
  ]),
];

const OTHER_VMMS: readonly KeySpec[] = defineKeys({ status: 'later' }, [
  defineKey('jailer_path', 'string', 'F', 'jailer program; absent: no jailer'),
  defineKey('valid_jailer_paths', 'strings', 'F', 'globs of what annotation `jailer_path` may name'),
  defineKey('ctlpath', 'string', 'A', 'ACRN control program', { defaults: { acrn: '/usr/bin/acrnctl' }, removed: 'gone in 4.1 with ACRN' }),
  defineKey('valid_ctlpaths', 'strings', 'A', 'globs of what annotation `ctlpath` may name', { removed: 'gone in 4.1 with ACRN' }),
  defineKey('disable_seccomp', 'boolean', 'C', 'switch the seccomp filter of the VMM off'),
  ...['disk', 'net'].flatMap((what) =>
    ['bw', 'ops'].flatMap((unit) =>
      ['max_rate', 'one_time_burst'].map((rule) =>
        defineKey(`${what}_rate_limiter_${unit}_${rule}`, 'integer', 'C', rule === 'max_rate' ? 'rate limit' : 'burst; needs the limit of the same name', {
          max: UINT64,
          min: -UINT64,
          unit: unit === 'bw' ? 'bit/s' : 'operations/s',
        }),
      ),
    ),
  ),
]);

const OURS: readonly KeySpec[] = defineKeys({ since: 'kata-ts' }, [
  defineKey('accelerator', 'string', 'Q', 'auto: KVM where it is usable, else TCG', { default: 'auto', choices: ['auto', 'kvm', 'tcg'] }),
  defineKey('agent_channel', 'string', 'Q', 'auto: vsock where the host has it, else virtio-serial', { default: 'auto', choices: ['auto', 'vsock', 'serial'] }),
  defineKey('boot_timeout', 'integer', 'Q', 'until a started VM must be up; 0: 10 with KVM, 60 under TCG', { max: 86400, unit: 's' }),
]);

const OLD: readonly KeySpec[] = defineKeys({ since: 'before 3.0', status: 'ignored' }, [
  defineKey('use_vsock', 'boolean', 'Q', 'accepted; the agent channel is chosen by agent_channel', { removed: 'gone in 2.0' }),
  defineKey('enable_swap', 'boolean', 'Q', 'accepted; host swap is the business of the host', { removed: 'gone before 3.0' }),
]);

export const HYPERVISOR_KEYS: readonly KeySpec[] = [...ASSETS, ...MACHINE, ...STORAGE, ...BEHAVIOUR, ...NEWER, ...OTHER_VMMS, ...OURS, ...OLD];

/** The fields of HypervisorConfig; the compiler keeps the list complete. Keys without a field go to `other`. */
const FIELDS: Readonly<Record<keyof Omit<HypervisorConfig, 'type' | 'other'>, true>> = {
  path: true, validHypervisorPaths: true, kernel: true, image: true, initrd: true, firmware: true, firmwareVolume: true, pflashes: true,
  machineType: true, machineAccelerators: true, cpuFeatures: true, kernelParams: true, seccompsandbox: true, confidentialGuest: true,
  rootless: true, enableAnnotations: true, defaultVcpus: true, defaultMaxvcpus: true, defaultMemory: true, memorySlots: true,
  defaultMaxmemory: true, memoryOffset: true, enableVirtioMem: true, defaultBridges: true, disableBlockDeviceUse: true, sharedFs: true,
  virtioFsDaemon: true, validVirtioFsDaemonPaths: true, virtioFsCache: true, virtioFsCacheSize: true, virtioFsQueueSize: true,
  virtioFsExtraArgs: true, msize9p: true, blockDeviceDriver: true, blockDeviceAio: true, blockDeviceCacheSet: true,
  blockDeviceCacheDirect: true, blockDeviceCacheNoflush: true, enableIothreads: true, enableMemPrealloc: true, enableHugepages: true,
  fileMemBackend: true, enableVhostUserStore: true, vhostUserStorePath: true, enableIommu: true, enableIommuPlatform: true,
  enableDebug: true, disableNestingChecks: true, disableImageNvdimm: true, hotplugVfioOnRootBus: true, pcieRootPort: true,
  disableVhostNet: true, entropySource: true, guestHookPath: true, rxRateLimiterMaxRate: true, txRateLimiterMaxRate: true,
  guestMemoryDumpPath: true, guestMemoryDumpPaging: true, enableGuestSwap: true, useLegacySerial: true, disableSelinux: true,
  extraMonitorSocket: true, rootfsType: true, reclaimGuestFreedMemory: true, kernelVerityParams: true, guestExtensionImages: true,
  indepIothreads: true, blockDeviceLogicalSectorSize: true, blockDevicePhysicalSectorSize: true, accelerator: true, agentChannel: true, bootTimeout: true,
};
export const HYPERVISOR_FIELDS: ReadonlySet<string> = new Set(Object.keys(FIELDS));
