/** A sandbox that exists: its containers, its watch over the guest, its end. Made by `createSandbox`. */
import type { AgentClient } from '../../agent-client/types';
import { defer, withTimeout } from '../../base/deadline';
import { describeError, KataError } from '../../base/errors';
import { checkId } from '../../base/ids';
import type { Logger } from '../../base/log';
import { StateMachine } from '../../base/state-machine';
import { UndoStack } from '../../base/undo';
import type { RuntimeConfig } from '../config/types';
import { GuestContainer } from '../container/container';
import { createInGuest, removeFromGuest } from '../container/create';
import { BlockDevices } from '../device/block';
import type { ContainerHost } from '../container/host';
import { prepareContainer, type PrepareContext, type PreparedContainer } from '../container/prepare';
import type { Container, ContainerRequest } from '../container/types';
import { runHooks } from '../network/hooks';
import type { Vm } from '../hypervisor/types';
import { failureReport } from './failure-report';
import { growVm } from './grow';
import type { GuestLink } from './link';
import { Monitor } from './monitor';
import { OomWatch } from './oom';
import type { Phases } from './phases';
import { SANDBOX_TRANSITIONS, type SandboxTrigger } from './state';
import type { Phase, Sandbox, SandboxEnd, SandboxObserver, SandboxState, VmSource } from './types';

/** All that a sandbox is made of; the undo stack becomes its own. */
export interface SandboxParts {
  readonly id: string;
  readonly config: RuntimeConfig;
  readonly logger: Logger;
  readonly observer: SandboxObserver;
  readonly vm: Vm;
  readonly agent: AgentClient;
  readonly vmSource: VmSource;
  readonly vmFallback?: string | undefined;
  readonly link: GuestLink;
  readonly phases: Phases;
  readonly undo: UndoStack;
  readonly prepare: PrepareContext;
  readonly seccompSupported: boolean;
  /** Bytes of the guest's memory hot-plug block. */
  readonly memoryBlockBytes: bigint;
  /** Saves the state; throws on a full disk. */
  readonly save: (sandbox: GuestSandbox) => void;
}

/** How long the guest may take to say good-bye. */
const GUEST_STOP_MS = 5_000;

export class GuestSandbox implements Sandbox {
  readonly id: string;
  readonly config: RuntimeConfig;
  readonly agent: AgentClient;
  readonly vmSource: VmSource;
  readonly vmFallback: string | undefined;
  private readonly machine: StateMachine<SandboxState, SandboxTrigger>;
  private readonly all = new Map<string, GuestContainer>();
  private readonly creating = new Map<string, Promise<Container>>();
  private readonly end = defer<SandboxEnd>();
  private readonly oom: OomWatch;
  private readonly monitor: Monitor;
  private readonly host: ContainerHost;
  private guestDone = false;
  private stopping: Promise<void> | undefined;
  private growing: Promise<void> = Promise.resolve();

  constructor(private readonly parts: SandboxParts) {
    const { id, vm, agent, logger, link } = parts;
    this.id = id;
    this.config = parts.config;
    this.agent = agent;
    this.vmSource = parts.vmSource;
    this.vmFallback = parts.vmFallback;
    this.machine = new StateMachine<SandboxState, SandboxTrigger>(`sandbox "${id}"`, SANDBOX_TRANSITIONS, 'creating');
    this.oom = new OomWatch(agent, logger, (containerId) => {
      parts.observer.onOom?.(containerId);
    });
    this.monitor = new Monitor(vm, agent, (reason) => {
      link.lose(reason);
    });
    this.host = {
      sandboxId: id,
      config: parts.config,
      agent,
      vm,
      blocks: new BlockDevices(vm),
      seccompSupported: parts.seccompSupported,
      logger,
      guestAlive: () => link.alive && !this.guestDone,
      oomSettled: (containerId) => this.oom.settled(containerId),
      resized: () => this.resize(),
      changed: () => {
        this.changed();
      },
    };
    link.signal.addEventListener('abort', () => {
      this.onLost();
    });
  }

