import type { ChildProcess, SpawnOptions } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { KataError } from './errors';
import { withTimeout } from './deadline';

/** How a process ended: one of `code` and `signal` is set; neither where only its parent, which we are not, was told. */
export interface ChildExit {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
}

/** `exit code 1`, `signal SIGKILL`, or that nobody told us. */
export function describeExit(exit: ChildExit): string {
  if (exit.code === null && exit.signal === null) {
    return 'a status that only its parent was told';
  }
  return exit.signal === null ? `exit code ${String(exit.code)}` : `signal ${exit.signal}`;
}

export interface StartOptions {
  readonly cwd?: string;
  readonly env?: NodeJS.ProcessEnv;
  /** Descriptors for 3, 4, ... in the child. The caller keeps (and closes) its own. */
  readonly extraFds?: readonly number[];
  /** Own session, so that signals to our group do not reach it. */
  readonly detached?: boolean;
  /** Bytes for its standard input; nothing: /dev/null. */
  readonly input?: Uint8Array | string;
  /** Where stdout goes. Default `capture`. */
  readonly stdout?: 'capture' | 'ignore';
  /** The name that the program sees as its own, where that is not its path. */
  readonly argv0?: string;
}

const TAIL_BYTES = 16 * 1024;

/** A started process: its end is always known, and the tail of what it wrote is kept (16 KiB each stream). */
export class Child {
  readonly pid: number;
  /** Resolves once, when the process ended and its output was read. Never rejects. */
  readonly exited: Promise<ChildExit>;
  private ended: ChildExit | undefined;
  private out = '';
  private err = '';

  private constructor(private readonly process: ChildProcess, pid: number) {
    this.pid = pid;
    process.stdout?.setEncoding('utf8').on('data', (text: string) => {
      this.out = (this.out + text).slice(-TAIL_BYTES);
    });
    process.stderr?.setEncoding('utf8').on('data', (text: string) => {
      this.err = (this.err + text).slice(-TAIL_BYTES);
    });
    this.exited = new Promise((resolve) => {
      process.on('close', (code, signal) => {
        this.ended = { code, signal };
        resolve(this.ended);
      });
    });
  }

  /** Starts a program. Fails with NotFound/PermissionDenied naming it when it cannot be executed. */
  static start(file: string, args: readonly string[], options: StartOptions = {}): Child {
    // Lazy: child_process costs 2 ms, and the code that runs before the shim listens must not pay it.
    // eslint-disable-next-line @typescript-eslint/no-require-imports
    const { spawn } = require('node:child_process') as typeof import('node:child_process');
    const stdin = options.input === undefined ? 'ignore' : 'pipe';
    const spawnOptions: SpawnOptions = {
      stdio: [stdin, options.stdout === 'ignore' ? 'ignore' : 'pipe', 'pipe', ...(options.extraFds ?? [])],
      detached: options.detached ?? false,
      ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
      ...(options.env === undefined ? {} : { env: options.env }),
      ...(options.argv0 === undefined ? {} : { argv0: options.argv0 }),
    };
    const process = spawn(file, [...args], spawnOptions);
    let failure: Error | undefined;
    process.on('error', (error) => {
      failure = error;
    });
    if (process.pid === undefined) {
      // spawn reports the reason in the next tick only; the errno is known already through a probe of the file.
      throw spawnFailure(file, failure);
    }
    if (options.input !== undefined) {
      process.stdin?.on('error', () => undefined);
      process.stdin?.end(options.input);
    }
    return new Child(process, process.pid);
  }

  get exit(): ChildExit | undefined {
    return this.ended;
  }

  /** The last 16 KiB of standard output. */
  get stdout(): string {
    return this.out;
  }

  /** The last 16 KiB of standard error. */
  get stderr(): string {
    return this.err;
  }

  /** Sends a signal; false if it has ended already. */
  kill(signal: NodeJS.Signals = 'SIGKILL'): boolean {
    return this.ended === undefined && this.process.kill(signal);
  }

  /** Does not keep our event loop alive. */
  unref(): void {
    this.process.unref();
  }

  /** SIGTERM, `graceMs` of patience, SIGKILL; resolves with its end. */
  async stop(graceMs: number): Promise<ChildExit> {
    this.kill('SIGTERM');
    try {
      return await withTimeout(this.exited, graceMs, () => new KataError('DeadlineExceeded', `stop pid ${String(this.pid)}`));
    } catch {
      this.kill('SIGKILL');
      return this.exited;
    }
  }
}

function spawnFailure(file: string, failure: Error | undefined): KataError {
  // eslint-disable-next-line @typescript-eslint/no-require-imports
  const { accessSync, constants } = require('node:fs') as typeof import('node:fs');
  let reason: unknown = failure;
  try {
    if (file.includes('/')) {
      accessSync(file, constants.X_OK);
    }
  } catch (error) {
    reason = error;
  }
  return file.includes('/')
    ? KataError.from(reason, `start ${file}: cannot be executed`)
    : new KataError('NotFound', `start ${file}: not found in PATH`, { cause: reason });
}

export interface RunOptions extends StartOptions {
  readonly timeoutMs: number;
}

/** Runs a program to its end; returns stdout. Non-zero end or time-out (then SIGKILL) is an error with the tail of stderr. */
export async function run(file: string, args: readonly string[], options: RunOptions): Promise<string> {
  const child = Child.start(file, args, options);
  let exit: ChildExit;
  try {
    exit = await withTimeout(
      child.exited,
      options.timeoutMs,
      () => new KataError('DeadlineExceeded', `run ${file}: no end within ${String(options.timeoutMs)} ms; killed`),
    );
  } catch (reason) {
    child.kill('SIGKILL');
    throw reason;
  }
  if (exit.code !== 0) {
    throw new KataError('Unknown', `run ${file} ${args.join(' ')}: ${describeExit(exit)}: ${child.stderr.trim() || 'no message'}`);
  }
  return child.stdout;
}

/** Start time of a process in clock ticks since boot (field 22 of /proc/PID/stat): with the pid it names one process for good. */
export function processStartTime(pid: number): string | undefined {
  try {
    const stat = readFileSync(`/proc/${String(pid)}/stat`, 'latin1');
    return stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19];
  } catch {
    return undefined;
  }
}

/** True if this very process (not another one under the same pid) still runs and is no zombie. */
export function isProcessAlive(pid: number, startTime: string): boolean {
  try {
    const stat = readFileSync(`/proc/${String(pid)}/stat`, 'latin1');
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    return fields[19] === startTime && fields[0] !== 'Z' && fields[0] !== 'X';
  } catch {
    return false;
  }
}
