/** Base VMs from the cache server of this host. The VM is ours from the moment that we hold its lifeline. */
import { KataError } from '../../base/errors';
import type { VmSpec } from '../../virtcontainers/hypervisor/types';
import { transferShare } from '../../virtcontainers/hypervisor/vm-folder';
import type { BaseConfig, BaseFactory, BaseVm, FactoryDeps, StockedVm } from '../types';
import { callCache } from './call';
import { configKey, CONFIG_KEY, decodeVm, RPC } from './wire';

/** A server answers from its stock: one that takes longer is not well, and a boot must not wait for it. */
const CALL_TIMEOUT_MS = 3000;

export class GrpcCacheFactory implements BaseFactory {
  readonly kind = 'grpc-cache';

  constructor(
    readonly config: BaseConfig,
    private readonly endpoint: string,
    private readonly deps: FactoryDeps,
  ) {}

  async getBaseVm(spec: VmSpec, signal: AbortSignal): Promise<BaseVm> {
    const handed = decodeVm(await callCache(this.endpoint, RPC.GetBaseVM, {}, { timeoutMs: CALL_TIMEOUT_MS, signal, metadata: { [CONFIG_KEY]: configKey(this.config) } }));
    const { vcpus, memoryMiB, state } = handed;
    const driver = await this.deps.driverFor(spec.config.type);
    if (driver.adoptVm === undefined) {
      throw new KataError('Unimplemented', `take a virtual machine over: ${spec.config.type} cannot`);
    }
    const vm = await driver.adoptVm({ ...spec, id: state.id, directory: state.directory, vcpus, memoryMiB, transferable: true }, state, signal);
    const share = spec.share?.kind === 'virtio-9p' ? { share: { pid: vm.pid, path: transferShare(state.directory) } } : {};
    return { vm, source: 'cache', vcpus, memoryMiB, ...share };
  }

  stock(): readonly StockedVm[] {
    return [];
  }

  async close(): Promise<void> {
    return Promise.resolve();
  }
}
