/** More (and, where the guest can, less) CPU and memory for a running VM. */
import { KataError } from '../../../base/errors';
import type { ResizeControl, VmSpec } from '../types';
import { bridgeId, hexSlot, LAST_BRIDGE_SLOT } from './layout';
import type { QmpClient } from './qmp/client';
import { asCount, asObject, asObjects, asString, type Shape } from './qmp/shape';

const MIB = 1024 * 1024;
/** virtio-mem's own block. */
const VIRTIO_MEM_BLOCK_MIB = 4;
const MEMORY_TIMEOUT_MS = 15_000;
const UNPLUG_TIMEOUT_MS = 10_000;

export class QemuResize implements ResizeControl {
  private readonly addedCpus: string[] = [];
  private addedMiB = 0;
  private hasVirtioMem = false;
  /** One change after the other: two at once would count each other's. */
  private chain: Promise<unknown> = Promise.resolve();

  constructor(
    private readonly spec: VmSpec,
    private readonly accelerator: () => 'kvm' | 'tcg',
    private readonly qmp: () => QmpClient,
  ) {}

  setVcpus(count: number): Promise<number> {
    return this.inTurn(async () => {
      const wanted = Math.min(Math.max(count, 1), Math.max(this.spec.config.defaultMaxvcpus, this.spec.vcpus));
      const present = this.spec.vcpus + this.addedCpus.length;
      if (wanted > present) {
        await this.addCpus(wanted - present);
      } else if (wanted < present && this.accelerator() === 'kvm') {
        await this.removeCpus(present - wanted);
      }
      // Under TCG a removed CPU makes QEMU 7.2 abort at the next memory hot-plug: it stays, the guest takes it off line.
      return this.spec.vcpus + this.addedCpus.length;
    });
  }

  setMemory(memoryMiB: number, blockMiB: number): Promise<number> {
    return this.inTurn(async () => {
      if (!Number.isSafeInteger(blockMiB) || blockMiB <= 0) {
        throw new KataError('InvalidArgument', `resize memory: block of ${String(blockMiB)} MiB`);
      }
      const max = Math.max(this.spec.config.defaultMaxmemory, this.spec.memoryMiB);
      const wanted = Math.min(Math.max(memoryMiB, this.spec.memoryMiB), max);
      if (this.spec.config.enableVirtioMem) {
        await this.setVirtioMem(wanted - this.spec.memoryMiB, max - this.spec.memoryMiB);
      } else {
        await this.growDimm(wanted - this.spec.memoryMiB - this.addedMiB, blockMiB, max);
      }
      return this.spec.memoryMiB + this.addedMiB;
    });
  }

  private inTurn<T>(work: () => Promise<T>): Promise<T> {
    const result = this.chain.then(work);
    this.chain = result.catch(() => undefined);
    return result;
  }

  private async addCpus(amount: number): Promise<void> {
    const free = asObjects(await this.qmp().execute('query-hotpluggable-cpus'), 'query-hotpluggable-cpus')
      .filter((cpu) => cpu['qom-path'] === undefined)
      .reverse();
    // QEMU lists the highest socket first; the lowest is taken first.
    let left = amount;
    let lastError: unknown;
    for (const cpu of free) {
      if (left === 0) {
        break;
      }
      const id = `cpu-${String(this.addedCpus.length)}`;
      try {
        const props = asObject(cpu['props'], 'hot-pluggable cpu');
        await this.qmp().execute('device_add', { driver: asString(cpu['type'], 'cpu type'), id, ...numbersOf(props) });
        this.addedCpus.push(id);
        left--;
      } catch (reason) {
        lastError = reason;
      }
    }
    if (left === amount) {
      throw KataError.from(lastError ?? new KataError('ResourceExhausted', 'no free socket'), `add ${String(amount)} vCPU(s): none could be added`);
    }
  }

