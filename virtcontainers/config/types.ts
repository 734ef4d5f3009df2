/**
 * The runtime configuration, validated and complete. Field names are the keys of configuration.toml in camel case;
 * units and meaning are those of the key (reference cli-and-config.md, sections 2.4 and 2.5).
 */
export type HypervisorType = 'qemu' | 'clh' | 'firecracker' | 'acrn' | 'dragonball' | 'stratovirt' | 'remote' | 'mock';
/** Those that have a driver in this version (hypervisor/registry.ts). */
export const SUPPORTED_HYPERVISORS: readonly HypervisorType[] = ['qemu', 'mock'];
export type SharedFs = 'virtio-fs' | 'virtio-9p' | 'virtio-fs-nydus' | 'none';
export type BlockDriver = 'virtio-scsi' | 'virtio-blk' | 'virtio-mmio' | 'nvdimm' | 'virtio-blk-ccw';
export type NetworkModel = 'tcfilter' | 'macvtap' | 'none';

/** One of `guest_extension_images`: a read-only disk that the agent finds by its name. */
export interface ExtensionImage {
  readonly name: string;
  readonly path: string;
  readonly verity_params?: string;
}

/** `[hypervisor.<name>]`. Keys that only other VMMs read are added beside these by the schema. */
export interface HypervisorConfig {
  readonly type: HypervisorType;
  readonly path: string;
  readonly validHypervisorPaths: readonly string[];
  readonly kernel: string;
  readonly image: string;
  readonly initrd: string;
  readonly firmware: string;
  readonly firmwareVolume: string;
  readonly pflashes: readonly string[];
  readonly machineType: string;
  /** Comma-separated `-machine` options. */
  readonly machineAccelerators: string;
  readonly cpuFeatures: string;
  /** White-space separated. */
  readonly kernelParams: string;
  readonly seccompsandbox: string;
  readonly confidentialGuest: boolean;
  readonly rootless: boolean;
  readonly enableAnnotations: readonly string[];
  readonly defaultVcpus: number;
  readonly defaultMaxvcpus: number;
  /** MiB. */
  readonly defaultMemory: number;
  readonly memorySlots: number;
  /** MiB. */
  readonly defaultMaxmemory: number;
  /** MiB. */
  readonly memoryOffset: number;
  readonly enableVirtioMem: boolean;
  readonly defaultBridges: number;
  readonly disableBlockDeviceUse: boolean;
  readonly sharedFs: SharedFs;
  readonly virtioFsDaemon: string;
  readonly validVirtioFsDaemonPaths: readonly string[];
  readonly virtioFsCache: string;
  /** MiB; 0: no DAX. */
  readonly virtioFsCacheSize: number;
  readonly virtioFsQueueSize: number;
  readonly virtioFsExtraArgs: readonly string[];
  readonly msize9p: number;
  readonly blockDeviceDriver: BlockDriver;
  readonly blockDeviceAio: 'threads' | 'native' | 'io_uring';
  readonly blockDeviceCacheSet: boolean;
  readonly blockDeviceCacheDirect: boolean;
  readonly blockDeviceCacheNoflush: boolean;
  readonly enableIothreads: boolean;
  readonly enableMemPrealloc: boolean;
  readonly enableHugepages: boolean;
  readonly fileMemBackend: string;
  readonly enableVhostUserStore: boolean;
  readonly vhostUserStorePath: string;
  readonly enableIommu: boolean;
  readonly enableIommuPlatform: boolean;
  readonly enableDebug: boolean;
  readonly disableNestingChecks: boolean;
  readonly disableImageNvdimm: boolean;
  readonly hotplugVfioOnRootBus: boolean;
  readonly pcieRootPort: number;
  readonly disableVhostNet: boolean;
  readonly entropySource: string;
  readonly guestHookPath: string;
  readonly rxRateLimiterMaxRate: number;
  readonly txRateLimiterMaxRate: number;
  readonly guestMemoryDumpPath: string;
  readonly guestMemoryDumpPaging: boolean;
  readonly enableGuestSwap: boolean;
  readonly useLegacySerial: boolean;
  readonly disableSelinux: boolean;
  readonly extraMonitorSocket: string;
  /** ext4, xfs, erofs. */
  readonly rootfsType: string;
  /** dm-verity of `image`; '' for none. Checked by `parseVerity`. */
  readonly kernelVerityParams: string;
  readonly guestExtensionImages: readonly ExtensionImage[];
  readonly reclaimGuestFreedMemory: boolean;
  /** I/O threads for hot-plugged virtio-blk disks. */
  readonly indepIothreads: number;
  /** Bytes; 0: QEMU's default. */
  readonly blockDeviceLogicalSectorSize: number;
  /** Bytes; 0: QEMU's default. */
  readonly blockDevicePhysicalSectorSize: number;
  /** Ours: `auto` (by fact), `kvm`, `tcg`. Key `accelerator`. */
  readonly accelerator: 'auto' | 'kvm' | 'tcg';
  /** Ours: `auto` (vsock where the host has it), `vsock`, `serial`. Key `agent_channel`. */
  readonly agentChannel: 'auto' | 'vsock' | 'serial';
  /** Ours: seconds until a started VM must be up. Key `boot_timeout`; default 10 with KVM, 60 under TCG (0 = by accelerator). */
  readonly bootTimeout: number;
  /** Everything else that the schema knows for this hypervisor, by its TOML key. */
  readonly other: Readonly<Record<string, unknown>>;
}

export interface AgentConfig {
  readonly enableDebug: boolean;
  readonly enableTracing: boolean;
  readonly debugConsoleEnabled: boolean;
  /** Seconds; 0 = 30 (60 under TCG). */
  readonly dialTimeout: number;
  readonly kernelModules: readonly string[];
  /** Bytes; 0: the kernel's default. Set by annotation only. */
  readonly containerPipeSize: number;
  /** Everything else that the schema knows for the agent, by its TOML key. */
  readonly other?: Readonly<Record<string, unknown>>;
}

export interface FactoryConfig {
  readonly enableTemplate: boolean;
  readonly templatePath: string;
  readonly vmCacheNumber: number;
  readonly vmCacheEndpoint: string;
}

export interface RuntimeSection {
  readonly enableDebug: boolean;
  readonly internetworkingModel: NetworkModel;
  readonly disableGuestSeccomp: boolean;
  readonly enableTracing: boolean;
  readonly disableNewNetns: boolean;
  readonly sandboxCgroupOnly: boolean;
  readonly staticSandboxResourceMgmt: boolean;
  readonly sandboxBindMounts: readonly string[];
  readonly vfioMode: 'vfio' | 'guest-kernel';
  readonly disableGuestEmptyDir: boolean;
  readonly experimental: readonly string[];
  readonly enablePprof: boolean;
  /** Seconds. */
  readonly createContainerTimeout: number;
  /** Folder of directly attached networks; '' for none. */
  readonly danConf: string;
  readonly other: Readonly<Record<string, unknown>>;
}

export interface RuntimeConfig {
  /** Main file, symlinks resolved; '' for a configuration made in a test. */
  readonly path: string;
  readonly dropIns: readonly string[];
  readonly hypervisor: HypervisorConfig;
  readonly agent: AgentConfig;
  readonly factory: FactoryConfig;
  readonly runtime: RuntimeSection;
  /** Where each value that was set comes from: `hypervisor.qemu.kernel` -> `<file>:<line>` or `annotation <name>`; tables too. */
  readonly sources: ReadonlyMap<string, string>;
  /** What was set but is not supported yet, ignored or put right (clamped); one sentence each, for one report at load. */
  readonly warnings: readonly string[];
}
