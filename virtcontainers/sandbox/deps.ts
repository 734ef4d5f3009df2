import type { AgentClient, ConnectOptions } from '../../agent-client/types';
import type { HypervisorType } from '../config/types';
import { HOST_MOUNTS, type Mounts } from '../fs-share/mounts';
import type { HypervisorDriver } from '../hypervisor/types';
import { DEFAULT_ROOTS, type Roots } from './roots';

/** What a sandbox is built on; tests give their own. Heavy modules are loaded at first use. */
export interface SandboxDeps {
  readonly driverFor: (type: HypervisorType) => Promise<HypervisorDriver>;
  readonly connectAgent: (url: string, options: ConnectOptions) => Promise<AgentClient>;
  readonly mounts: Mounts;
  readonly roots: Roots;
}

export const DEFAULT_DEPS: SandboxDeps = {
  driverFor: async (type) => (await import('../hypervisor/registry')).driverFor(type),
  connectAgent: async (url, options) => (await import('../../agent-client/connect')).connectAgent(url, options),
  mounts: HOST_MOUNTS,
  roots: DEFAULT_ROOTS,
};