  private async removeCpus(amount: number): Promise<void> {
    for (let i = 0; i < amount; i++) {
      const id = this.addedCpus.at(-1);
      if (id === undefined) {
        return;
      }
      const gone = this.qmp().expect('DEVICE_DELETED', ({ device }) => device === id, {
        timeoutMs: UNPLUG_TIMEOUT_MS,
        onTimeout: () => new KataError('DeadlineExceeded', `remove vCPU "${id}": the guest did not let go of it`),
      });
      gone.catch(() => undefined);
      await this.qmp().execute('device_del', { id });
      await gone;
      this.addedCpus.pop();
    }
  }

  /** Whole guest blocks, rounded up, but never above the maximum (upstream may exceed it). */
  private async growDimm(deltaMiB: number, blockMiB: number, maxMiB: number): Promise<void> {
    if (deltaMiB <= 0) {
      return;
    }
    const room = maxMiB - this.spec.memoryMiB - this.addedMiB;
    const sizeMiB = Math.min(Math.ceil(deltaMiB / blockMiB), Math.floor(room / blockMiB)) * blockMiB;
    if (sizeMiB <= 0) {
      return;
    }
    const slot = await this.freeSlot();
    const id = `mem${String(slot)}`;
    await this.addBackend(id, sizeMiB);
    try {
      await this.qmp().execute('device_add', { driver: 'pc-dimm', id: `dimm${id}`, memdev: id }, MEMORY_TIMEOUT_MS);
    } catch (reason) {
      await this.qmp().execute('object-del', { id }).catch(() => undefined);
      throw reason;
    }
    this.addedMiB += sizeMiB;
  }

  private async freeSlot(): Promise<number> {
    const devices = asObjects(await this.qmp().execute('query-memory-devices'), 'query-memory-devices');
    const used = new Set(devices.map((device) => asObject(device['data'], 'memory device')['slot']));
    for (let slot = 0; slot < this.spec.config.memorySlots; slot++) {
      if (!used.has(slot)) {
        return slot;
      }
    }
    throw new KataError('ResourceExhausted', `add memory: all ${String(this.spec.config.memorySlots)} slots are in use`, { hint: 'raise memory_slots, or set enable_virtio_mem' });
  }

  private async setVirtioMem(wantedMiB: number, maxMiB: number): Promise<void> {
    const ceiling = Math.floor(maxMiB / VIRTIO_MEM_BLOCK_MIB) * VIRTIO_MEM_BLOCK_MIB;
    // Capped, so that a request above the maximum ends here and is never asked for again and again.
    const sizeMiB = Math.min(Math.ceil(wantedMiB / VIRTIO_MEM_BLOCK_MIB) * VIRTIO_MEM_BLOCK_MIB, ceiling);
    if (!this.hasVirtioMem) {
      if (sizeMiB === 0) {
        return;
      }
      await this.addBackend('virtiomem', ceiling, { reserve: false });
      await this.qmp().execute('device_add', {
        driver: 'virtio-mem-pci', id: 'virtiomem0', memdev: 'virtiomem', bus: bridgeId(0), addr: hexSlot(LAST_BRIDGE_SLOT + 1), 'requested-size': 0,
      });
      this.hasVirtioMem = true;
    }
    await this.qmp().execute('qom-set', { path: 'virtiomem0', property: 'requested-size', value: sizeMiB * MIB }, MEMORY_TIMEOUT_MS);
    this.addedMiB = sizeMiB;
  }

  private async addBackend(id: string, sizeMiB: number, more: Shape = {}): Promise<void> {
    const { config, share } = this.spec;
    const size = sizeMiB * MIB;
    const shared = share?.kind === 'virtio-fs' || config.enableVhostUserStore;
    const backend = config.enableHugepages
      ? { 'qom-type': 'memory-backend-file', 'mem-path': '/dev/hugepages', share: true }
      : config.fileMemBackend !== ''
        ? { 'qom-type': 'memory-backend-file', 'mem-path': config.fileMemBackend, share: true }
        : shared
          ? { 'qom-type': 'memory-backend-memfd', share: true }
          : { 'qom-type': 'memory-backend-ram' };
    await this.qmp().execute('object-add', { ...backend, id, size, ...more }, MEMORY_TIMEOUT_MS);
  }
}

function numbersOf(props: Shape): Shape {
  return Object.fromEntries(Object.entries(props).map(([name, value]) => [name, asCount(value, `cpu ${name}`)]));
}
