/** One process of a container on the host's side: it owns the start, the copying of its streams, and its one end. */
import { defer, withTimeout } from '../../base/deadline';
import { codeOf, describeError, KataError } from '../../base/errors';
import type { Logger } from '../../base/log';
import { StateMachine } from '../../base/state-machine';
import type { AgentClient, ProcessRef } from '../../agent-client/types';
import { PROCESS_TRANSITIONS } from './state';
import type { GuestStreams, Process, ProcessExit, ProcessIo, ProcessState } from './types';

/** Status of an end that the guest could not tell. */
export const UNKNOWN_STATUS = 255;
const SIGKILL = 9;

/** How long a killed process's output may still be copied before its end counts without it. */
const COPY_AFTER_KILL_MS = 10_000;
/** How long output that the host already has may still be delivered when the guest is gone. */
const COPY_AFTER_LOSS_MS = 200;
const KILL_TIMEOUT_MS = 5_000;

export interface WindowSize {
  readonly rows: number;
  readonly columns: number;
}

export interface ProcessOptions {
  readonly ref: ProcessRef;
  /** Names it in errors, e.g. `container "ab"` or `exec "e1" of container "ab"`. */
  readonly name: string;
  readonly terminal: boolean;
  /** The first window size, if the client gave one. */
  readonly consoleSize?: WindowSize | undefined;
  readonly io: ProcessIo;
  readonly agent: AgentClient;
  readonly logger: Logger;
  /** Makes it run in the guest: StartContainer or ExecProcess. Told the window size, where one is known. */
  readonly launch: (size: WindowSize | undefined) => Promise<void>;
  /** Waited for (bounded by the callee) between the guest's answer and the end becoming known; `killed`: we sent SIGKILL. */
  readonly beforeExit?: (status: number, killed: boolean) => Promise<void>;
  /** Told once, in the same turn as `exited` is resolved. */
  readonly onExit?: (exit: ProcessExit) => void;
}

/** See `Process`. `lose` and `end` are for its container. */
export class GuestProcess implements Process {
  readonly ref: ProcessRef;
  readonly terminal: boolean;
  private readonly machine: StateMachine<ProcessState, 'start' | 'started' | 'exit'>;
  private readonly done = defer<ProcessExit>();
  private readonly killed = defer<undefined>();
  private readonly lost = defer<undefined>();
  private readonly unwatch = new AbortController();
  private record: ProcessExit | undefined;
  private size: WindowSize | undefined;

  constructor(private readonly options: ProcessOptions) {
    this.ref = options.ref;
    this.terminal = options.terminal;
    this.size = options.consoleSize;
    this.machine = new StateMachine(options.name, PROCESS_TRANSITIONS, 'created');
  }

  get state(): ProcessState {
    return this.machine.state;
  }

  get exited(): Promise<ProcessExit> {
    return this.done.promise;
  }

  get exit(): ProcessExit | undefined {
    return this.record;
  }

  async start(): Promise<void> {
    this.machine.move('start');
    let launching = false;
    let applied: WindowSize | undefined;
    try {
      await this.options.io.open();
      launching = true;
      applied = await this.sizeBeforeStart();
      await this.options.launch(this.terminal ? this.size : undefined);
    } catch (reason) {
      // A launch whose answer was lost may have started it all the same.
      if (launching && ['DeadlineExceeded', 'Canceled'].includes(codeOf(reason))) {
        await this.destroy();
      }
      this.end({ status: UNKNOWN_STATUS, at: new Date() });
      throw reason;
    }
    if (!this.machine.tryMove('started')) {
      // The sandbox ended while the start was under way.
      throw new KataError('Unavailable', `start ${this.options.name}: the sandbox ended before it ran`);
    }
    if (this.terminal && this.size !== applied) {
      void this.sendSize();
    }
    void this.watch();
  }

  async signal(signal: number): Promise<void> {
    await this.signalGuest(signal, this.ref.execId);
  }

  /** Signals every process of the container; for init. */
  async signalAll(signal: number): Promise<void> {
    await this.signalGuest(signal, undefined);
  }

  async resize(rows: number, columns: number): Promise<void> {
    if (!this.terminal) {
      return;
    }
    this.size = { rows, columns };
    if (this.state === 'running') {
      await this.options.agent.ttyWinResize(this.ref, rows, columns);
    }
  }

  closeStdin(): void {
    this.options.io.closeStdin();
  }

