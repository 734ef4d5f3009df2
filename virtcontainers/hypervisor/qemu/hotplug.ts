/** Devices that come and go while the guest runs: on the PCI bridges, or as disks of the SCSI controller. */
import { statSync } from 'node:fs';
import { KataError } from '../../../base/errors';
import type { BlockDevice, GuestBlockAddress, HotplugControl, NetDevice, SharedFolder, VmSpec } from '../types';
import { bridgeId, fileIn, FIRST_BRIDGE_SLOT, hexSlot, independentIothread, LAST_BRIDGE_SLOT, SLOT } from './layout';
import type { QmpClient } from './qmp/client';

const UNPLUG_TIMEOUT_MS = 10_000;
/** Disks of one SCSI target. */
const LUNS_PER_TARGET = 256;
const MAX_ID_LENGTH = 31;
const SHARE_CHARDEV = 'share-fs';

interface Place {
  readonly bridge: number;
  readonly slot: number;
}

function checkDeviceId(id: string): void {
  if (!/^[A-Za-z][A-Za-z0-9_.-]*$/.test(id) || id.length > MAX_ID_LENGTH) {
    throw new KataError('InvalidArgument', `device id ${JSON.stringify(id)}: not one that QEMU takes`);
  }
}

export class QemuHotplug implements HotplugControl {
  private readonly places = new Map<string, Place>();
  private readonly scsi = new Map<string, number>();
  /** Attached block devices: id -> path on the host. */
  private readonly paths = new Map<string, string>();
  private iothreadsUsed = 0;

  constructor(
    private readonly spec: VmSpec,
    private readonly qmp: () => QmpClient,
    /** Starts the daemon of a virtio-fs share; it listens when this returns. */
    private readonly serveShare: (folder: SharedFolder) => Promise<void>,
  ) {}

  async addBlock(device: BlockDevice): Promise<GuestBlockAddress> {
    checkDeviceId(device.id);
    const { config } = this.spec;
    const isDevice = statSync(device.path).isBlockDevice();
    const cache = config.blockDeviceCacheSet ? { cache: { direct: config.blockDeviceCacheDirect, 'no-flush': config.blockDeviceCacheNoflush } } : {};
    await this.qmp().execute('blockdev-add', {
      'node-name': device.id,
      driver: 'raw',
      'read-only': device.readOnly,
      file: { driver: isDevice ? 'host_device' : 'file', filename: device.path, aio: config.blockDeviceAio, ...(device.readOnly ? { locking: 'off' } : {}) },
      ...cache,
    });
    this.paths.set(device.id, device.path);
    try {
      return config.blockDeviceDriver === 'virtio-scsi' ? await this.addScsi(device) : await this.addVirtioBlk(device);
    } catch (reason) {
      this.paths.delete(device.id);
      await this.qmp().execute('blockdev-del', { 'node-name': device.id }).catch(() => undefined);
      throw reason;
    }
  }

  /** `block_resize`: of a host device QEMU only looks at the size that it has now. */
  async resizeBlock(path: string, sizeBytes: bigint): Promise<void> {
    const ids = [...this.paths].filter(([, attached]) => attached === path).map(([id]) => id);
    if (ids.length === 0) {
      throw new KataError('NotFound', `resize ${path}: it is not attached to the virtual machine`);
    }
    for (const id of ids) {
      await this.qmp().execute('block_resize', { 'node-name': id, size: Number(sizeBytes) });
    }
  }

  async removeBlock(id: string): Promise<void> {
    await this.unplug(`virtio-${id}`);
    this.release(id);
    this.paths.delete(id);
    await this.qmp().execute('blockdev-del', { 'node-name': id });
  }

  async addNet(device: NetDevice): Promise<string> {
    checkDeviceId(device.id);
    const qmp = this.qmp();
    const queues = device.tapFds.length;
    if (queues === 0) {
      throw new KataError('InvalidArgument', `add network device "${device.id}": no tap`);
    }
    const names = device.tapFds.map((_, index) => `${device.id}-q${String(index)}`);
    for (const [index, fd] of device.tapFds.entries()) {
      await qmp.giveDescriptor(names[index] ?? '', fd);
    }
    await qmp.execute('netdev_add', { type: 'tap', id: device.id, fds: names.join(':') });
    const place = this.take(device.id);
    try {
      await qmp.execute('device_add', {
        id: `virtio-${device.id}`, driver: 'virtio-net-pci', netdev: device.id, mac: device.mac, romfile: '',
        bus: bridgeId(place.bridge), addr: hexSlot(place.slot), mq: queues > 1, vectors: 2 * queues + 2,
      });
    } catch (reason) {
      this.release(device.id);
      await qmp.execute('netdev_del', { id: device.id }).catch(() => undefined);
      throw reason;
    }
    return this.pciPath(place);
  }

