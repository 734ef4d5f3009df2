/** Block devices of the host in a VM: what is attached is detached through the undo stack. */
import { existsSync, readFileSync, realpathSync } from 'node:fs';
import { blockSource, blockStorage } from '../../agent-client/storage';
import type { AgentDevice, AgentStorage } from '../../agent-client/types';
import { KataError } from '../../base/errors';
import type { OciDevice } from '../../base/oci-spec';
import type { UndoStack } from '../../base/undo';
import type { GuestBlockAddress, Vm } from '../hypervisor/types';
import { uniqueHex } from './serial';

/** Plugs a block device in; FailedPrecondition if the VM takes none. */
export async function attachBlock(undo: UndoStack, vm: Vm, path: string, readOnly: boolean): Promise<GuestBlockAddress> {
  const { hotplug } = vm;
  if (hotplug === undefined) {
    throw new KataError('FailedPrecondition', `attach ${path}: this hypervisor takes no block devices`);
  }
  const id = `drive-${uniqueHex()}`;
  const address = await hotplug.addBlock({ kind: 'block', id, path: realpathSync(path), readOnly });
  undo.push(`block device ${path}`, async () => {
    // With the VM everything that is plugged into it is gone.
    if (vm.facts().alive) {
      await hotplug.removeBlock(id);
    }
  });
  return address;
}

export interface BlockMount {
  readonly device: string;
  readonly fsType: string;
  readonly options: readonly string[];
  readonly readOnly: boolean;
  readonly guestPath: string;
  readonly fsGroup?: NonNullable<AgentStorage['fsGroup']>;
}

/** Plugs a device with a file system in; returns the storage that makes the guest mount it. */
export async function attachMounted(undo: UndoStack, vm: Vm, mount: BlockMount): Promise<AgentStorage> {
  const address = await attachBlock(undo, vm, mount.device, mount.readOnly);
  const fsGroup = mount.fsGroup === undefined ? {} : { fsGroup: mount.fsGroup };
  return blockStorage({ address, fstype: mount.fsType, options: mount.options, mountPoint: mount.guestPath, ...fsGroup });
}

/** The host's node of a block device by its numbers; the path in the container where the kernel does not know them. */
function hostNode(device: OciDevice): string {
  const uevent = `/sys/dev/block/${String(device.major ?? 0)}:${String(device.minor ?? 0)}/uevent`;
  const name = existsSync(uevent) ? /^DEVNAME=(.+)$/m.exec(readFileSync(uevent, 'utf8'))?.[1] : undefined;
  return name === undefined ? device.path : `/dev/${name}`;
}

/** Plugs a block device of the spec in; returns its entry for the agent. */
export async function attachNode(undo: UndoStack, vm: Vm, device: OciDevice): Promise<AgentDevice> {
  const address = await attachBlock(undo, vm, hostNode(device), false);
  const { driver, source } = blockSource(address);
  return { id: source, type: driver, vmPath: address.kind === 'mmio' || address.kind === 'nvdimm' ? source : '', containerPath: device.path };
}
