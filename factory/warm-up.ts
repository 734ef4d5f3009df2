/**
 * Lets a booted guest do once what each clone will do, so that its agent has the code for it loaded and compiled. Nothing
 * of it stays. An agent that does not like it is left as it is: this only ever costs time.
 */
import { shmStorage } from '../agent-client/storage';
import type { AgentClient } from '../agent-client/types';
import { describeError, KataError } from '../base/errors';
import type { Logger } from '../base/log';
import type { OciSpec } from '../base/oci-spec';

const CONTAINER = 'kata-ts-warm-up';
const ROOT = `/run/kata-containers/${CONTAINER}`;
/** A feature by which ours is known; others are asked for nothing that makes something. */
const OUR_AGENT = 'kata-ts';
/** No further round is begun after this time: a host that is so busy has nothing from it. Each call has its own limit. */
const ENOUGH_MS = 30_000;
const READ_BYTES = 4096;

/**
 * Twice: V8 compiles a regular expression to machine code at its second use, and takes short cuts for properties that it has seen
 * before. Each block of code that a clone need not run is one that its emulator need not translate.
 */
const ROUNDS = 2;
const SHM_BYTES = 1024 * 1024;

const CAPABILITIES = ['CAP_AUDIT_WRITE', 'CAP_KILL', 'CAP_NET_BIND_SERVICE'];
const NO_EXEC = ['nosuid', 'noexec', 'nodev'];

/** A container as hosts send them: own namespaces, limits, the usual mounts; the guest's own root. */
const SPEC: OciSpec = {
  ociVersion: '1.0.2',
  process: {
    args: ['/bin/sh', '-c', 'echo'], cwd: '/', env: ['PATH=/usr/sbin:/usr/bin:/sbin:/bin', 'TERM=xterm'], user: { uid: 0, gid: 0 }, noNewPrivileges: true,
    capabilities: { bounding: CAPABILITIES, effective: CAPABILITIES, permitted: CAPABILITIES },
    rlimits: [{ type: 'RLIMIT_NOFILE', hard: 1024, soft: 1024 }],
  },
  root: { path: ROOT, readonly: true },
  hostname: CONTAINER,
  mounts: [
    { destination: '/proc', type: 'proc', source: 'proc' },
    { destination: '/dev', type: 'tmpfs', source: 'tmpfs', options: ['nosuid', 'strictatime', 'mode=755', 'size=65536k'] },
    { destination: '/dev/pts', type: 'devpts', source: 'devpts', options: ['nosuid', 'noexec', 'newinstance', 'ptmxmode=0666', 'mode=0620', 'gid=5'] },
    { destination: '/dev/shm', type: 'bind', source: '/run/kata-containers/sandbox/shm', options: ['rbind'] },
    { destination: '/dev/mqueue', type: 'mqueue', source: 'mqueue', options: NO_EXEC },
    { destination: '/sys', type: 'sysfs', source: 'sysfs', options: [...NO_EXEC, 'ro'] },
    { destination: '/sys/fs/cgroup', type: 'cgroup', source: 'cgroup', options: [...NO_EXEC, 'relatime', 'ro'] },
  ],
  linux: {
    cgroupsPath: `/${CONTAINER}`,
    namespaces: ['pid', 'ipc', 'uts', 'mount', 'cgroup'].map((type) => ({ type })),
    resources: { devices: [{ allow: false, access: 'rwm' }] },
    maskedPaths: ['/proc/kcore', '/proc/keys', '/sys/firmware'],
    readonlyPaths: ['/proc/bus', '/proc/sys'],
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

/**
 * A sandbox without name or share: what it would set in the guest is set by the clone's own. Rejects if something of it
 * stays; what fails and is undone is only said.
 */
async function runSandbox(agent: AgentClient, logger: Logger): Promise<void> {
  const began = performance.now();
  for (let round = 0; round < ROUNDS && performance.now() - began < ENOUGH_MS; round++) {
    try {
      await agent.createSandbox({ sandboxId: CONTAINER, hostname: '', dns: [], storages: [shmStorage(SHM_BYTES)], sandboxPidns: false, guestHookPath: '', kernelModules: [] });
      await runContainer(agent);
    } catch (reason) {
      logger.info('the guest was not warmed up', { error: describeError(reason) });
      return;
    } finally {
      await agent.destroySandbox();
    }
  }
}

/**
 * Answers when the guest has all its modules, and nothing of what was made here is left in it. Rejects if that cannot be
 * brought about: such a guest is for nobody. With `signal` the connection is closed and its reason thrown.
 */
export async function warmUp(agent: AgentClient, nowMs: number, logger: Logger, signal: AbortSignal): Promise<void> {
  const now = BigInt(Math.round(nowMs * 1000));
  const close = (): void => {
    agent.close();
  };
  signal.throwIfAborted();
  signal.addEventListener('abort', close, { once: true });
  try {
    const [, , details] = await Promise.allSettled([
      agent.setGuestDateTime(now / 1_000_000n, now % 1_000_000n),
      agent.reseedRandom(new Uint8Array(512)),
      agent.getGuestDetails(),
      // Answered when the guest has all its modules; sets nothing in a guest without interfaces.
      agent.updateRoutes([]),
    ]);
    if (details.status === 'fulfilled' && details.value.extraFeatures.includes(OUR_AGENT)) {
      await runSandbox(agent, logger);
    }
  } catch (reason) {
    throw signal.aborted ? signal.reason : KataError.from(reason, `warm the guest up: what was made for it is left: ${describeError(reason)}`);
  } finally {
    signal.removeEventListener('abort', close);
  }
  signal.throwIfAborted();
}