  get state(): SandboxState {
    return this.machine.state;
  }

  get pid(): number {
    return this.parts.vm.pid;
  }

  get phases(): readonly Phase[] {
    return this.parts.phases.all;
  }

  get containers(): ReadonlyMap<string, Container> {
    return this.all;
  }

  /** For persistence. */
  get guestContainers(): ReadonlyMap<string, GuestContainer> {
    return this.all;
  }

  get ended(): Promise<SandboxEnd> {
    return this.end.promise;
  }

  /** Takes in the first container, then watches over the guest. */
  async open(request: ContainerRequest, undo: UndoStack, prepared: PreparedContainer): Promise<void> {
    await this.admit(request, undo, prepared);
    this.machine.move('created');
    this.parts.save(this);
    this.parts.link.detach();
    this.monitor.start();
    void this.oom.run();
  }

  async createContainer(request: ContainerRequest): Promise<Container> {
    checkId(request.id, 'container');
    if (this.all.has(request.id) || this.creating.has(request.id)) {
      throw new KataError('AlreadyExists', `create container "${request.id}": sandbox "${this.id}" has it already`);
    }
    if (this.state !== 'ready' && this.state !== 'running') {
      throw new KataError('FailedPrecondition', `create container "${request.id}": sandbox "${this.id}" is ${this.state}`);
    }
    const work = this.createOne(request);
    this.creating.set(request.id, work);
    try {
      return await work;
    } finally {
      this.creating.delete(request.id);
    }
  }

  async resizeBlock(path: string, sizeBytes: bigint): Promise<void> {
    const { hotplug } = this.parts.vm;
    if (hotplug?.resizeBlock === undefined) {
      throw new KataError('Unimplemented', `resize ${path}: hypervisor ${this.config.hypervisor.type} cannot resize block devices`);
    }
    await hotplug.resizeBlock(path, sizeBytes);
  }

  async deleteContainer(id: string): Promise<void> {
    const container = this.all.get(id);
    if (container === undefined) {
      throw new KataError('NotFound', `delete container "${id}": container does not exist`);
    }
    if (container.state === 'running' || container.state === 'paused' || container.init.state === 'starting') {
      throw new KataError('FailedPrecondition', `delete container "${id}": it is ${container.state}`);
    }
    this.all.delete(id);
    await container.release();
    await container.runLateHooks('poststop');
    this.changed();
  }

  stop(): Promise<void> {
    this.stopping ??= this.tearDown();
    return this.stopping;
  }

  /** A container began to run. */
  markRunning(): void {
    this.machine.tryMove('run');
  }

  private async createOne(request: ContainerRequest): Promise<Container> {
    const undo = new UndoStack();
    try {
      const container = await this.admit(request, undo, prepareContainer(undo, this.parts.prepare, request));
      await this.runCreateHooks(container);
      this.parts.save(this);
      return container;
    } catch (reason) {
      this.all.delete(request.id);
      await undo.unwind(this.logUndo);
      throw reason;
    }
  }

  /** Creates a container in the guest. `undo` becomes its own; on failure the caller unwinds it. */
  private async admit(request: ContainerRequest, undo: UndoStack, prepared: PreparedContainer): Promise<GuestContainer> {
    await this.resize(request);
    await createInGuest(undo, this.host, request, prepared);
    if (!this.parts.link.alive) {
      throw this.parts.link.reason();
    }
    const container = new GuestContainer(this.host, request, undo, prepared.rootfs.kind === 'folder' ? prepared.rootfs.mounted : '');
    this.all.set(request.id, container);
    return container;
  }

