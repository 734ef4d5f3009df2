import { AgentServiceDefinition } from '../gen/agent/agent';
import { HealthDefinition } from '../gen/agent/health';
import { VolumeUsage_Unit, type VolumeStatsResponse } from '../gen/agent/volume';
import type { AgentChannel } from './channel';
import { toWireStorage } from './containers';
import { copyFile } from './copy-file';
import type { AgentClient, VolumeStats } from './types';

const { fullName, methods } = AgentServiceDefinition;

/** Time-out of a health check in milliseconds. */
export const CHECK_TIMEOUT_MS = 30_000;

/** The kernel's limit of a host name. */
const MAX_HOSTNAME = 64;

type HealthCalls = Pick<AgentClient, 'check' | 'version'>;

/** The calls of the agent's health service. */
export function healthCalls(channel: AgentChannel): HealthCalls {
  const health = HealthDefinition;
  return {
    check: async (limits = { timeoutMs: CHECK_TIMEOUT_MS }) => {
      // The status is not looked at: agents answer SERVING or not at all.
      await channel.call(health.fullName, health.methods.check, { service: '' }, limits);
    },
    version: async () => {
      const { grpcVersion, agentVersion } = await channel.call(health.fullName, health.methods.version, { service: '' });
      return { grpcVersion, agentVersion };
    },
  };
}

type SandboxCalls = Pick<
  AgentClient,
  | 'createSandbox'
  | 'destroySandbox'
  | 'getGuestDetails'
  | 'setGuestDateTime'
  | 'reseedRandom'
  | 'onlineCpuMem'
  | 'memHotplugByProbe'
  | 'copyFile'
  | 'getOomEvent'
  | 'getMetrics'
  | 'setPolicy'
  | 'addSwap'
  | 'getVolumeStats'
  | 'resizeVolume'
>;

/** The calls about the guest as a whole. */
export function sandboxCalls(channel: AgentChannel): SandboxCalls {
  return {
    createSandbox: async (request) => {
      const { hostname, dns, storages, sandboxPidns, sandboxId, guestHookPath, kernelModules } = request;
      await channel.call(fullName, methods.createSandbox, {
        hostname: hostname.slice(0, MAX_HOSTNAME),
        dns: [...dns],
        storages: storages.map(toWireStorage),
        sandboxPidns,
        sandboxId,
        guestHookPath,
        kernelModules: kernelModules.map(({ name, parameters }) => ({ name, parameters: [...parameters] })),
      });
    },
    destroySandbox: async () => {
      await channel.call(fullName, methods.destroySandbox, {});
    },
    copyFile: async (hostPath, guestPath) =>
      copyFile(hostPath, guestPath, async (piece) => {
        await channel.call(fullName, methods.copyFile, piece);
      }),
    getOomEvent: async (signal) =>
      (await channel.call(fullName, methods.getOOMEvent, {}, { timeoutMs: 'none', signal })).containerId,
    getMetrics: async () => (await channel.call(fullName, methods.getMetrics, {})).metrics,
    setPolicy: async (policy) => {
      await channel.call(fullName, methods.setPolicy, { policy });
    },
    ...guestCalls(channel),
    ...volumeCalls(channel),
  };
}

type GuestCalls = Pick<
  AgentClient,
  'getGuestDetails' | 'setGuestDateTime' | 'reseedRandom' | 'onlineCpuMem' | 'memHotplugByProbe'
>;

function guestCalls(channel: AgentChannel): GuestCalls {
  return {
    getGuestDetails: async () => {
      const request = { memBlockSize: true, memHotplugProbe: true };
      const answer = await channel.call(fullName, methods.getGuestDetails, request);
      const details = answer.agentDetails;
      return {
        memoryBlockSizeBytes: answer.memBlockSizeBytes,
        supportsMemoryHotplugProbe: answer.supportMemHotplugProbe,
        agentVersion: details?.version ?? '',
        initDaemon: details?.initDaemon ?? false,
        deviceHandlers: details?.deviceHandlers ?? [],
        storageHandlers: details?.storageHandlers ?? [],
        supportsSeccomp: details?.supportsSeccomp ?? false,
        extraFeatures: details?.extraFeatures ?? [],
      };
    },
    setGuestDateTime: async (sec, usec) => {
      await channel.call(fullName, methods.setGuestDateTime, { sec, usec });
    },
    reseedRandom: async (data) => {
      await channel.call(fullName, methods.reseedRandomDev, { data });
    },
    onlineCpuMem: async ({ wait, cpus, cpuOnly }) => {
      await channel.call(fullName, methods.onlineCPUMem, { wait, nbCpus: cpus, cpuOnly });
    },
    memHotplugByProbe: async (addresses) => {
      await channel.call(fullName, methods.memHotplugByProbe, { memHotplugProbeAddr: [...addresses] });
    },
  };
}

function volumeCalls(channel: AgentChannel): Pick<AgentClient, 'addSwap' | 'getVolumeStats' | 'resizeVolume'> {
  return {
    addSwap: async (pciPath) => {
      await channel.call(fullName, methods.addSwap, { pciPath: [...pciPath] });
    },
    getVolumeStats: async (volumeGuestPath) =>
      toVolumeStats(await channel.call(fullName, methods.getVolumeStats, { volumeGuestPath })),
    resizeVolume: async (volumeGuestPath, sizeBytes) => {
      await channel.call(fullName, methods.resizeVolume, { volumeGuestPath, size: sizeBytes });
    },
  };
}

function toVolumeStats(answer: VolumeStatsResponse): VolumeStats {
  const condition = answer.volumeCondition;
  return {
    usage: answer.usage.map(({ available, total, used, unit }) => ({ available, total, used, unit: toUnit(unit) })),
    condition: condition === undefined ? undefined : { abnormal: condition.abnormal, message: condition.message },
  };
}

function toUnit(unit: VolumeUsage_Unit): 'unknown' | 'bytes' | 'inodes' {
  switch (unit) {
    case VolumeUsage_Unit.BYTES:
      return 'bytes';
    case VolumeUsage_Unit.INODES:
      return 'inodes';
    default:
      return 'unknown';
  }
}
