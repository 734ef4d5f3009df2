import type { AgentClient } from '../../agent-client/types';
import type { Logger } from '../../base/log';
import type { RuntimeConfig } from '../config/types';
import type { BlockDevices } from '../device/block';
import type { Vm } from '../hypervisor/types';

/** What a container needs of its sandbox. */
export interface ContainerHost {
  readonly sandboxId: string;
  readonly config: RuntimeConfig;
  readonly agent: AgentClient;
  readonly vm: Vm;
  /** The sandbox's block devices in the VM. */
  readonly blocks: BlockDevices;
  readonly seccompSupported: boolean;
  readonly logger: Logger;
  /** False once VM or agent is known to be gone: nothing is asked of them any more. */
  guestAlive(): boolean;
  /** Waits shortly for an out-of-memory report of this container that may still be under way. */
  oomSettled(containerId: string): Promise<void>;
  /** The wanted resources of a container changed: grow the VM. */
  resized(): Promise<void>;
  /** Something changed that is kept on disk. Never throws. */
  changed(): void;
}