  private async runCreateHooks(container: GuestContainer): Promise<void> {
    const { hooks, annotations } = container.spec;
    const state = { id: container.id, status: 'creating', pid: this.pid, bundle: container.bundle, annotations: annotations ?? {} } as const;
    await runHooks('prestart', hooks?.prestart, state, this.pid);
    await runHooks('createRuntime', hooks?.createRuntime, state, this.pid);
  }

  /** Grows the VM to what its containers and a coming one want; one at a time. */
  private async resize(coming?: ContainerRequest): Promise<void> {
    const demands = [...this.all.values()].filter(({ state }) => state !== 'stopped').map(({ resources }) => ({ resources }));
    if (coming !== undefined) {
      demands.push({ resources: coming.spec.linux?.resources ?? {} });
    }
    const { vm, config, logger, memoryBlockBytes } = this.parts;
    const turn = this.growing.then(() => growVm({ vm, agent: this.agent, config, logger, memoryBlockBytes }, demands));
    this.growing = turn.catch(() => undefined);
    await turn;
  }

  /** The guest is lost: say why, end every process, and take the VM down: nothing can be had from it any more. */
  private onLost(): void {
    if (!this.machine.tryMove('fail')) {
      return;
    }
    const { vm, link, logger } = this.parts;
    const report = failureReport({ sandboxId: this.id, doing: 'run', vm: vm.facts(), cause: link.reason() });
    logger.error('sandbox failed', { sandbox: this.id, report });
    this.monitor.stop();
    this.oom.stop();
    for (const container of this.all.values()) {
      container.lose();
    }
    this.changed();
    this.end.resolve({ kind: 'failed', report });
    vm.stop().catch((reason: unknown) => {
      logger.warn('stopping the virtual machine failed', { sandbox: this.id, error: describeError(reason) });
    });
  }

  private async tearDown(): Promise<void> {
    const { link, logger, undo } = this.parts;
    await link.settled();
    this.machine.tryMove('stop');
    link.expectEnd();
    this.monitor.stop();
    this.oom.stop();
    if (link.alive) {
      await withTimeout(this.stopGuest(), GUEST_STOP_MS, () => new KataError('DeadlineExceeded', `stop sandbox "${this.id}": the guest took too long`)).catch((reason: unknown) => {
        logger.warn('the guest did not stop in order', { sandbox: this.id, error: describeError(reason) });
        this.agent.markDead(KataError.from(reason, 'the sandbox is being stopped'));
      });
    }
    for (const container of this.all.values()) {
      container.lose();
    }
    await this.parts.vm.stop();
    // The VM is gone with all that was in it: only the host's part is left to free.
    this.guestDone = true;
    this.agent.markDead(new KataError('Unavailable', `sandbox "${this.id}" was stopped`));
    // Creations that were under way fail now that the agent is dead; they give back what they hold themselves.
    await Promise.allSettled(this.creating.values());
    for (const container of this.all.values()) {
      await container.release();
      await container.runLateHooks('poststop');
    }
    this.all.clear();
    await undo.unwind(this.logUndo);
    this.machine.tryMove('stopped');
    this.end.resolve({ kind: 'stopped', report: '' });
  }

  private async stopGuest(): Promise<void> {
    const stopOne = async (container: GuestContainer): Promise<void> => {
      await container.stop();
      await removeFromGuest(this.host, container.id);
    };
    await Promise.all([...this.all.values()].map(stopOne));
    await this.agent.destroySandbox();
    this.agent.close();
  }

  private changed(): void {
    if ([...this.all.values()].some(({ state }) => state === 'running')) {
      this.markRunning();
    }
    if (this.state === 'stopping' || this.state === 'stopped') {
      return;
    }
    try {
      this.parts.save(this);
    } catch (reason) {
      this.parts.logger.warn('state not saved', { sandbox: this.id, error: describeError(reason) });
    }
  }

  private readonly logUndo = (error: KataError): void => {
    this.parts.logger.warn('not undone wholly', { sandbox: this.id, error: describeError(error) });
  };
}
