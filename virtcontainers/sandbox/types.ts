import type { AgentClient } from '../../agent-client/types';
import type { Logger } from '../../base/log';
import type { OciSpec } from '../../base/oci-spec';
import type { RuntimeConfig } from '../config/types';
import type { Container, ContainerRequest } from '../container/types';
import type { Vm, VmSpec } from '../hypervisor/types';

export type SandboxState = 'creating' | 'ready' | 'running' | 'stopping' | 'stopped' | 'invalid';

/** Where a sandbox's VM came from. */
export type VmSource = 'template' | 'cache' | 'direct';

/** A VM that a factory hands out: running, agent connected, clock set, reseeded. The sandbox owns it. */
export interface FactoryVm {
  readonly vm: Vm;
  readonly agent: AgentClient;
  readonly source: VmSource;
  /** The VM has its share already: a shared mount at `path` in the mount namespace of process `pid`. The sandbox puts its mounts there. */
  readonly share?: { readonly pid: number; readonly path: string };
}

/** The factory has none for this sandbox, which boots its own; counted and logged already. */
export interface FactoryFallback {
  readonly vm: undefined;
  /** One word of a small set, for metrics: `config-mismatch`, `template-failed`, ... */
  readonly fallback: string;
}

/** Declared here, implemented by factory/. */
export interface VmFactory {
  /** A VM may come with its share: nothing is mounted for the guest before that is known. */
  readonly bringsShare?: boolean;
  getVm(spec: VmSpec, signal: AbortSignal, onAgentCall?: SandboxObserver['onAgentCall']): Promise<FactoryVm | FactoryFallback>;
}

/** One named step of a start with its length; same names in log, metrics and bench. */
export interface Phase {
  readonly name: string;
  readonly startMs: number;
  readonly durationMs: number;
}

/** Told of what happens in a sandbox; every member optional, none may throw. */
export interface SandboxObserver {
  onAgentCall?(request: string, durationMs: number, ok: boolean): void;
  onPhase?(phase: Phase): void;
  /** The guest ran out of memory in this container. Called before the process's end is known. */
  onOom?(containerId: string): void;
}

export interface SandboxRequest {
  readonly id: string;
  readonly namespace: string;
  /** The container that comes with the sandbox: pause container or single container. */
  readonly container: ContainerRequest;
  readonly config: RuntimeConfig;
  readonly factory: VmFactory | undefined;
  readonly logger: Logger;
  readonly observer: SandboxObserver;
  readonly signal: AbortSignal;
}

/** Why a sandbox ended by itself. `report` is the FailureReport text shown to the user. */
export interface SandboxEnd {
  readonly kind: 'stopped' | 'failed';
  readonly report: string;
}

export interface Sandbox {
  readonly id: string;
  readonly state: SandboxState;
  readonly config: RuntimeConfig;
  /** Pid of the VMM on the host: the pid of every task. */
  readonly pid: number;
  readonly agent: AgentClient;
  readonly vmSource: VmSource;
  /** Why the factory gave no VM; undefined where it did, or none is on. */
  readonly vmFallback?: string | undefined;
  readonly phases: readonly Phase[];
  readonly containers: ReadonlyMap<string, Container>;
  /** Resolves once when the sandbox has ended, by `stop` or because VMM or agent died. Never rejects. */
  readonly ended: Promise<SandboxEnd>;

  /** AlreadyExists for a used id. On failure nothing of the container is left. */
  createContainer(request: ContainerRequest): Promise<Container>;
  /** Frees a stopped (or created) container in guest and host; FailedPrecondition while it runs. */
  deleteContainer(id: string): Promise<void>;
  /** Tells the VM that a block device of the host, which is attached to it, has another size now. Absent: not possible. */
  resizeBlock?(path: string, sizeBytes: bigint): Promise<void>;
  /** Ends everything and frees everything: containers, VM, mounts, cgroups, state folder. Idempotent, bounded, never hangs on a dead guest. */
  stop(): Promise<void>;
}

/** `createSandbox(request)` in sandbox.ts: boots (or gets) the VM and creates the first container in it. */
export type CreateSandbox = (request: SandboxRequest) => Promise<Sandbox>;

/**
 * `cleanupContainer` in cleanup.ts, for the `delete` verb: from disk alone, idempotent, under 1 s. Frees what belongs
 * to the container; ends the VM if its owner (the shim) is dead and frees the sandbox then. Returns the exit that was
 * recorded, if any.
 */
export interface CleanupRequest {
  readonly sandboxId: string;
  readonly containerId: string;
  readonly bundle: string;
  readonly logger: Logger;
}
export interface CleanupResult {
  readonly pid: number;
  readonly exit: { readonly status: number; readonly at: Date } | undefined;
}

/** What reading the bundle yields; see virtcontainers/bundle. */
export interface Bundle {
  readonly path: string;
  readonly spec: OciSpec;
}
