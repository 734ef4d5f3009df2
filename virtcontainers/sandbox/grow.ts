/** Grows a VM to what its containers want (virtcontainers-behaviour 8.2), before they get to run. */
import type { AgentClient } from '../../agent-client/types';
import { describeError } from '../../base/errors';
import type { Logger } from '../../base/log';
import type { RuntimeConfig } from '../config/types';
import type { Vm } from '../hypervisor/types';
import { grownSize, type ContainerDemand } from '../resources/vm-sizing';

export interface GrowContext {
  readonly vm: Vm;
  readonly agent: AgentClient;
  readonly config: RuntimeConfig;
  readonly logger: Logger;
  readonly memoryBlockBytes: bigint;
}

const MIB = 1048576n;

/**
 * Adds what is missing and tells the guest to use it. Where the VM cannot grow, the containers run in what there is:
 * that is logged, not an error.
 */
export async function growVm(context: GrowContext, demands: readonly ContainerDemand[]): Promise<void> {
  const { vm, agent, config, logger, memoryBlockBytes } = context;
  const { resize } = vm;
  const size = grownSize(config, demands);
  const { defaultVcpus, defaultMemory } = config.hypervisor;
  const atBoot = size?.vcpus === defaultVcpus && size.memoryMiB === defaultMemory;
  if (resize === undefined || size === undefined || (atBoot && demands.length <= 1)) {
    return;
  }
  try {
    const vcpus = await resize.setVcpus(size.vcpus);
    if (vcpus > defaultVcpus) {
      await agent.onlineCpuMem({ wait: false, cpus: vcpus - defaultVcpus, cpuOnly: true });
    }
    const memory = await resize.setMemory(size.memoryMiB, Number(memoryBlockBytes / MIB) || 128);
    if (memory > defaultMemory) {
      await agent.onlineCpuMem({ wait: false, cpus: 0, cpuOnly: false });
    }
  } catch (reason) {
    logger.warn('the virtual machine did not grow', { vcpus: size.vcpus, memoryMiB: size.memoryMiB, error: describeError(reason) });
  }
}
