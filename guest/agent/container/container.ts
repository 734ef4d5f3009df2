import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { OciProcess, OciResources, OciSpec } from '../../../base/oci-spec';
import { describeError, KataError } from '../../../base/errors';
import { UndoStack } from '../../../base/undo';
import { Cgroup } from '../cgroup/cgroup';
import { log } from '../console-log';
import type { AgentProcess } from '../process/agent-process';
import { releaseInit, runCrun } from './crun';
import { toJson } from './json';
import { startProcess } from './start-process';

const SIGKILL = 9;
const SIGTERM = 15;
/** Ended processes whose end was asked for and whose output nobody reads; the oldest go. */
const MAX_ENDED_EXECS = 64;

/** What a container is made of, all checked. */
export interface ContainerPlan {
  readonly id: string;
  readonly bundle: string;
  readonly spec: OciSpec;
  readonly pipeSizeBytes: number;
  /** Duties that end with the container (storages); taken over. */
  readonly undo: UndoStack;
}

/** One container: its processes by exec id, its cgroup, its bundle. Owned by the sandbox. */
export class Container {
  readonly cgroup: Cgroup;
  private readonly execs = new Map<string, AgentProcess>();
  private readonly finished: string[] = [];
  private execCount = 0;
  private isStarted = false;

  private constructor(
    private readonly plan: ContainerPlan,
    readonly init: AgentProcess,
  ) {
    this.cgroup = new Cgroup(plan.spec.linux?.cgroupsPath ?? `/${plan.id}`);
  }

  get id(): string {
    return this.plan.id;
  }

  /** Makes the container with its init waiting for `start`. On failure nothing is left. */
  static async create(plan: ContainerPlan): Promise<Container> {
    const { id, bundle, spec } = plan;
    return UndoStack.guard(async (undo) => {
      plan.undo.moveTo(undo);
      mkdirSync(bundle, { recursive: true, mode: 0o700 });
      undo.push('the bundle', () => rmSync(bundle, { recursive: true, force: true }));
      writeFileSync(join(bundle, 'config.json'), toJson(spec));
      undo.push('the container', () => deleteQuietly(id, bundle));
      const init = await startProcess({
        id,
        folder: bundle,
        name: 'init',
        terminal: spec.process?.terminal ?? false,
        size: spec.process?.consoleSize,
        pipeSizeBytes: plan.pipeSizeBytes,
        before: ['create', '--bundle', bundle],
        after: [id],
        what: `create container "${id}"`,
        program: spec.process?.args?.[0] ?? '',
      });
      undo.moveTo(plan.undo);
      return new Container(plan, init);
    });
  }

  /** Lets the init run its program. */
  async start(): Promise<void> {
    if (this.isStarted) {
      throw new KataError('FailedPrecondition', `start container "${this.id}": it was started already`);
    }
    const hasHooks = (this.plan.spec.hooks?.poststart?.length ?? 0) > 0;
    if (hasHooks || !releaseInit(this.id)) {
      await this.crun(['start', this.id], 'start', this.plan.spec.process?.args?.[0]);
    }
    this.isStarted = true;
  }

  /** Starts a further process. */
  async exec(execId: string, process: OciProcess): Promise<void> {
    const what = `exec "${execId}" in container "${this.id}"`;
    if (execId === this.id || this.execs.has(execId)) {
      throw new KataError('AlreadyExists', `${what}: the id is in use`);
    }
    if (this.init.exitStatus !== undefined) {
      throw new KataError('FailedPrecondition', `${what}: the container is not running`);
    }
    const name = `exec${String(++this.execCount)}`;
    const processFile = join(this.plan.bundle, `${name}.json`);
    writeFileSync(processFile, toJson(this.completed(process)));
    try {
      const started = await startProcess({
        id: execId,
        folder: this.plan.bundle,
        name,
        terminal: process.terminal ?? false,
        size: process.consoleSize,
        pipeSizeBytes: this.plan.pipeSizeBytes,
        before: ['exec', '--process', processFile, '--detach'],
        after: [this.id],
        what,
        program: process.args?.[0] ?? '',
      });
      this.execs.set(execId, started);
    } finally {
      ['json', 'pid', 'log'].forEach((end) => rmSync(join(this.plan.bundle, `${name}.${end}`), { force: true }));
    }
  }

  /** A process by exec id; empty or the container's own id is the init. */
  process(execId: string): AgentProcess {
    const process = execId === '' || execId === this.id ? this.init : this.execs.get(execId);
    if (process === undefined) {
      throw new KataError('NotFound', `process "${execId}" of container "${this.id}" does not exist`);
    }
    return process;
  }

