/** One container of a sandbox, on the host's side. */
import { constrainProcess, constrainResources } from '../../agent-client/constrain';
import type { ContainerStats } from '../../agent-client/types';
import { withTimeout } from '../../base/deadline';
import { describeError, KataError } from '../../base/errors';
import { checkId } from '../../base/ids';
import type { OciProcess, OciResources, OciSpec } from '../../base/oci-spec';
import { StateMachine } from '../../base/state-machine';
import type { UndoStack } from '../../base/undo';
import { runHooks } from '../network/hooks';
import { GuestProcess } from '../process/process';
import type { Process, ProcessExit, ProcessIo } from '../process/types';
import { removeFromGuest } from './create';
import type { ContainerHost } from './host';
import { mergeResources } from './resources';
import { CONTAINER_TRANSITIONS, type ContainerTrigger } from './state';
import type { Container, ContainerRequest, ContainerState } from './types';

const SIGTERM = 15;
const SIGKILL = 9;
/** Execs die with init; their ends should be known before its own, but not at any price. */
const EXECS_SETTLE_MS = 500;
const STOP_TIMEOUT_MS = 3_000;

function consoleSize(process: OciProcess | undefined): { rows: number; columns: number } | undefined {
  const size = process?.consoleSize;
  return size === undefined || size.height === 0 || size.width === 0 ? undefined : { rows: size.height, columns: size.width };
}

/** See `Container`. Made by its sandbox once the guest has it. */
export class GuestContainer implements Container {
  readonly id: string;
  readonly bundle: string;
  readonly spec: OciSpec;
  readonly init: GuestProcess;
  /** Mount point of the root file system that we made; '' if none. */
  readonly rootfsMount: string;
  private readonly machine: StateMachine<ContainerState, ContainerTrigger>;
  private readonly running = new Map<string, GuestProcess>();
  private starting: Promise<void> | undefined;
  private wanted: OciResources;

  /** @param undo what the container holds on host and in guest; it becomes the container's */
  constructor(
    private readonly host: ContainerHost,
    request: ContainerRequest,
    private readonly undo: UndoStack,
    rootfsMount: string,
  ) {
    this.id = request.id;
    this.bundle = request.bundle;
    this.spec = request.spec;
    this.rootfsMount = rootfsMount;
    this.wanted = request.spec.linux?.resources ?? {};
    this.machine = new StateMachine<ContainerState, ContainerTrigger>(`container "${request.id}"`, CONTAINER_TRANSITIONS, 'created');
    this.init = new GuestProcess({
      ref: { containerId: request.id, execId: request.id },
      name: `container "${request.id}"`,
      terminal: request.terminal,
      consoleSize: consoleSize(request.spec.process),
      io: request.io,
      agent: host.agent,
      logger: host.logger,
      launch: () => host.agent.startContainer(request.id),
      beforeExit: (status, killed) => this.beforeInitExit(status, killed),
      onExit: () => {
        this.machine.tryMove('exit');
        host.changed();
      },
    });
  }

  get state(): ContainerState {
    return this.machine.state;
  }

  get execs(): ReadonlyMap<string, Process> {
    return this.running;
  }

  /** The resources that it may use, updates included. */
  get resources(): OciResources {
    return this.wanted;
  }

  async start(): Promise<void> {
    this.machine.require('start');
    if (this.init.state !== 'created') {
      throw new KataError('FailedPrecondition', `start container "${this.id}": it is being started`);
    }
    this.starting = this.startInit();
    await this.starting;
  }

  addExec(execId: string, spec: OciProcess, terminal: boolean, io: ProcessIo): Process {
    checkId(execId, 'exec');
    if (this.running.has(execId) || execId === this.id) {
      throw new KataError('AlreadyExists', `exec "${execId}" of container "${this.id}": the id is in use`);
    }
    if (this.state !== 'running') {
      throw new KataError('FailedPrecondition', `exec "${execId}" of container "${this.id}": the container is ${this.state}`);
    }
    // A fresh id: agents may remember one that was used before. Loaded here because it costs 2 ms that a start need not pay.
    // eslint-disable-next-line @typescript-eslint/no-require-imports
    const { randomUUID } = require('node:crypto') as typeof import('node:crypto');
    const ref = { containerId: this.id, execId: randomUUID() };
    const process = new GuestProcess({
      ref,
      name: `exec "${execId}" of container "${this.id}"`,
      terminal,
      consoleSize: consoleSize(spec),
      io,
      agent: this.host.agent,
      logger: this.host.logger,
      launch: async (size) => {
        if (this.state !== 'running') {
          throw new KataError('FailedPrecondition', `start exec "${execId}": container "${this.id}" is ${this.state}`);
        }
        const consoleSize = size === undefined ? {} : { consoleSize: { height: size.rows, width: size.columns } };
        await this.host.agent.execProcess(ref, { ...constrainProcess(spec, {}), terminal, ...consoleSize });
      },
      beforeExit: (status, killed) => this.beforeExit(status, killed),
    });
    this.running.set(execId, process);
    return process;
  }

