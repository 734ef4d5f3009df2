/**
 * The seam between sandboxes and VMMs. A driver makes VMs of one kind; a VM has a small core that every VMM offers,
 * and optional capability objects: callers must look. Only registry.ts names drivers.
 */
import type { ChildExit } from '../../base/child';
import type { Logger } from '../../base/log';
import type { HypervisorConfig, HypervisorType } from '../config/types';

/** Where the agent listens, as a URL of agent-client (`vsock://3:1024`, `serial:///run/vc/vm/x/agent.sock`, `unix://...`). */
export type AgentUrl = string;

/** The folder that guest and host share. `tag` is `kataShared`. */
export interface SharedFolder {
  readonly kind: 'virtio-fs' | 'virtio-9p';
  readonly tag: string;
  readonly source: string;
}

/** How a block device is found in the guest. */
export type GuestBlockAddress =
  | { readonly kind: 'pci'; readonly path: string }
  | { readonly kind: 'scsi'; readonly target: number; readonly lun: number }
  | { readonly kind: 'mmio'; readonly device: string }
  | { readonly kind: 'nvdimm'; readonly device: string };

export interface BlockDevice {
  readonly kind: 'block';
  /** At most 31 characters; unique in the VM. */
  readonly id: string;
  readonly path: string;
  readonly readOnly: boolean;
}

export interface NetDevice {
  readonly kind: 'net';
  readonly id: string;
  readonly mac: string;
  /** Open tap descriptors, one per queue; the VM gets copies. */
  readonly tapFds: readonly number[];
}

/** Every device that can be added to a VM. */
export type Device = BlockDevice | NetDevice;

/** Templating: make the VM one that others are cloned from, or clone it. */
export type TemplateUse =
  | { readonly use: 'become'; readonly memoryPath: string; readonly statePath: string }
  | { readonly use: 'clone'; readonly memoryPath: string; readonly statePath: string };

/** Everything that one VM is made from. Resolved: no file is looked up later. */
export interface VmSpec {
  /** VM id: the sandbox id, or an own one for factory VMs. */
  readonly id: string;
  /** Runtime folder, e.g. `/run/vc/vm/<id>`; made (0700) and removed by the VM. */
  readonly directory: string;
  readonly config: HypervisorConfig;
  readonly vcpus: number;
  readonly memoryMiB: number;
  /** Kernel parameters of runtime and agent; the driver puts its own before and the user's after. */
  readonly kernelParams: readonly string[];
  readonly share: SharedFolder | undefined;
  /** Cold-plugged devices. */
  readonly devices: readonly Device[];
  /** Network namespace for the VMM: an open descriptor that stays the caller's, or one of its own. */
  readonly netns: { readonly kind: 'own' } | { readonly kind: 'fd'; readonly fd: number } | { readonly kind: 'host' };
  readonly template: TemplateUse | undefined;
  /** The VM may be handed to another process: it does not end with us but with whoever holds its lifeline (`transfer`). */
  readonly transferable?: boolean;
  readonly debug: boolean;
  /** SELinux label of the VMM; absent where the host has no SELinux, or it is switched off or not asked for. */
  readonly selinuxLabel?: string;
  readonly logger: Logger;
}

/** Facts for a FailureReport; nothing here is guessed. */
export interface VmFacts {
  readonly alive: boolean;
  readonly exit: ChildExit | undefined;
  /** Program that ran, e.g. `/usr/bin/qemu-system-x86_64`. */
  readonly program: string;
  readonly pid: number | undefined;
  readonly stderrTail: string;
  readonly consoleTail: string;
  readonly consolePath: string | undefined;
  /** `kvm`, `tcg`, `none`. */
  readonly accelerator: string;
  readonly hints: readonly string[];
}

/** What must be on disk to clean a VM up after a crash of its owner. JSON. */
export interface VmState {
  readonly type: HypervisorType;
  readonly id: string;
  readonly directory: string;
  readonly agentUrl: AgentUrl;
  /** Processes of ours with their start time (clock ticks), VMM first. */
  readonly processes: readonly { readonly name: string; readonly pid: number; readonly startTime: string }[];
}

export interface PauseControl {
  pause(): Promise<void>;
  resume(): Promise<void>;
}

