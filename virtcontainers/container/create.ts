/** The guest's half of creating a container (virtcontainers-behaviour 5.5). */
import { constrainSpec } from '../../agent-client/constrain';
import type { AgentDevice, AgentStorage } from '../../agent-client/types';
import { withTimeout } from '../../base/deadline';
import { isCode, KataError } from '../../base/errors';
import type { OciLinux, OciSpec } from '../../base/oci-spec';
import type { UndoStack } from '../../base/undo';
import { containerSwap } from '../config/container-annotations';
import { attachMounted, attachNode } from '../device/block';
import { copyToGuest } from '../fs-share/copy';
import type { ContainerHost } from './host';
import type { PreparedContainer } from './prepare';
import type { ContainerRequest } from './types';

const REMOVE_TIMEOUT_MS = 10_000;

async function attachAll(undo: UndoStack, host: ContainerHost, request: ContainerRequest, prepared: PreparedContainer): Promise<{ storages: AgentStorage[]; devices: AgentDevice[] }> {
  refuseVfio(request);
  const storages: AgentStorage[] = [];
  const devices: AgentDevice[] = [];
  if (prepared.rootfs.kind === 'block') {
    storages.push(await attachMounted(undo, host.blocks, { ...prepared.rootfs, guestPath: prepared.guestRootPath }));
  }
  storages.push(...prepared.planned.storages);
  for (const volume of prepared.planned.volumes) {
    storages.push(await attachMounted(undo, host.blocks, volume));
  }
  if (host.vm.hotplug !== undefined && !host.config.hypervisor.disableBlockDeviceUse) {
    for (const device of request.spec.linux?.devices ?? []) {
      if (device.type === 'b') {
        devices.push(await attachNode(undo, host.blocks, device));
      }
    }
  }
  return { storages, devices };
}

/** A group below /dev/vfio is a device of the host; without it the container would start without what it asked for. */
function refuseVfio(request: ContainerRequest): void {
  const device = request.spec.linux?.devices?.find(({ path, type }) => type === 'c' && /^\/dev\/vfio\/(?!vfio$)/.test(path));
  if (device !== undefined) {
    throw new KataError('Unimplemented', `device ${device.path} in container "${request.id}": device pass-through (VFIO) is not supported yet`, {
      hint: 'take the device away; privileged containers get all of the host unless containerd has privileged_without_host_devices = true',
    });
  }
}

/** Swap of the container by annotation (`io.katacontainers.container.resource.*`), as a part of its memory limits. */
function withSwap(linux: OciLinux | undefined, annotations: Record<string, string> | undefined): OciLinux | undefined {
  const { swappiness, swapBytes } = containerSwap(annotations);
  if (swappiness === undefined && swapBytes === undefined) {
    return linux;
  }
  const memory = { ...linux?.resources?.memory, ...(swappiness === undefined ? {} : { swappiness }), ...(swapBytes === undefined ? {} : { swap: swapBytes }) };
  return { ...linux, resources: { ...linux?.resources, memory } };
}

/** The spec as the agent gets it. */
function guestSpec(request: ContainerRequest, prepared: PreparedContainer): OciSpec {
  const linux = withSwap(request.spec.linux, request.spec.annotations);
  return {
    ...request.spec,
    ...(linux === undefined ? {} : { linux }),
    mounts: [...prepared.planned.mounts],
    ...(request.spec.process === undefined ? {} : { process: { ...request.spec.process, terminal: request.terminal } }),
  };
}

/** Attaches devices, copies files and asks the agent to create the container. What it acquires is on `undo`. */
export async function createInGuest(undo: UndoStack, host: ContainerHost, request: ContainerRequest, prepared: PreparedContainer): Promise<void> {
  const { storages, devices } = await attachAll(undo, host, request, prepared);
  for (const copy of prepared.copies) {
    await copyToGuest(host.agent, copy);
  }
  const { spec, sandboxPidns } = constrainSpec(guestSpec(request, prepared), {
    guestRootPath: prepared.guestRootPath,
    seccomp: { supported: host.seccompSupported, disabled: host.config.runtime.disableGuestSeccomp },
    vfioGuestKernel: host.config.runtime.vfioMode === 'guest-kernel',
  });
  const seconds = host.config.runtime.createContainerTimeout;
  undo.push(`container "${request.id}" in the guest`, () => removeFromGuest(host, request.id));
  await host.agent.createContainer({
    containerId: request.id,
    spec,
    storages,
    devices,
    sandboxPidns,
    ...(seconds > 0 ? { timeoutMs: seconds * 1000 } : {}),
  });
}

/** Removes the container in the guest, with all its processes. Bounded; nothing to do where the guest or the container is gone. */
export async function removeFromGuest(host: ContainerHost, containerId: string): Promise<void> {
  if (!host.guestAlive()) {
    return;
  }
  try {
    await withTimeout(host.agent.removeContainer(containerId), REMOVE_TIMEOUT_MS, () => new KataError('DeadlineExceeded', `remove container "${containerId}" in the guest: no answer within ${REMOVE_TIMEOUT_MS} ms`));
  } catch (reason) {
    // Upstream's agent says InvalidArgument for a container that it does not know.
    if (host.guestAlive() && !isCode(reason, 'NotFound') && !isCode(reason, 'InvalidArgument')) {
      throw reason;
    }
  }
}
