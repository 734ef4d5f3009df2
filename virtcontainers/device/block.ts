/** Block devices of the host in a VM: what is attached is detached through the undo stack. */
import { existsSync, readFileSync, realpathSync, statSync } from 'node:fs';
import { blockSource, blockStorage } from '../../agent-client/storage';
import type { AgentDevice, AgentStorage } from '../../agent-client/types';
import { KataError } from '../../base/errors';
import type { OciDevice } from '../../base/oci-spec';
import type { UndoStack } from '../../base/undo';
import type { GuestBlockAddress, HotplugControl, Vm } from '../hypervisor/types';
import { uniqueHex } from './serial';

interface Attached {
  references: number;
  readonly id: string;
  readonly readOnly: boolean;
  readonly address: Promise<GuestBlockAddress>;
  /** Set while it is being unplugged. */
  leaving?: Promise<void>;
}

/** One name for a device, whatever node or link it is reached by. */
function identity(path: string): string {
  const stats = statSync(path);
  return stats.isBlockDevice() ? `device ${String(stats.rdev)}` : `file ${String(stats.dev)} ${String(stats.ino)}`;
}

/**
 * The block devices of the host in one VM. A device that several containers of a pod use is plugged in once, since a
 * VMM takes it once only, and unplugged with the last of them.
 */
export class BlockDevices {
  private readonly attached = new Map<string, Attached>();

  constructor(private readonly vm: Vm) {}

  /** Plugs a block device in, or shares it; FailedPrecondition if the VM takes none, or has it read-only and it is to be written. */
  async attach(undo: UndoStack, path: string, readOnly: boolean): Promise<GuestBlockAddress> {
    const { hotplug } = this.vm;
    if (hotplug === undefined) {
      throw new KataError('FailedPrecondition', `attach ${path}: this hypervisor takes no block devices`);
    }
    const key = identity(path);
    let known = this.attached.get(key);
    while (known?.leaving !== undefined) {
      await known.leaving;
      known = this.attached.get(key);
    }
    if (known === undefined) {
      return this.plug(undo, hotplug, { key, path, readOnly });
    }
    if (known.readOnly && !readOnly) {
      throw new KataError('FailedPrecondition', `attach ${path}: another container of the pod uses it read-only`, { hint: 'use it read-only in all containers, or in none' });
    }
    known.references++;
    const entry = known;
    undo.push(`block device ${path}`, () => this.drop(key, entry));
    return known.address;
  }

  private async plug(undo: UndoStack, hotplug: HotplugControl, { key, path, readOnly }: { readonly key: string; readonly path: string; readonly readOnly: boolean }): Promise<GuestBlockAddress> {
    const id = `drive-${uniqueHex()}`;
    const entry: Attached = { references: 1, id, readOnly, address: hotplug.addBlock({ kind: 'block', id, path: realpathSync(path), readOnly }) };
    this.attached.set(key, entry);
    try {
      const address = await entry.address;
      undo.push(`block device ${path}`, () => this.drop(key, entry));
      return address;
    } catch (reason) {
      this.attached.delete(key);
      throw reason;
    }
  }

  private async drop(key: string, entry: Attached): Promise<void> {
    if (--entry.references > 0) {
      return;
    }
    // With the VM everything that is plugged into it is gone.
    const { hotplug } = this.vm;
    const unplugged = hotplug !== undefined && this.vm.facts().alive ? hotplug.removeBlock(entry.id) : Promise.resolve();
    entry.leaving = unplugged.catch(() => undefined).finally(() => this.attached.delete(key));
    await unplugged;
  }
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
export async function attachMounted(undo: UndoStack, blocks: BlockDevices, mount: BlockMount): Promise<AgentStorage> {
  const address = await blocks.attach(undo, mount.device, mount.readOnly);
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
export async function attachNode(undo: UndoStack, blocks: BlockDevices, device: OciDevice): Promise<AgentDevice> {
  const address = await blocks.attach(undo, hostNode(device), false);
  const { driver, source } = blockSource(address);
  return { id: source, type: driver, vmPath: address.kind === 'mmio' || address.kind === 'nvdimm' ? source : '', containerPath: device.path };
}