export interface SnapshotControl {
  /** Saves device state (and memory where it is not shared) to the paths of the spec's template; the VM is paused after it. */
  save(timeoutMs: number): Promise<void>;
}

export interface HotplugControl {
  addBlock(device: BlockDevice): Promise<GuestBlockAddress>;
  removeBlock(id: string): Promise<void>;
  /** Tells the guest the new size of an attached device, by its path on the host. NotFound if it is not attached. */
  resizeBlock?(path: string, sizeBytes: bigint): Promise<void>;
  /** Guest PCI path. */
  addNet(device: NetDevice): Promise<string>;
  removeNet(id: string): Promise<void>;
  /** Attaches the sandbox's virtio-fs share to a running clone whose memory is its own (shared with nobody else). Once. */
  addShare?(folder: SharedFolder): Promise<void>;
}

export interface ResizeControl {
  /** vCPUs now present; caps at the configured maximum. */
  setVcpus(count: number): Promise<number>;
  /** Memory in MiB now present. `blockMiB` is the guest's hot-plug block. */
  setMemory(memoryMiB: number, blockMiB: number): Promise<number>;
}

/**
 * A VM made with `transferable` lives as long as somebody holds its lifeline, a fifo in its folder, open for writing: we
 * do from its start; a new owner does from `adoptVm` on; then we let go. A crash of either never leaves it without an
 * owner that counts.
 */
export interface TransferControl {
  /** Lets go of the VMM's monitor, so that the next owner can have it. From here on only `release` and `stop` may be called. */
  handOver(): Promise<VmState>;
  /** Waits until somebody has taken the VM over, lets go, and forgets it. False if nobody came in time: it is ended then. */
  release(timeoutMs: number): Promise<boolean>;
}

export interface Vm {
  readonly id: string;
  readonly agentUrl: AgentUrl;
  /** Pid of the VMM; it lives in the sandbox's network namespace. FailedPrecondition before `start`. */
  readonly pid: number;
  /** Resolves once when the VMM ended, however it did. Never rejects. Pending until `start`. */
  readonly exited: Promise<ChildExit>;

  /**
   * Launches the VMM and returns when the guest runs (a clone: when it is loaded and paused) and its agent channel
   * can be dialled. On failure everything is gone again. `onLaunched` is called as soon as processes exist, before
   * they are used: the caller persists the state.
   */
  start(options: { readonly timeoutMs: number; readonly signal: AbortSignal; readonly onLaunched: (state: VmState) => void }): Promise<void>;
  /** Ends the VMM and its helpers and removes the folder. Never hangs (asks, then kills), idempotent. */
  stop(): Promise<void>;
  /** Resolves if the VMM says that the guest runs; rejects with the reason (panicked, internal error, gone). At most 5 s. */
  check(): Promise<void>;
  facts(): VmFacts;
  state(): VmState;
  /** All host processes, VMM first, and the vCPU threads. */
  threads(): Promise<{ readonly processes: readonly number[]; readonly vcpus: readonly number[] }>;

  readonly pause?: PauseControl;
  readonly snapshot?: SnapshotControl;
  readonly hotplug?: HotplugControl;
  readonly resize?: ResizeControl;
  readonly transfer?: TransferControl;
}

export interface DriverCapabilities {
  readonly blockHotplug: boolean;
  readonly netHotplug: boolean;
  readonly fsShare: boolean;
  readonly template: boolean;
  readonly resize: boolean;
}

export interface HypervisorDriver {
  readonly type: HypervisorType;
  capabilities(config: HypervisorConfig): DriverCapabilities;
  /** Throws with the reason and the remedy if VMs of this configuration cannot run here. */
  check(config: HypervisorConfig): Promise<void>;
  createVm(spec: VmSpec): Vm;
  /**
   * Takes over a transferable VM that its owner has handed over: holds its lifeline, opens its monitor. The VM is ours
   * then, as if we had started it. NotFound if it has ended meanwhile.
   */
  adoptVm?(spec: VmSpec, state: VmState, signal: AbortSignal): Promise<Vm>;
  /** Kills and removes what a VM of a dead owner left, from its state alone. Idempotent, under 1 s. */
  cleanup(state: VmState): Promise<void>;
}