  /** The exit status of a process, once it has ended. The record of an exec goes when its output was read too. */
  async wait(execId: string): Promise<number> {
    const process = this.process(execId);
    const status = await process.exited;
    if (process !== this.init && this.execs.get(execId) === process) {
      this.forgetWhenRead(execId, process);
    }
    return status;
  }

  /**
   * Sends a signal: to every process where `execId` is empty, else to that one. False if nobody was there.
   * SIGTERM to an init without a handler becomes SIGKILL: the kernel would drop it, being for PID 1 of a namespace.
   */
  signal(execId: string, signal: number): boolean {
    if (execId !== '') {
      return this.signalOne(this.process(execId), signal);
    }
    const reached = this.signalOne(this.init, signal);
    if (signal === 0) {
      return reached;
    }
    const { pid } = this.init;
    const others = signal === SIGKILL ? this.cgroup.killAll() : this.cgroup.signalAll(signal);
    log.debug('signal sent', { container: this.id, signal, pid, others });
    return reached || others > 0;
  }

  /** Sets limits. */
  async update(resources: OciResources): Promise<void> {
    const file = join(this.plan.bundle, 'resources.json');
    writeFileSync(file, toJson(resources));
    await this.crun(['update', '--resources', file, this.id], 'update');
  }

  async pause(): Promise<void> {
    await this.crun(['pause', this.id], 'pause');
  }

  async resume(): Promise<void> {
    await this.crun(['resume', this.id], 'resume');
  }

  /** Kills what runs and gives everything back, whatever fails on the way. */
  async remove(): Promise<void> {
    if (this.init.exitStatus === undefined) {
      this.signal('', SIGKILL);
    }
    for (const process of [this.init, ...this.execs.values()]) {
      process.close();
    }
    this.execs.clear();
    await this.plan.undo.unwind((error) => log.warn(describeError(error), { container: this.id }));
  }

  private signalOne(process: AgentProcess, signal: number): boolean {
    if (process === this.init && signal === SIGTERM && !handlesSignal(process.pid, SIGTERM)) {
      return process.signal(SIGKILL);
    }
    return process.signal(signal);
  }

  /** What a further process does not say is taken from the init; hosts before 4.x send little. */
  private completed(process: OciProcess): OciProcess {
    const own = this.plan.spec.process ?? {};
    const completed: OciProcess = { ...process };
    if (process.capabilities === undefined && own.capabilities !== undefined) {
      completed.capabilities = own.capabilities;
    }
    if ((process.rlimits ?? []).length === 0 && own.rlimits !== undefined) {
      completed.rlimits = own.rlimits;
    }
    if (own.noNewPrivileges === true) {
      completed.noNewPrivileges = true;
    }
    return completed;
  }

  private forgetWhenRead(execId: string, process: AgentProcess): void {
    const forget = (): void => {
      if (process.stdout.isRead && (process.stderr?.isRead ?? true) && this.execs.get(execId) === process) {
        this.execs.delete(execId);
        process.close();
      }
    };
    process.stdout.onEndSeen = forget;
    if (process.stderr !== undefined) {
      process.stderr.onEndSeen = forget;
    }
    forget();
    this.finished.push(execId);
    const oldest = this.finished.length > MAX_ENDED_EXECS ? this.finished.shift() : undefined;
    if (oldest !== undefined) {
      this.execs.get(oldest)?.close();
      this.execs.delete(oldest);
    }
  }

  private async crun(args: readonly string[], verb: string, program?: string): Promise<void> {
    await runCrun(args, {
      logPath: join(this.plan.bundle, `${verb}.log`),
      what: `${verb} container "${this.id}"`,
      ...(program === undefined ? {} : { program }),
    });
  }
}

async function deleteQuietly(id: string, bundle: string): Promise<void> {
  try {
    await runCrun(['delete', '--force', id], { logPath: join(bundle, 'delete.log'), what: `delete container "${id}"` });
  } catch (reason) {
    // A container whose creation failed is not known to the runtime any more.
    log.debug(describeError(reason), { container: id });
  }
}

/** True if the process has a handler for the signal; true as well where that cannot be told. */
function handlesSignal(pid: number, signal: number): boolean {
  try {
    const mask = /^SigCgt:\s*([0-9a-f]+)$/m.exec(readFileSync(`/proc/${String(pid)}/status`, 'latin1'))?.[1];
    return mask === undefined || ((BigInt(`0x${mask}`) >> BigInt(signal - 1)) & 1n) === 1n;
  } catch {
    return true;
  }
}