  /** The guest is gone: what the guest said already counts, else the end is 255, at once. */
  lose(): void {
    if (this.state === 'running') {
      this.lost.resolve(undefined);
      this.unwatch.abort(new KataError('Unavailable', `${this.options.name}: the guest is gone`));
    } else {
      this.end({ status: UNKNOWN_STATUS, at: new Date() });
    }
  }

  /** Ends it with this record; the first end wins. Also for a process that never ran. */
  end(exit: ProcessExit): void {
    if (!this.machine.tryMove('exit')) {
      return;
    }
    this.record = exit;
    this.unwatch.abort(new KataError('Canceled', `${this.options.name}: ended`));
    this.options.io.close();
    this.options.onExit?.(exit);
    this.done.resolve(exit);
  }

  /** Kills it in the guest, whatever it does; bounded, never rejects. */
  async destroy(): Promise<void> {
    try {
      await withTimeout(
        this.options.agent.signalProcess(this.ref.containerId, this.ref.execId, SIGKILL),
        KILL_TIMEOUT_MS,
        () => new KataError('DeadlineExceeded', `kill ${this.options.name}: no answer`),
      );
      this.killed.resolve(undefined);
    } catch (reason) {
      this.options.logger.debug('kill in the guest failed', { process: this.options.name, error: describeError(reason) });
    }
  }

  private async signalGuest(signal: number, execId: string | undefined): Promise<void> {
    if (this.state === 'stopped') {
      throw new KataError('NotFound', `signal ${this.options.name}: process already finished`);
    }
    if (this.state !== 'running') {
      throw new KataError('FailedPrecondition', `signal ${this.options.name}: process has not started`);
    }
    await this.options.agent.signalProcess(this.ref.containerId, execId, signal);
    if (signal === SIGKILL) {
      this.killed.resolve(undefined);
    }
  }

  /** A created container has its console already: a program that asks for the size first thing must find it. */
  private async sizeBeforeStart(): Promise<WindowSize | undefined> {
    const size = this.size;
    const isInit = this.ref.execId === this.ref.containerId;
    return this.terminal && isInit && size !== undefined && (await this.sendSize()) ? size : undefined;
  }

  private async sendSize(): Promise<boolean> {
    try {
      await this.options.agent.ttyWinResize(this.ref, this.size?.rows ?? 0, this.size?.columns ?? 0);
      return true;
    } catch (reason) {
      this.options.logger.warn('window size not set', { process: this.options.name, error: describeError(reason) });
      return false;
    }
  }

  /** The one owner of the end: output first (the agent drops its record with WaitProcess), then the status. */
  private async watch(): Promise<void> {
    const { agent, beforeExit, logger, name } = this.options;
    const copied = this.options.io.copy(this.streams()).catch((reason: unknown) => {
      logger.warn('copying the streams failed', { process: name, error: describeError(reason) });
    });
    await this.copyEnd(copied);
    let status = UNKNOWN_STATUS;
    let wasKilled = false;
    void this.killed.promise.then(() => {
      wasKilled = true;
    });
    try {
      status = await agent.waitProcess(this.ref, this.unwatch.signal);
      await beforeExit?.(status, wasKilled);
    } catch (reason) {
      logger.warn('exit status unknown', { process: name, error: describeError(reason) });
    }
    this.end({ status, at: new Date() });
  }

  /** Ends with the copy; a kill or the loss of the guest bounds how long undelivered output holds the end back. */
  private async copyEnd(copied: Promise<void>): Promise<void> {
    const timers: NodeJS.Timeout[] = [];
    const after = async (event: Promise<undefined>, ms: number): Promise<void> => {
      await event;
      await new Promise<void>((resolve) => {
        timers.push(setTimeout(resolve, ms));
      });
    };
    await Promise.race([copied, after(this.killed.promise, COPY_AFTER_KILL_MS), after(this.lost.promise, COPY_AFTER_LOSS_MS)]);
    timers.forEach((timer) => {
      clearTimeout(timer);
    });
  }

  private streams(): GuestStreams {
    const { agent } = this.options;
    return {
      readStdout: (maxBytes) => agent.readStdout(this.ref, maxBytes, this.unwatch.signal),
      readStderr: (maxBytes) => agent.readStderr(this.ref, maxBytes, this.unwatch.signal),
      writeStdin: (data) => agent.writeStdin(this.ref, data),
      closeStdin: () => agent.closeStdin(this.ref),
    };
  }
}
