/**
 * Lets a booted guest do once what each clone will do, so that its agent has the code for it loaded and compiled. Nothing
 * of it stays. An agent that does not like it is left as it is: this only ever costs time.
 */
import type { AgentClient } from '../agent-client/types';
import { withTimeout } from '../base/deadline';
import { describeError, KataError } from '../base/errors';
import type { Logger } from '../base/log';
import type { OciSpec } from '../base/oci-spec';

const CONTAINER = 'kata-ts-warm-up';
const ROOT = `/run/kata-containers/${CONTAINER}`;
/** A feature by which ours is known; others are asked for nothing that makes something. */
const OUR_AGENT = 'kata-ts';
const TIMEOUT_MS = 30_000;
const READ_BYTES = 4096;

const CAPABILITIES = ['CAP_CHOWN', 'CAP_KILL', 'CAP_SETUID', 'CAP_SETGID'];

/** A container like any: own namespaces, the usual mounts, the guest's own root. */
const SPEC: OciSpec = {
  ociVersion: '1.0.2',
  process: {
    args: ['/bin/sh', '-c', 'echo'], cwd: '/', env: ['PATH=/usr/sbin:/usr/bin:/sbin:/bin'], user: { uid: 0, gid: 0 }, noNewPrivileges: true,
    capabilities: { bounding: CAPABILITIES, effective: CAPABILITIES, permitted: CAPABILITIES },
  },
  root: { path: ROOT, readonly: true },
  mounts: [{ destination: '/proc', type: 'proc', source: 'proc', options: ['nosuid', 'noexec', 'nodev'] }],
  linux: {
    cgroupsPath: `/${CONTAINER}`,
    namespaces: ['pid', 'ipc', 'uts', 'mount'].map((type) => ({ type })),
    resources: { devices: [{ allow: false, access: 'rwm' }] },
  },
};

async function runContainer(agent: AgentClient): Promise<void> {
  const ref = { containerId: CONTAINER, execId: CONTAINER };
  await agent.createContainer({
    containerId: CONTAINER, spec: SPEC, devices: [], sandboxPidns: false,
    storages: [{ driver: 'bind', source: '/', fstype: 'bind', options: ['bind'], mountPoint: ROOT }],
  });
  try {
    await agent.startContainer(CONTAINER);
    await Promise.all([agent.waitProcess(ref), agent.readStdout(ref, READ_BYTES)]);
  } finally {
    await agent.removeContainer(CONTAINER);
  }
}

/** Never rejects; at most 30 s. Answers when the guest has all its modules. */
export async function warmUp(agent: AgentClient, nowMs: number, logger: Logger): Promise<void> {
  const now = BigInt(Math.round(nowMs * 1000));
  const [, , details] = await Promise.allSettled([
    agent.setGuestDateTime(now / 1_000_000n, now % 1_000_000n),
    agent.reseedRandom(new Uint8Array(512)),
    agent.getGuestDetails(),
    // Answered when the guest has all its modules; sets nothing in a guest without interfaces.
    agent.updateRoutes([]),
  ]);
  if (details.status === 'rejected' || !details.value.extraFeatures.includes(OUR_AGENT)) {
    return;
  }
  try {
    await withTimeout(runContainer(agent), TIMEOUT_MS, () => new KataError('DeadlineExceeded', 'warm the guest up: not done in time'));
  } catch (reason) {
    logger.info('the guest was not warmed up', { error: describeError(reason) });
  }
}
