import { serviceFromTsProto, TtrpcServer, type Handlers } from 'ttrpc-ts';
import { AgentServiceDefinition } from '../../gen/agent/agent';
import { HealthDefinition, HealthCheckResponse_ServingStatus as ServingStatus } from '../../gen/agent/health';
import { codeOf, describeError, KataError } from '../../base/errors';
import { log } from './console-log';
import { resourcesFromWire } from './container/spec';
import type { OutputStream } from './process/output-stream';
import type { Sandbox } from './sandbox/sandbox';

/** What the host is told. */
export const AGENT_VERSION = '3.0.0';
const API_VERSION = '0.0.1';

/** An answer has to fit the protocol's 4 MiB with its envelope. */
const MAX_READ_BYTES = 4 * 1024 * 1024 - 1024;
const EMPTY = {};

const VIRTIO_NET = '1';
/** Entropy: no container waits for it, so it comes when the first one has had its start. */
const BACKGROUND_DEVICES: readonly string[] = ['4'];
const BACKGROUND_AFTER_MS = 2_000;

const agentService = serviceFromTsProto(AgentServiceDefinition);
const healthService = serviceFromTsProto(HealthDefinition);

type AgentHandlers = Handlers<typeof agentService>;

/** The service that all channels of the agent share. */
export function makeServer(sandbox: Sandbox): TtrpcServer {
  const server = new TtrpcServer({
    mapError: (error) => {
      const message = describeError(error);
      log.debug('call failed', { error: message });
      return { code: codeOf(error) === 'Unknown' ? 'Internal' : codeOf(error), message };
    },
  });
  const agent: AgentHandlers = {
    ...containerHandlers(sandbox),
    ...streamHandlers(sandbox),
    ...sandboxHandlers(sandbox),
    ...networkHandlers(sandbox),
    ...systemHandlers(sandbox),
    ...unsupportedHandlers(),
  };
  return server.register(agentService, agent).register(healthService, {
    check: () => ({ status: ServingStatus.SERVING }),
    version: () => ({ grpcVersion: API_VERSION, agentVersion: AGENT_VERSION }),
  });
}

function containerHandlers(sandbox: Sandbox): AgentHandlers {
  return {
    createContainer: async (request) => {
      await sandbox.createContainer(request);
      return EMPTY;
    },
    startContainer: async ({ containerId }) => {
      await sandbox.container(containerId).start();
      setTimeout(() => void sandbox.modules?.forDevices(BACKGROUND_DEVICES), BACKGROUND_AFTER_MS).unref();
      return EMPTY;
    },
    removeContainer: async ({ containerId }) => {
      await sandbox.removeContainer(containerId);
      return EMPTY;
    },
    updateContainer: async ({ containerId, resources }) => {
      if (resources !== undefined) {
        await sandbox.container(containerId).update(resourcesFromWire(resources));
      }
      return EMPTY;
    },
    statsContainer: async ({ containerId }) => {
      const { statsOf } = await import('./cgroup/stats');
      return statsOf(sandbox.container(containerId).cgroup);
    },
    pauseContainer: async ({ containerId }) => {
      await sandbox.container(containerId).pause();
      return EMPTY;
    },
    resumeContainer: async ({ containerId }) => {
      await sandbox.container(containerId).resume();
      return EMPTY;
    },
    execProcess: async (request) => {
      await sandbox.exec(request);
      return EMPTY;
    },
    signalProcess: ({ containerId, execId, signal }) => {
      if (signal > 64) {
        throw new KataError('InvalidArgument', `send signal ${String(signal)}: there is no such signal`);
      }
      if (!sandbox.container(containerId).signal(execId, signal)) {
        throw new KataError('Internal', 'ESRCH: No such process');
      }
      return EMPTY;
    },
    waitProcess: async ({ containerId, execId }) => ({ status: await sandbox.container(containerId).wait(execId) }),
    getOOMEvent: async (_request, { signal }) => ({ containerId: await sandbox.oom.next(signal) }),
  };
}

function streamHandlers(sandbox: Sandbox): AgentHandlers {
  const read = async (stream: OutputStream | undefined, len: number, signal: AbortSignal): Promise<{ data: Uint8Array }> => ({
    data: stream === undefined ? Buffer.alloc(0) : await stream.read(Math.min(len, MAX_READ_BYTES), signal),
  });
  return {
    writeStdin: async ({ containerId, execId, data }) => ({ len: await sandbox.container(containerId).process(execId).stdin.write(data) }),
    readStdout: async ({ containerId, execId, len }, { signal }) => read(sandbox.container(containerId).process(execId).stdout, len, signal),
    readStderr: async ({ containerId, execId, len }, { signal }) => read(sandbox.container(containerId).process(execId).stderr, len, signal),
    closeStdin: ({ containerId, execId }) => {
      sandbox.container(containerId).process(execId).stdin.end();
      return EMPTY;
    },
    ttyWinResize: ({ containerId, execId, row, column }) => {
      sandbox.container(containerId).process(execId).resize(row, column);
      return EMPTY;
    },
  };
}

