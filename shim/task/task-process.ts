/** One process as the host sees it: init or an exec, with its order of events. */
import { defer, withTimeout } from '../../base/deadline';
import { KataError } from '../../base/errors';
import type { Process, ProcessExit } from '../../virtcontainers/process/types';
import type { StdioPaths } from '../stdio/process-io';
import { SerialQueue } from './serial';

export interface TaskProcessOptions {
  readonly process: Process;
  readonly stdio: StdioPaths;
  /** Publishes the start; called once, before the exit can be. */
  readonly publishStart: () => void;
  /** Publishes the end; called at most once. */
  readonly publishExit: (exit: ProcessExit) => void;
  /** What must be over before this process's end is published: the ends of a container's execs. Bounded by us. */
  readonly before: () => Promise<void>;
}

/** How long an end is held back for the ends that have to come first. */
const ORDER_TIMEOUT_MS = 1_000;

export class TaskProcess {
  readonly process: Process;
  readonly stdio: StdioPaths;
  /** Orders what changes this process. */
  readonly changes = new SerialQueue();
  /** Resolves when the end was published, or when it never will be because the start failed. */
  readonly exitPublished: Promise<void>;
  private starting: Promise<void> | undefined;
  private hasStarted = false;
  private isQuiet = false;
  private readonly waiters = new Set<(exit: ProcessExit) => void>();

  constructor(private readonly options: TaskProcessOptions) {
    this.process = options.process;
    this.stdio = options.stdio;
    this.exitPublished = this.followExit();
  }

  get hasRun(): boolean {
    return this.hasStarted;
  }

  /** How many callers wait for its end. */
  get waiting(): number {
    return this.waiters.size;
  }

  /** Starts it and publishes that, always before its end. */
  async start(run: () => Promise<void>): Promise<void> {
    const settled = defer<undefined>();
    this.starting = settled.promise.then(() => undefined);
    try {
      await run();
      this.hasStarted = true;
      this.options.publishStart();
    } catch (reason) {
      // A second start of what runs changes nothing about it.
      this.isQuiet ||= !this.hasStarted;
      throw reason;
    } finally {
      settled.resolve(undefined);
    }
  }

  /** Its end will not be published: it is deleted without ever having run. */
  keepQuiet(): void {
    this.isQuiet = true;
  }

  /** Waits for a start that is under way. */
  async startSettled(): Promise<void> {
    await this.starting;
  }

  /** The end; NotFound never, Canceled when the caller goes away. Costs nothing but a callback while it waits. */
  async wait(signal: AbortSignal): Promise<ProcessExit> {
    const { exit } = this.process;
    if (exit !== undefined) {
      return exit;
    }
    return new Promise((resolve, reject) => {
      const onAbort = (): void => {
        this.waiters.delete(onExit);
        reject(new KataError('Canceled', 'wait: the caller is gone'));
      };
      const onExit = (ended: ProcessExit): void => {
        signal.removeEventListener('abort', onAbort);
        resolve(ended);
      };
      this.waiters.add(onExit);
      signal.addEventListener('abort', onAbort, { once: true });
    });
  }

  private async followExit(): Promise<void> {
    const exit = await this.process.exited;
    for (const waiter of this.waiters) {
      waiter(exit);
    }
    this.waiters.clear();
    await this.starting;
    await withTimeout(this.options.before(), ORDER_TIMEOUT_MS, () => new KataError('DeadlineExceeded', 'order of ends')).catch(() => undefined);
    if (!this.isQuiet) {
      this.options.publishExit(exit);
    }
  }
}
