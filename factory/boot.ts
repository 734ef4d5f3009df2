/** Boots a VM for the factory until its agent answers, then lets go of the agent. */
import { KataError } from '../base/errors';
import type { UndoStack } from '../base/undo';
import type { PauseControl, Vm, VmSpec } from '../virtcontainers/hypervisor/types';
import { bootTimeoutMs, dialTimeoutMs } from '../virtcontainers/vm/time-outs';
import type { FactoryDeps } from './types';
import { warmUp } from './warm-up';

/**
 * A running VM whose agent has answered once and has no connection. The calls that every clone makes are made here, so
 * that the agent has their code loaded and compiled. The VM is on `undo`.
 */
export async function bootBase(undo: UndoStack, spec: VmSpec, deps: FactoryDeps, signal: AbortSignal): Promise<Vm & { readonly pause: PauseControl }> {
  const driver = await deps.driverFor(spec.config.type);
  const vm = driver.createVm(spec);
  undo.push(`virtual machine "${spec.id}"`, () => vm.stop());
  await vm.start({ timeoutMs: bootTimeoutMs(vm, spec.config.bootTimeout), signal, onLaunched: () => undefined });
  const agent = await deps.connectAgent(vm.agentUrl, { sandboxId: spec.id, timeoutMs: dialTimeoutMs(vm), signal });
  undo.push(`the connection to the agent of "${spec.id}"`, () => {
    agent.close();
  });
  await agent.check();
  await warmUp(agent, deps.now(), spec.logger, signal);
  agent.close();
  if (!canPause(vm)) {
    throw new KataError('Unimplemented', `pause virtual machine "${spec.id}": ${spec.config.type} cannot`);
  }
  return vm;
}

function canPause(vm: Vm): vm is Vm & { readonly pause: PauseControl } {
  return vm.pause !== undefined;
}
