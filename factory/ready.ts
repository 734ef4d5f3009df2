/** From a paused base VM to one that a sandbox can have: running, a stranger to its siblings, and large enough. */
import type { AgentClient, ConnectOptions } from '../agent-client/types';
import { abortError } from '../base/deadline';
import { describeError, isCode, KataError } from '../base/errors';
import type { UndoStack } from '../base/undo';
import type { Vm, VmSpec } from '../virtcontainers/hypervisor/types';
import { dialTimeoutMs } from '../virtcontainers/vm/time-outs';
import type { BaseVm, FactoryDeps } from './types';

/** Upstream's amount. */
const SEED_BYTES = 512;
const MIB = 1048576n;
/** So late may the guest's clock be; a second is promised. */
const CLOCK_LATE_MS = 500;
const MAX_CLOCK_TRIES = 3;

export type OnAgentCall = NonNullable<ConnectOptions['onCall']>;

/** An agent that is connected while its VM is resumed; whichever fails ends the other. */
export async function resumeAndConnect(vm: Vm, deps: FactoryDeps, options: ConnectOptions): Promise<AgentClient> {
  const { pause } = vm;
  if (pause === undefined) {
    throw new KataError('Unimplemented', `resume virtual machine "${vm.id}": its hypervisor cannot`);
  }
  const controller = new AbortController();
  const onAbort = (): void => {
    controller.abort(options.signal?.reason);
  };
  options.signal?.addEventListener('abort', onAbort, { once: true });
  void vm.exited.then(() => {
    controller.abort(new KataError('Unavailable', `resume virtual machine "${vm.id}": it ended`));
  });
  try {
    const connecting = deps.connectAgent(vm.agentUrl, { ...options, signal: controller.signal });
    connecting.catch(() => undefined);
    try {
      await pause.resume();
    } catch (reason) {
      controller.abort(KataError.from(reason, `resume virtual machine "${vm.id}": ${describeError(reason)}`));
      void connecting.then((agent) => { agent.close(); }, () => undefined);
      throw reason;
    }
    return await connecting;
  } finally {
    options.signal?.removeEventListener('abort', onAbort);
  }
}

/**
 * Sets the guest's clock. It is late by the time that the call is under way, which on a busy host is long for a clone
 * that has never run: then once more. An agent without the call keeps its own clock.
 */
async function setClock(agent: AgentClient, deps: FactoryDeps): Promise<void> {
  for (let tries = 0; tries < MAX_CLOCK_TRIES; tries++) {
    const began = deps.now();
    const now = BigInt(Math.round(began * 1000));
    try {
      await agent.setGuestDateTime(now / 1_000_000n, now % 1_000_000n);
    } catch (reason) {
      if (isCode(reason, 'Unimplemented')) {
        return;
      }
      throw reason;
    }
    if (deps.now() - began <= CLOCK_LATE_MS) {
      return;
    }
  }
}

/** New random numbers and the host's time, in one flight. */
async function makeStranger(agent: AgentClient, deps: FactoryDeps): Promise<void> {
  const { randomBytes } = await import('node:crypto');
  await Promise.all([agent.reseedRandom(randomBytes(SEED_BYTES)), setClock(agent, deps)]);
}

/** A share of virtio-fs cannot be saved or handed over: it is attached when the VM runs. The guest waits for it. */
async function attachShare({ vm }: BaseVm, { share, id }: VmSpec): Promise<void> {
  if (share?.kind !== 'virtio-fs') {
    return;
  }
  if (vm.hotplug?.addShare === undefined) {
    throw new KataError('Unimplemented', `attach the virtio-fs share of "${id}": its hypervisor cannot`, { hint: 'use shared_fs = "virtio-9p" or "none"' });
  }
  await vm.hotplug.addShare(share);
}

/** Adds the vCPUs and the memory that the base lacks. Never shrinks: a base that is larger than wanted stays so. */
async function grow(base: BaseVm, spec: VmSpec, agent: AgentClient): Promise<void> {
  const cpus = spec.vcpus - base.vcpus;
  const memoryMiB = spec.memoryMiB - base.memoryMiB;
  if (cpus <= 0 && memoryMiB <= 0) {
    return;
  }
  const { resize } = base.vm;
  if (resize === undefined) {
    throw new KataError('Unimplemented', `grow virtual machine "${spec.id}" to ${String(spec.vcpus)} vCPUs and ${String(spec.memoryMiB)} MiB: its hypervisor cannot`);
  }
  const { memoryBlockSizeBytes } = await agent.getGuestDetails();
  if (cpus > 0) {
    await resize.setVcpus(spec.vcpus);
  }
  if (memoryMiB > 0) {
    await resize.setMemory(spec.memoryMiB, Number(memoryBlockSizeBytes / MIB) || 128);
  }
  await agent.onlineCpuMem({ wait: false, cpus: Math.max(cpus, 0), cpuOnly: false });
}

/**
 * Resumes, reseeds, sets the clock and grows. The VM and its connection are on `undo`: the caller unwinds on failure.
 */
export async function makeReady(undo: UndoStack, base: BaseVm, spec: VmSpec, deps: FactoryDeps, signal: AbortSignal, onCall?: OnAgentCall): Promise<AgentClient> {
  if (signal.aborted) {
    throw abortError(signal, `prepare virtual machine "${spec.id}"`);
  }
  const agent = await resumeAndConnect(base.vm, deps, {
    sandboxId: spec.id,
    timeoutMs: dialTimeoutMs(base.vm),
    signal,
    ...(onCall === undefined ? {} : { onCall }),
  });
  undo.push(`the connection to the agent of "${spec.id}"`, () => {
    agent.close();
  });
  await Promise.all([makeStranger(agent, deps), attachShare(base, spec)]);
  await grow(base, spec, agent);
  return agent;
}
