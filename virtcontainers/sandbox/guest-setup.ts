/** The first requests to a guest's agent, in upstream's order (virtcontainers-behaviour 5.4). */
import { ninePStorage, shmStorage, virtioFsStorage } from '../../agent-client/storage';
import type { AgentClient, AgentStorage, GuestDetails } from '../../agent-client/types';
import { isCode } from '../../base/errors';
import { hostnameOf } from '../bundle/guest-view';
import type { RuntimeConfig } from '../config/types';
import type { SharedFolder } from '../hypervisor/types';
import type { SandboxRequest } from './types';

const MAX_HOSTNAME = 64;

export interface GuestSetup {
  readonly share: SharedFolder | undefined;
  readonly shmSizeBytes: number;
  readonly dns: readonly string[];
  /** For the first answer of the agent. */
  readonly answerTimeoutMs: number;
  /** The factory has had answers of the agent already, and has set the clock. */
  readonly known: boolean;
}

function shareStorage(share: SharedFolder, config: RuntimeConfig): AgentStorage {
  const { virtioFsCache, virtioFsCacheSize, msize9p } = config.hypervisor;
  return share.kind === 'virtio-9p'
    ? ninePStorage({ msizeBytes: msize9p })
    : virtioFsStorage({ dax: virtioFsCacheSize > 0 && !['none', 'never'].includes(virtioFsCache) });
}

/** `name arg arg` of the configuration. */
function kernelModule(line: string): { name: string; parameters: string[] } {
  const [name = '', ...parameters] = line.trim().split(/\s+/);
  return { name, parameters };
}

async function tolerateUnimplemented(call: Promise<void>): Promise<void> {
  try {
    await call;
  } catch (reason) {
    if (!isCode(reason, 'Unimplemented')) {
      throw reason;
    }
  }
}

/** Checks an agent that is not known yet, sets the clock and creates the sandbox in the guest; returns what the guest says of itself. */
export async function setUpGuest(agent: AgentClient, request: SandboxRequest, setup: GuestSetup): Promise<GuestDetails> {
  const { config } = request;
  if (!setup.known) {
    await agent.check({ timeoutMs: setup.answerTimeoutMs, timeoutKey: 'dial_timeout' });
  }
  const policy = request.container.spec.annotations?.['io.katacontainers.config.agent.policy'];
  if (policy !== undefined) {
    await agent.setPolicy(Buffer.from(policy, 'base64').toString('utf8'));
  }
  const now = BigInt(Date.now());
  // Sent together, in this order: none needs the answer of another.
  const [, , details] = await Promise.all([
    setup.known ? undefined : tolerateUnimplemented(agent.setGuestDateTime(now / 1000n, (now % 1000n) * 1000n)),
    agent.createSandbox({
      // A spec without a name must not leave guests that cannot be told apart.
      hostname: (hostnameOf(request.container.spec) || request.id).slice(0, MAX_HOSTNAME),
      dns: setup.dns,
      storages: [
        ...(setup.share === undefined ? [] : [shareStorage(setup.share, config)]),
        ...(setup.shmSizeBytes > 0 ? [shmStorage(setup.shmSizeBytes)] : []),
      ],
      sandboxPidns: false,
      sandboxId: request.id,
      guestHookPath: config.hypervisor.guestHookPath,
      kernelModules: config.agent.kernelModules.map(kernelModule),
    }),
    agent.getGuestDetails(),
  ]);
  return details;
}
