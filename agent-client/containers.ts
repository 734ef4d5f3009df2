import { AgentServiceDefinition, FSGroupChangePolicy } from '../gen/agent/agent';
import type { Device, Storage } from '../gen/agent/agent';
import type { AgentChannel } from './channel';
import { toWireResources, toWireSpec } from './oci';
import { toContainerStats } from './stats';
import type { AgentClient, AgentDevice, AgentStorage } from './types';

const { fullName, methods } = AgentServiceDefinition;

/** A storage as the wire has it. */
export function toWireStorage(storage: AgentStorage): Storage {
  const { fsGroup } = storage;
  return {
    driver: storage.driver,
    driverOptions: [...(storage.driverOptions ?? [])],
    source: storage.source,
    fstype: storage.fstype,
    options: [...(storage.options ?? [])],
    mountPoint: storage.mountPoint,
    fsGroup:
      fsGroup === undefined
        ? undefined
        : {
            groupId: fsGroup.groupId,
            groupChangePolicy:
              fsGroup.changePolicy === 'always' ? FSGroupChangePolicy.Always : FSGroupChangePolicy.OnRootMismatch,
          },
    shared: false,
  };
}

function toWireDevice(device: AgentDevice): Device {
  return { ...device, options: [...(device.options ?? [])] };
}

type ContainerCalls = Pick<
  AgentClient,
  | 'createContainer'
  | 'startContainer'
  | 'removeContainer'
  | 'updateContainer'
  | 'statsContainer'
  | 'pauseContainer'
  | 'resumeContainer'
>;

/** The calls about whole containers. */
export function containerCalls(channel: AgentChannel): ContainerCalls {
  return {
    createContainer: async (request) => {
      const { containerId, spec, storages, devices, sandboxPidns, timeoutMs } = request;
      const message = {
        containerId,
        execId: containerId,
        stringUser: undefined,
        devices: devices.map(toWireDevice),
        storages: storages.map(toWireStorage),
        oci: toWireSpec(spec),
        sandboxPidns,
        sharedMounts: [],
        stdinPort: 0,
        stdoutPort: 0,
        stderrPort: 0,
      };
      const timeoutKey = 'create_container_timeout';
      const limits = timeoutMs === undefined ? { timeoutKey } : { timeoutMs, timeoutKey };
      await channel.call(fullName, methods.createContainer, message, limits);
    },
    startContainer: async (containerId) => {
      await channel.call(fullName, methods.startContainer, { containerId });
    },
    removeContainer: async (containerId, timeoutSeconds = 0) => {
      await channel.call(fullName, methods.removeContainer, { containerId, timeout: timeoutSeconds });
    },
    updateContainer: async (containerId, resources) => {
      await channel.call(fullName, methods.updateContainer, { containerId, resources: toWireResources(resources) });
    },
    statsContainer: async (containerId) =>
      toContainerStats(await channel.call(fullName, methods.statsContainer, { containerId })),
    pauseContainer: async (containerId) => {
      await channel.call(fullName, methods.pauseContainer, { containerId });
    },
    resumeContainer: async (containerId) => {
      await channel.call(fullName, methods.resumeContainer, { containerId });
    },
  };
}
