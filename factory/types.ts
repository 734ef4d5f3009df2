/** What the parts of the factory have in common. A base factory makes paused VMs; `Factory` makes them fit and hands them out. */
import type { AgentClient, ConnectOptions } from '../agent-client/types';
import type { Logger } from '../base/log';
import type { HypervisorConfig, HypervisorType } from '../virtcontainers/config/types';
import type { HypervisorDriver, Vm, VmSpec } from '../virtcontainers/hypervisor/types';
import type { FactoryVm, VmSource } from '../virtcontainers/sandbox/types';

/** What every VM of a factory is made from. A sandbox's own wishes (size, folders) are no part of it. */
export interface BaseConfig {
  readonly hypervisor: HypervisorConfig;
  readonly vcpus: number;
  readonly memoryMiB: number;
  /** Kernel parameters of runtime and agent, as in `VmSpec`. */
  readonly kernelParams: readonly string[];
}

export type BaseKind = 'direct' | 'template' | 'cache' | 'grpc-cache';

/** A paused VM with no connection to its agent. Whoever has it must stop it. */
export interface BaseVm {
  readonly vm: Vm;
  readonly source: VmSource;
  readonly vcpus: number;
  readonly memoryMiB: number;
  readonly share?: FactoryVm['share'];
}

/** One VM in stock. */
export interface StockedVm {
  readonly id: string;
  /** Of the VMM. */
  readonly pid: number;
  readonly vcpus: number;
  readonly memoryMiB: number;
  readonly source: VmSource;
}

/**
 * Makes base VMs. `spec` says whose VM it becomes (id, folder, share, network namespace, logger); its size and
 * configuration are those of the base. Rejects with a KataError; nothing is left then.
 */
export interface BaseFactory {
  readonly kind: BaseKind;
  readonly config: BaseConfig;
  getBaseVm(spec: VmSpec, signal: AbortSignal): Promise<BaseVm>;
  /** VMs in stock; none for factories that keep none. */
  stock(): readonly StockedVm[];
  /** Stops what is in stock. Idempotent. */
  close(): Promise<void>;
}

/** What the factory is built on; tests give their own. */
export interface FactoryDeps {
  readonly driverFor: (type: HypervisorType) => Promise<HypervisorDriver>;
  readonly connectAgent: (url: string, options: ConnectOptions) => Promise<AgentClient>;
  /** Below it each factory VM has its folder; `/run/vc/vm`. */
  readonly vmRoot: string;
  /** Milliseconds since the epoch, for the guest's clock. */
  readonly now: () => number;
  readonly logger: Logger;
}