  async removeExec(execId: string): Promise<void> {
    const process = this.running.get(execId);
    if (process === undefined) {
      throw new KataError('NotFound', `exec "${execId}" of container "${this.id}" does not exist`);
    }
    this.running.delete(execId);
    if (process.state === 'running' || process.state === 'starting') {
      await process.destroy();
    } else {
      process.end({ status: 255, at: new Date() });
    }
  }

  async kill(signal: number, all: boolean): Promise<void> {
    // A start that is under way decides first whether there is something to signal.
    await this.starting?.catch(() => undefined);
    if (this.state === 'created') {
      await this.killCreated(signal);
    } else if (all) {
      await this.init.signalAll(signal);
    } else {
      await this.init.signal(signal);
    }
  }

  async pause(): Promise<void> {
    this.machine.require('pause');
    await this.host.agent.pauseContainer(this.id);
    this.machine.tryMove('pause');
    this.host.changed();
  }

  async resume(): Promise<void> {
    this.machine.require('resume');
    await this.host.agent.resumeContainer(this.id);
    this.machine.tryMove('resume');
    this.host.changed();
  }

  async update(resources: OciResources): Promise<void> {
    if (this.state === 'stopped' || this.state === 'invalid') {
      throw new KataError('FailedPrecondition', `update container "${this.id}": it is ${this.state}`);
    }
    const before = this.wanted;
    this.wanted = mergeResources(before, resources);
    try {
      await this.host.resized();
      await this.host.agent.updateContainer(this.id, constrainResources(resources));
    } catch (reason) {
      this.wanted = before;
      throw reason;
    }
    this.host.changed();
  }

  async stats(): Promise<ContainerStats> {
    if (this.state === 'stopped' || this.state === 'invalid') {
      throw new KataError('NotFound', `stats of container "${this.id}": it is ${this.state}`);
    }
    return this.host.agent.statsContainer(this.id);
  }

  /** The guest is gone: every process ends, its status as known or 255. */
  lose(): void {
    for (const process of [...this.running.values(), this.init]) {
      process.lose();
    }
  }

  /** Kills everything in the guest and waits, at most 3 s, for init's end. For the end of the sandbox. */
  async stop(): Promise<void> {
    if (this.init.state === 'running' || this.init.state === 'starting') {
      try {
        await withTimeout(this.killAndWait(), STOP_TIMEOUT_MS, () => new KataError('DeadlineExceeded', `stop container "${this.id}": no end within ${STOP_TIMEOUT_MS} ms`));
      } catch (reason) {
        this.host.logger.warn('container did not stop', { container: this.id, error: describeError(reason) });
      }
    }
    this.endAll({ status: 128 + SIGKILL, at: new Date() });
  }

  /** Ends what has not ended, with this record. */
  endAll(exit: ProcessExit): void {
    for (const process of [...this.running.values(), this.init]) {
      process.end(exit);
    }
  }

  /** Gives back all that it holds, in the guest (if it lives) and on the host. Idempotent. */
  async release(): Promise<void> {
    this.endAll({ status: 255, at: new Date() });
    await this.undo.unwind((error) => {
      this.host.logger.warn('container not freed wholly', { container: this.id, error: describeError(error) });
    });
  }

  /** Runs the hooks of one kind; their failure is only logged. */
  async runLateHooks(kind: 'poststart' | 'poststop', netnsOf?: number): Promise<void> {
    const hooks = this.spec.hooks?.[kind];
    if (hooks === undefined || hooks.length === 0) {
      return;
    }
    try {
      const status = kind === 'poststart' ? 'running' : 'stopped';
      await runHooks(kind, hooks, { id: this.id, status, pid: this.host.vm.pid, bundle: this.bundle, annotations: this.spec.annotations ?? {} }, netnsOf);
    } catch (reason) {
      this.host.logger.warn(`${kind} hook failed`, { container: this.id, error: describeError(reason) });
    }
  }

  private async startInit(): Promise<void> {
    await this.init.start();
    this.machine.tryMove('start');
    this.host.changed();
    await this.runLateHooks('poststart', this.host.vm.pid);
  }

  private async killCreated(signal: number): Promise<void> {
    if (signal === 0) {
      return;
    }
    if (signal !== SIGKILL && signal !== SIGTERM) {
      await this.host.agent.signalProcess(this.id, this.id, signal);
      return;
    }
    await removeFromGuest(this.host, this.id);
    this.init.end({ status: 128 + signal, at: new Date() });
  }

  private async killAndWait(): Promise<void> {
    await this.host.agent.signalProcess(this.id, undefined, SIGKILL);
    await this.init.exited;
  }

  private async beforeExit(status: number, killed: boolean): Promise<void> {
    if (status === 128 + SIGKILL && !killed) {
      await this.host.oomSettled(this.id);
    }
  }

  private async beforeInitExit(status: number, killed: boolean): Promise<void> {
    await this.beforeExit(status, killed);
    const execs = [...this.running.values()].filter(({ state }) => state === 'running').map(({ exited }) => exited);
    if (execs.length > 0) {
      await withTimeout(Promise.all(execs), EXECS_SETTLE_MS, () => new KataError('DeadlineExceeded', 'execs outlive init')).catch(() => undefined);
    }
  }
}
