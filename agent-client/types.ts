/**
 * What virtcontainers sees of the guest's agent: plain values, no wire types. `connectAgent` (connect.ts) makes one.
 * Every call rejects with a KataError; time-outs are upstream's (60 s unless said), see reference section 5.3.
 */
import type { KataError } from '../base/errors';
import type { OciProcess, OciResources, OciSpec } from '../base/oci-spec';

export interface AgentStorage {
  readonly driver: string;
  readonly driverOptions?: readonly string[];
  readonly source: string;
  readonly fstype: string;
  readonly options?: readonly string[];
  readonly mountPoint: string;
  readonly fsGroup?: { readonly groupId: number; readonly changePolicy: 'always' | 'on-root-mismatch' };
}

export interface AgentDevice {
  readonly id: string;
  readonly type: string;
  readonly vmPath: string;
  readonly containerPath: string;
  readonly options?: readonly string[];
}

export interface CreateSandboxRequest {
  readonly hostname: string;
  readonly dns: readonly string[];
  readonly storages: readonly AgentStorage[];
  readonly sandboxPidns: boolean;
  readonly sandboxId: string;
  readonly guestHookPath: string;
  readonly kernelModules: readonly { readonly name: string; readonly parameters: readonly string[] }[];
}

export interface CreateContainerRequest {
  readonly containerId: string;
  /** Already constrained (constrain.ts). */
  readonly spec: OciSpec;
  readonly storages: readonly AgentStorage[];
  readonly devices: readonly AgentDevice[];
  readonly sandboxPidns: boolean;
  /** Default 60 000; `create_container_timeout`. */
  readonly timeoutMs?: number;
}

export interface GuestAddress {
  readonly family: 'v4' | 'v6';
  readonly address: string;
  readonly prefixLength: number;
}

export interface GuestInterface {
  readonly device: string;
  readonly name: string;
  readonly addresses: readonly GuestAddress[];
  readonly mtu: number;
  readonly hwAddr: string;
  /** Guest PCI path like `02/01`, or empty: the agent matches the MAC. */
  readonly devicePath: string;
  readonly type: string;
  readonly rawFlags: number;
}

export interface GuestRoute {
  readonly dest: string;
  readonly gateway: string;
  readonly device: string;
  readonly source: string;
  readonly scope: number;
  readonly family: 'v4' | 'v6';
  readonly flags?: number;
  readonly mtu?: number;
}

export interface GuestNeighbor {
  readonly address: GuestAddress;
  readonly device: string;
  readonly lladdr: string;
  readonly state: number;
  readonly flags: number;
}

export interface GuestDetails {
  readonly memoryBlockSizeBytes: bigint;
  readonly supportsMemoryHotplugProbe: boolean;
  readonly agentVersion: string;
  readonly initDaemon: boolean;
  readonly deviceHandlers: readonly string[];
  readonly storageHandlers: readonly string[];
  readonly supportsSeccomp: boolean;
  readonly extraFeatures: readonly string[];
}

export interface BlkioEntry {
  readonly major: bigint;
  readonly minor: bigint;
  readonly op: string;
  readonly value: bigint;
}

export interface MemoryData {
  readonly usage: bigint;
  readonly maxUsage: bigint;
  readonly failcnt: bigint;
  readonly limit: bigint;
}

/** The guest's cgroup figures of one container; nanoseconds and bytes. */
export interface ContainerStats {
  readonly cpu: {
    readonly totalNs: bigint;
    readonly perCpuNs: readonly bigint[];
    readonly kernelNs: bigint;
    readonly userNs: bigint;
    readonly periods: bigint;
    readonly throttledPeriods: bigint;
    readonly throttledNs: bigint;
  };
  readonly memory: {
    readonly cache: bigint;
    readonly usage: MemoryData;
    readonly swap: MemoryData;
    readonly kernel: MemoryData;
    readonly useHierarchy: boolean;
    /** memory.stat of the guest's cgroup, v1 or v2 names. */
    readonly stats: ReadonlyMap<string, bigint>;
  };
  readonly pids: { readonly current: bigint; readonly limit: bigint };
  readonly blkio: {
    readonly serviceBytes: readonly BlkioEntry[];
    readonly serviced: readonly BlkioEntry[];
    readonly queued: readonly BlkioEntry[];
    readonly serviceTime: readonly BlkioEntry[];
    readonly waitTime: readonly BlkioEntry[];
    readonly merged: readonly BlkioEntry[];
    readonly time: readonly BlkioEntry[];
    readonly sectors: readonly BlkioEntry[];
  };
  readonly hugetlb: ReadonlyMap<string, { readonly usage: bigint; readonly maxUsage: bigint; readonly failcnt: bigint }>;
  readonly network: readonly {
    readonly name: string;
    readonly rxBytes: bigint;
    readonly rxPackets: bigint;
    readonly rxErrors: bigint;
    readonly rxDropped: bigint;
    readonly txBytes: bigint;
    readonly txPackets: bigint;
    readonly txErrors: bigint;
    readonly txDropped: bigint;
  }[];
}

