/** `cache.CacheService` as upstream has it on the wire: names, messages, and our JSON inside of them. */
import { Empty } from '../../gen/google/protobuf/empty';
import { CacheServiceDefinition, GrpcStatus, GrpcVM, GrpcVMConfig } from '../../gen/cache/cache';
import { KataError } from '../../base/errors';
import type { VmSource } from '../../virtcontainers/sandbox/types';
import type { VmState } from '../../virtcontainers/hypervisor/types';
import { canonicalJson, fixedPart } from '../compare';
import { templateKey } from '../template/key';
import type { BaseConfig, BaseVm, StockedVm } from '../types';

export { Empty, GrpcStatus, GrpcVM, GrpcVMConfig };

interface Codec<T> {
  encode(message: T): { finish(): Uint8Array };
  decode(bytes: Uint8Array): T;
}

export interface Rpc<Req, Res> {
  readonly path: string;
  readonly request: Codec<Req>;
  readonly response: Codec<Res>;
}

function rpc<Req, Res>(name: string, request: Codec<Req>, response: Codec<Res>): Rpc<Req, Res> {
  return { path: `/${CacheServiceDefinition.fullName}/${name}`, request, response };
}

export const RPC = {
  Config: rpc('Config', Empty, GrpcVMConfig),
  GetBaseVM: rpc('GetBaseVM', Empty, GrpcVM),
  Status: rpc('Status', Empty, GrpcStatus),
  Quit: rpc('Quit', Empty, Empty),
} as const;

/** What a client needs to take a VM over, beside the size. */
export interface HandedVm {
  readonly state: VmState;
  /** What it was made from: `template` or `direct`. */
  readonly source: VmSource;
}

/** JSON of `GrpcVM.hypervisor`. Upstream's names (`ID`, `QmpChannelpath`) are kept, `KataTs` is what we read. */
export function encodeVm(vm: BaseVm, pid: number, state: VmState): GrpcVM {
  const handed: HandedVm = { state, source: vm.source };
  const hypervisor = { ID: vm.vm.id, QmpChannelpath: `${state.directory}/qmp.sock`, KataTs: handed };
  return {
    id: vm.vm.id,
    hypervisor: Buffer.from(JSON.stringify(hypervisor)),
    proxyPid: BigInt(pid),
    proxyUrl: state.agentUrl,
    cpu: vm.vcpus,
    memory: vm.memoryMiB,
    cpuDelta: 0,
  };
}

function isText(value: unknown): value is string {
  return typeof value === 'string' && value !== '';
}

/** Reads it back; DataLoss for a server that speaks another dialect. */
export function decodeVm(message: GrpcVM): HandedVm & { readonly vcpus: number; readonly memoryMiB: number } {
  try {
    const { KataTs } = JSON.parse(Buffer.from(message.hypervisor).toString('utf8')) as { KataTs?: Partial<HandedVm> };
    const { state, source } = KataTs ?? {};
    if (state !== undefined && isText(state.directory) && isText(state.id) && isText(state.agentUrl) && Array.isArray(state.processes)) {
      return { state, source: source ?? 'direct', vcpus: message.cpu, memoryMiB: message.memory };
    }
  } catch {
    // Reported below.
  }
  throw new KataError('DataLoss', `take virtual machine "${message.id.slice(0, 80)}" over: the cache server did not say how`, { hint: 'is it a kata-ts cache server?' });
}

/** What client and server must agree on. */
export function configText(base: BaseConfig): string {
  return canonicalJson({ HypervisorType: base.hypervisor.type, HypervisorConfig: fixedPart(base.hypervisor), KernelParams: base.kernelParams });
}

/**
 * Metadata of GetBaseVM: what the client's configuration would make. A server that makes something else hands nothing
 * over. Clients without it are served, as upstream's are: those compare what `Config` answers themselves.
 */
export const CONFIG_KEY = 'kata-ts-config';

/** Equal for configurations whose VMs differ in nothing but size, which can be mended. */
export function configKey(base: BaseConfig): string {
  return templateKey({ ...base, vcpus: 0, memoryMiB: 0 });
}

export function encodeConfig(base: BaseConfig): GrpcVMConfig {
  return { data: Buffer.from(configText(base)), agentConfig: Buffer.from(JSON.stringify({ KernelParams: base.kernelParams })) };
}

export function encodeStatus(pid: number, stock: readonly StockedVm[]): GrpcStatus {
  return { pid: BigInt(pid), vmstatus: stock.map((vm) => ({ pid: BigInt(vm.pid), cpu: vm.vcpus, memory: vm.memoryMiB })) };
}
