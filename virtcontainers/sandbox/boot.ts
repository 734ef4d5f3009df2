/** Gets a running VM with a connected agent: from the factory, else by booting one. */
import type { AgentClient } from '../../agent-client/types';
import { KataError } from '../../base/errors';
import type { UndoStack } from '../../base/undo';
import type { Vm, VmSpec, VmState } from '../hypervisor/types';
import { bootTimeoutMs, dialTimeoutMs } from '../vm/time-outs';
import type { SandboxDeps } from './deps';
import { failureReport } from './failure-report';
import type { GuestLink } from './link';
import type { Phases } from './phases';
import type { FactoryFallback, FactoryVm, SandboxRequest, VmSource } from './types';

export interface BootContext {
  readonly request: SandboxRequest;
  readonly deps: SandboxDeps;
  readonly spec: VmSpec;
  readonly link: GuestLink;
  readonly phases: Phases;
  /** Told as soon as processes exist, before they are used. */
  readonly onLaunched: (state: VmState) => void;
  /** Told of the VM as soon as there is one, so that a failure report has its facts. */
  readonly onVm: (vm: Vm) => void;
}

export interface BootedVm {
  readonly vm: Vm;
  readonly agent: AgentClient;
  readonly source: VmSource;
  readonly share?: FactoryVm['share'];
  /** Why the factory gave none. */
  readonly fallback?: string;
}

async function fromFactory(undo: UndoStack, context: BootContext): Promise<FactoryVm | FactoryFallback | undefined> {
  const { request, spec, link, phases } = context;
  const { factory } = request;
  if (factory === undefined) {
    return undefined;
  }
  const found = await phases.time('factory', () => factory.getVm(spec, link.signal, (name, ms, ok) => { request.observer.onAgentCall?.(name, ms, ok); }));
  if (found.vm === undefined) {
    return found;
  }
  undo.push('the virtual machine', () => found.vm.stop());
  context.onVm(found.vm);
  context.onLaunched(found.vm.state());
  link.watchVm(found.vm);
  link.watchAgent(found.agent);
  return found;
}

async function launch(undo: UndoStack, context: BootContext): Promise<Vm> {
  const { request, deps, spec, link, phases } = context;
  const driver = await deps.driverFor(request.config.hypervisor.type);
  const vm = driver.createVm(spec);
  undo.push('the virtual machine', () => vm.stop());
  context.onVm(vm);
  let end = phases.begin('vm-launch');
  try {
    await vm.start({
      timeoutMs: bootTimeoutMs(vm, request.config.hypervisor.bootTimeout),
      signal: link.signal,
      onLaunched: (state) => {
        end();
        end = phases.begin('vm-boot');
        context.onLaunched(state);
      },
    });
  } finally {
    end();
  }
  link.watchVm(vm);
  return vm;
}

async function connect(undo: UndoStack, context: BootContext, vm: Vm): Promise<AgentClient> {
  const { request, deps, link, phases } = context;
  const timeoutMs = dialTimeoutMs(vm, request.config.agent.dialTimeout);
  const { observer } = request;
  const began = performance.now();
  try {
    const agent = await phases.time('agent-connect', () =>
      deps.connectAgent(vm.agentUrl, {
        sandboxId: request.id,
        timeoutMs,
        signal: link.signal,
        onCall: (name, ms, ok) => {
          observer.onAgentCall?.(name, ms, ok);
        },
      }),
    );
    undo.push('the connection to the agent', () => {
      agent.close();
    });
    link.watchAgent(agent);
    return agent;
  } catch (reason) {
    if (!link.alive) {
      throw link.reason();
    }
    const waited = { address: vm.agentUrl, ms: performance.now() - began, configKey: 'dial_timeout' };
    throw KataError.from(reason, failureReport({ sandboxId: request.id, doing: 'connect to the agent', vm: vm.facts(), waited, cause: reason }));
  }
}

/** What it acquires is on `undo`. */
export async function bootVm(undo: UndoStack, context: BootContext): Promise<BootedVm> {
  const offered = await fromFactory(undo, context);
  if (offered?.vm !== undefined) {
    return offered;
  }
  const vm = await launch(undo, context);
  const agent = await connect(undo, context, vm);
  return { vm, agent, source: 'direct', ...(offered === undefined ? {} : { fallback: offered.fallback }) };
}