export interface VolumeStats {
  readonly usage: readonly { readonly available: bigint; readonly total: bigint; readonly used: bigint; readonly unit: 'unknown' | 'bytes' | 'inodes' }[];
  readonly condition: { readonly abnormal: boolean; readonly message: string } | undefined;
}

/** Which process of a container: '' is never used for init; init's exec id is the container id, as upstream has it. */
export interface ProcessRef {
  readonly containerId: string;
  readonly execId: string;
}

export interface AgentClient {
  /** `vsock://3:1024`, `hvsock://...`, `unix://...`, `serial://...`: what /agent-url answers. */
  readonly url: string;
  /** Resolves with the reason when the connection has ended or the agent was marked dead. Never rejects. */
  readonly closed: Promise<KataError>;

  /** Default: 30 s. `timeoutKey` is the configuration key behind another time, for the error. */
  check(limits?: { readonly timeoutMs: number; readonly timeoutKey?: string }): Promise<void>;
  version(): Promise<{ readonly grpcVersion: string; readonly agentVersion: string }>;

  createSandbox(request: CreateSandboxRequest): Promise<void>;
  destroySandbox(): Promise<void>;
  getGuestDetails(): Promise<GuestDetails>;
  setGuestDateTime(seconds: bigint, microseconds: bigint): Promise<void>;
  reseedRandom(data: Uint8Array): Promise<void>;
  onlineCpuMem(request: { readonly wait: boolean; readonly cpus: number; readonly cpuOnly: boolean }): Promise<void>;
  memHotplugByProbe(addresses: readonly bigint[]): Promise<void>;
  copyFile(hostPath: string, guestPath: string): Promise<void>;
  getOomEvent(signal: AbortSignal): Promise<string>;
  getMetrics(): Promise<string>;
  setPolicy(policy: string): Promise<void>;

  createContainer(request: CreateContainerRequest): Promise<void>;
  startContainer(containerId: string): Promise<void>;
  removeContainer(containerId: string, timeoutSeconds?: number): Promise<void>;
  updateContainer(containerId: string, resources: OciResources): Promise<void>;
  statsContainer(containerId: string): Promise<ContainerStats>;
  pauseContainer(containerId: string): Promise<void>;
  resumeContainer(containerId: string): Promise<void>;

  execProcess(process: ProcessRef, spec: OciProcess): Promise<void>;
  /** `execId` undefined: every process of the container. "No such process" of the agent is success. */
  signalProcess(containerId: string, execId: string | undefined, signal: number): Promise<void>;
  /** Exit status (128 + signal for a death by signal). No time-out: ends with the process, the signal or the agent. */
  waitProcess(process: ProcessRef, signal?: AbortSignal): Promise<number>;
  /** Bytes taken by the guest. */
  writeStdin(process: ProcessRef, data: Uint8Array): Promise<number>;
  closeStdin(process: ProcessRef): Promise<void>;
  /** Empty at the end of the stream. */
  readStdout(process: ProcessRef, maxBytes: number, signal?: AbortSignal): Promise<Uint8Array>;
  readStderr(process: ProcessRef, maxBytes: number, signal?: AbortSignal): Promise<Uint8Array>;
  ttyWinResize(process: ProcessRef, rows: number, columns: number): Promise<void>;

  updateInterface(value: GuestInterface): Promise<void>;
  updateRoutes(routes: readonly GuestRoute[]): Promise<void>;
  listInterfaces(): Promise<readonly GuestInterface[]>;
  listRoutes(): Promise<readonly GuestRoute[]>;
  addArpNeighbors(neighbors: readonly GuestNeighbor[]): Promise<void>;
  getIpTables(v6: boolean): Promise<Uint8Array>;
  setIpTables(v6: boolean, data: Uint8Array): Promise<Uint8Array>;
  addSwap(pciPath: readonly number[]): Promise<void>;
  getVolumeStats(guestPath: string): Promise<VolumeStats>;
  resizeVolume(guestPath: string, sizeBytes: bigint): Promise<void>;

  /** Ends the connection; all pending and later calls fail with Unavailable and this reason. Idempotent. */
  markDead(reason: KataError): void;
  /** Ends the connection in order. */
  close(): void;
}

export interface ConnectOptions {
  /** Names the sandbox in errors. */
  readonly sandboxId: string;
  /** Overall time for dialling and handshake; the configuration key named in the error is `dial_timeout`. */
  readonly timeoutMs: number;
  readonly signal?: AbortSignal;
  /** Time-out of calls that have none of their own; 60 000 unless given (300 000 for a sandbox of a remote hypervisor). */
  readonly defaultTimeoutMs?: number;
  /** For kata_shim_agent_rpc_durations_histogram_milliseconds; `request` is the message name, e.g. `CreateContainerRequest`. */
  readonly onCall?: (request: string, durationMs: number, ok: boolean) => void;
}