function sandboxHandlers(sandbox: Sandbox): AgentHandlers {
  return {
    createSandbox: async (request) => {
      await sandbox.create(request);
      return EMPTY;
    },
    destroySandbox: async () => {
      await sandbox.destroy();
      return EMPTY;
    },
    updateEphemeralMounts: async ({ storages }) => {
      const { remountEphemeral } = await import('./storage/remount');
      remountEphemeral(storages);
      return EMPTY;
    },
    removeStaleVirtiofsShareMounts: async () => {
      const { removeStaleShareMounts } = await import('./storage/remount');
      removeStaleShareMounts();
      return EMPTY;
    },
    copyFile: async (request) => {
      const { copyFile } = await import('./system/copy-file');
      copyFile(request);
      return EMPTY;
    },
    getVolumeStats: async ({ volumeGuestPath }) => {
      const { volumeStats } = await import('./system/volume');
      return volumeStats(volumeGuestPath);
    },
    resizeVolume: async ({ volumeGuestPath, size }) => {
      const { resizeVolume } = await import('./system/volume');
      await resizeVolume(volumeGuestPath, size);
      return EMPTY;
    },
    addSwap: async ({ pciPath }) => {
      await sandbox.modules?.all();
      const { addSwap } = await import('./system/volume');
      await addSwap(pciPath);
      return EMPTY;
    },
    addSwapPath: async ({ path }) => {
      const { addSwapPath } = await import('./system/volume');
      await addSwapPath(path);
      return EMPTY;
    },
  };
}

/** A mock lives in the pod's own network namespace, where everything is set up already: it looks but does not touch. */
function networkHandlers(sandbox: Sandbox): AgentHandlers {
  return {
    updateInterface: async ({ interface: wanted }) => {
      if (wanted === undefined) {
        throw new KataError('InvalidArgument', 'update interface: none given');
      }
      if (sandbox.isMock) {
        return wanted;
      }
      await sandbox.ready;
      await sandbox.modules?.forDevices([VIRTIO_NET]);
      const { updateInterface } = await import('./system/network');
      return updateInterface(wanted, sandbox.hotplugTimeoutMs);
    },
    updateRoutes: async ({ routes }) => {
      if (routes === undefined || sandbox.isMock) {
        return routes ?? { routes: [] };
      }
      await sandbox.ready;
      if (routes.routes.length === 0) {
        // Who makes a template asks this, so that its clones find all modules loaded.
        await sandbox.modules?.all();
      }
      const { updateRoutes } = await import('./system/network');
      return { routes: await updateRoutes(routes.routes) };
    },
    listInterfaces: async () => {
      const { listInterfaces } = await import('./system/network');
      return { interfaces: await listInterfaces() };
    },
    listRoutes: async () => {
      const { listRoutes } = await import('./system/network');
      return { routes: await listRoutes() };
    },
    addARPNeighbors: async ({ neighbors }) => {
      if (neighbors !== undefined && !sandbox.isMock) {
        const { addNeighbors } = await import('./system/network');
        await addNeighbors(neighbors.arpNeighbors);
      }
      return EMPTY;
    },
    getIPTables: async ({ isIpv6 }) => {
      const { getIptables } = await import('./system/iptables');
      return { data: await getIptables(isIpv6) };
    },
    setIPTables: async ({ isIpv6, data }) => {
      const { setIptables } = await import('./system/iptables');
      return { data: await setIptables(isIpv6, data) };
    },
  };
}

function systemHandlers(sandbox: Sandbox): AgentHandlers {
  return {
    onlineCPUMem: async (request) => {
      if (!sandbox.isMock) {
        const { onlineCpuMemory } = await import('./system/online');
        await onlineCpuMemory(request);
      }
      return EMPTY;
    },
    memHotplugByProbe: async ({ memHotplugProbeAddr }) => {
      if (!sandbox.isMock) {
        const { probeMemory } = await import('./system/online');
        probeMemory(memHotplugProbeAddr);
      }
      return EMPTY;
    },
    reseedRandomDev: async ({ data }) => {
      if (!sandbox.isMock) {
        const { reseedRandom } = await import('./system/random');
        reseedRandom(data);
      }
      return EMPTY;
    },
    setGuestDateTime: async ({ sec, usec }) => {
      if (!sandbox.isMock) {
        const { setTimeOfDay } = await import('../../base/syscalls');
        setTimeOfDay(sec, usec);
      }
      return EMPTY;
    },
    getGuestDetails: async (request) => {
      const { guestDetails } = await import('./system/details');
      return guestDetails(request, AGENT_VERSION, !sandbox.isMock);
    },
    getMetrics: async () => {
      const { guestMetrics } = await import('./system/metrics');
      return { metrics: guestMetrics() };
    },
    getDiagnosticData: async ({ logType, containerId }) => {
      const { diagnosticData } = await import('./system/diagnostics');
      return { data: diagnosticData(logType, containerId, sandbox) };
    },
  };
}

function unsupportedHandlers(): AgentHandlers {
  const refuse = (what: string) => () => {
    throw new KataError('Unimplemented', `${what}: this agent does not support it`);
  };
  return {
    setPolicy: refuse('set policy'),
    memAgentMemcgSet: refuse('set the memory agent\'s memcg parameters'),
    memAgentCompactSet: refuse('set the memory agent\'s compact parameters'),
  };
}