  async removeNet(id: string): Promise<void> {
    await this.unplug(`virtio-${id}`);
    this.release(id);
    await this.qmp().execute('netdev_del', { id });
  }

  async addShare(folder: SharedFolder): Promise<void> {
    await this.serveShare(folder);
    const qmp = this.qmp();
    const path = fileIn(this.spec.directory, 'virtioFs');
    await qmp.execute('chardev-add', { id: SHARE_CHARDEV, backend: { type: 'socket', data: { addr: { type: 'unix', data: { path } }, server: false } } });
    const place = this.take(SHARE_CHARDEV);
    const { virtioFsQueueSize } = this.spec.config;
    await qmp.execute('device_add', {
      id: `virtio-${SHARE_CHARDEV}`, driver: 'vhost-user-fs-pci', chardev: SHARE_CHARDEV, tag: folder.tag,
      bus: bridgeId(place.bridge), addr: hexSlot(place.slot), ...(virtioFsQueueSize > 0 ? { 'queue-size': virtioFsQueueSize } : {}),
    });
  }

  private async addVirtioBlk(device: BlockDevice): Promise<GuestBlockAddress> {
    const place = this.take(device.id);
    try {
      await this.qmp().execute('device_add', {
        id: `virtio-${device.id}`, driver: 'virtio-blk-pci', drive: device.id, 'share-rw': true, 'num-queues': this.spec.vcpus, romfile: '',
        bus: bridgeId(place.bridge), addr: hexSlot(place.slot), ...this.sectorSizes(), ...this.nextIothread(),
      });
    } catch (reason) {
      this.release(device.id);
      throw reason;
    }
    return { kind: 'pci', path: this.pciPath(place) };
  }

  private async addScsi(device: BlockDevice): Promise<GuestBlockAddress> {
    const used = new Set(this.scsi.values());
    let index = 0;
    while (used.has(index)) {
      index++;
    }
    const [target, lun] = [Math.floor(index / LUNS_PER_TARGET), index % LUNS_PER_TARGET];
    this.scsi.set(device.id, index);
    try {
      await this.qmp().execute('device_add', {
        id: `virtio-${device.id}`, driver: 'scsi-hd', drive: device.id, bus: 'scsi0.0', 'scsi-id': target, lun, 'share-rw': true, ...this.sectorSizes(),
      });
    } catch (reason) {
      this.scsi.delete(device.id);
      throw reason;
    }
    return { kind: 'scsi', target, lun };
  }

  private sectorSizes(): Readonly<Record<string, number>> {
    const { blockDeviceLogicalSectorSize: logical, blockDevicePhysicalSectorSize: physical } = this.spec.config;
    return { ...(logical > 0 ? { logical_block_size: logical } : {}), ...(physical > 0 ? { physical_block_size: physical } : {}) };
  }

  /** The independent I/O threads in turn. */
  private nextIothread(): Readonly<Record<string, string>> {
    const { indepIothreads } = this.spec.config;
    return indepIothreads === 0 ? {} : { iothread: independentIothread(this.iothreadsUsed++ % indepIothreads) };
  }

  /**
   * Asks the guest to let go and waits until it has: the event with the device's own id (virtio devices send one for
   * their backend before). A guest that ignores it costs this call only.
   */
  private async unplug(id: string): Promise<void> {
    const qmp = this.qmp();
    const deleted = qmp.expect('DEVICE_DELETED', ({ device }) => device === id, {
      timeoutMs: UNPLUG_TIMEOUT_MS,
      onTimeout: () => new KataError('DeadlineExceeded', `remove device "${id}": the guest did not let go of it within ${String(UNPLUG_TIMEOUT_MS / 1000)} s`),
    });
    deleted.catch(() => undefined);
    await qmp.execute('device_del', { id });
    await deleted;
  }

  private take(id: string): Place {
    const used = new Set([...this.places.values()].map(({ bridge, slot }) => `${String(bridge)}/${String(slot)}`));
    for (let bridge = 0; bridge < this.spec.config.defaultBridges; bridge++) {
      for (let slot = FIRST_BRIDGE_SLOT; slot <= LAST_BRIDGE_SLOT; slot++) {
        if (!used.has(`${String(bridge)}/${String(slot)}`)) {
          const place = { bridge, slot };
          this.places.set(id, place);
          return place;
        }
      }
    }
    throw new KataError('ResourceExhausted', `add device "${id}": no free slot on ${String(this.spec.config.defaultBridges)} PCI bridge(s)`, {
      hint: 'raise default_bridges in [hypervisor.qemu]',
    });
  }

  private release(id: string): void {
    this.places.delete(id);
    this.scsi.delete(id);
  }

  private pciPath({ bridge, slot }: Place): string {
    return `${hexSlot(SLOT.bridge + bridge)}/${hexSlot(slot)}`;
  }
}
