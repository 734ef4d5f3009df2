/** Base VMs that are booted and paused: what a cache without a template is filled with. */
import { UndoStack } from '../../base/undo';
import type { VmSpec } from '../../virtcontainers/hypervisor/types';
import { bootBase } from '../boot';
import type { BaseConfig, BaseFactory, BaseVm, FactoryDeps, StockedVm } from '../types';

export class DirectFactory implements BaseFactory {
  readonly kind = 'direct';

  constructor(
    readonly config: BaseConfig,
    private readonly deps: FactoryDeps,
  ) {}

  async getBaseVm(spec: VmSpec, signal: AbortSignal): Promise<BaseVm> {
    return UndoStack.guard(async (undo) => {
      const vm = await bootBase(undo, { ...spec, vcpus: this.config.vcpus, memoryMiB: this.config.memoryMiB, template: undefined }, this.deps, signal);
      await vm.pause.pause();
      return { vm, source: 'direct', vcpus: this.config.vcpus, memoryMiB: this.config.memoryMiB };
    });
  }

  stock(): readonly StockedVm[] {
    return [];
  }

  async close(): Promise<void> {
    return Promise.resolve();
  }
}
