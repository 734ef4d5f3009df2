/** Log programs (`binary://`, `binary-v2://`): the host's way to let a program of its own take a process's output. */
import { closeSync } from 'node:fs';
import type { ChildProcess } from 'node:child_process';
import { Socket } from 'node:net';
import { defer, withTimeout } from '../../base/deadline';
import { KataError } from '../../base/errors';
import { UndoStack } from '../../base/undo';
import { PipeSink, type OutputSink } from './sink';
import type { StreamTarget } from './uri';

type BinaryTarget = Extract<StreamTarget, { kind: 'binary' }>;

export interface LoggerIdentity {
  readonly containerId: string;
  readonly namespace: string;
}

const READY_TIMEOUT_MS = 10_000;
/** A logger ends by itself when its input does; only then is it told to. */
const GRACE_MS = 1_000;
const TERM_TIMEOUT_MS = 12_000;

const running = new Set<LoggerProcess>();

/** Tells all loggers that still run to end; for the end of the shim. They have read everything by then or never will. */
export function stopLoggers(): void {
  for (const logger of running) {
    logger.signal('SIGTERM');
  }
}

/** A running log program with the writing ends of its two pipes. */
export class LoggerProcess {
  private readonly exited = defer<undefined>();
  private isStopping = false;

  private constructor(
    private readonly child: ChildProcess,
    readonly stdout: OutputSink,
    readonly stderr: OutputSink,
  ) {
    running.add(this);
    child.on('exit', () => {
      running.delete(this);
      this.exited.resolve(undefined);
    });
  }

  /**
   * Starts it as a sibling of the shim, with fd 3 stdout, 4 stderr, 5 readiness and an environment of two variables;
   * resolves when it says that it is ready (closes 5; for version 2 writes a byte to it), at most after 10 s.
   */
  static async start(target: BinaryTarget, identity: LoggerIdentity, onBroken: (error: Error) => void): Promise<LoggerProcess> {
    return UndoStack.guard(async (undo) => {
      const [out, err, ready] = [pipeOf(undo), pipeOf(undo), pipeOf(undo)];
      const child = spawnLogger(target, identity, [out.read, err.read, ready.write]);
      [out.read, err.read, ready.write].forEach(closeSync);
      undo.release();
      const sinks = [new PipeSink(out.write, false, onBroken), new PipeSink(err.write, false, onBroken)] as const;
      const logger = new LoggerProcess(child, ...sinks);
      undo.push('log program', () => {
        logger.stop();
      });
      await whenReady(ready.read, target, child);
      return logger;
    });
  }

  signal(signal: NodeJS.Signals): void {
    this.child.kill(signal);
  }

  /** Ends its input, and it: grace, SIGTERM, 12 s, SIGKILL, all in the background. Idempotent. */
  stop(): void {
    if (this.isStopping) {
      return;
    }
    this.isStopping = true;
    this.stdout.close();
    this.stderr.close();
    void (async () => {
      const ended = async (ms: number): Promise<boolean> =>
        withTimeout(this.exited.promise, ms, () => new KataError('DeadlineExceeded', 'log program')).then(
          () => true,
          () => false,
        );
      if (!(await ended(GRACE_MS)) && this.child.kill('SIGTERM') && !(await ended(TERM_TIMEOUT_MS))) {
        this.child.kill('SIGKILL');
      }
    })();
  }
}

function pipeOf(undo: UndoStack): { readonly read: number; readonly write: number } {
  // eslint-disable-next-line @typescript-eslint/no-require-imports
  const { pipe } = require('../../base/syscalls') as typeof import('../../base/syscalls');
  const [readEnd, writeEnd] = pipe();
  undo.push('pipe', () => {
    closeSync(readEnd);
    closeSync(writeEnd);
  });
  return { read: readEnd, write: writeEnd };
}

function spawnLogger(target: BinaryTarget, identity: LoggerIdentity, fds: readonly [number, number, number]): ChildProcess {
  // eslint-disable-next-line @typescript-eslint/no-require-imports
  const { spawn } = require('node:child_process') as typeof import('node:child_process');
  const child = spawn(target.path, [...target.args], {
    cwd: '/',
    env: { CONTAINER_ID: identity.containerId, CONTAINER_NAMESPACE: identity.namespace },
    stdio: ['ignore', 'ignore', 'ignore', ...fds],
    detached: true,
  });
  child.on('error', () => undefined);
  if (child.pid === undefined) {
    throw new KataError('NotFound', `start log program ${target.path}: it cannot be executed`, { hint: 'is it there, and executable?' });
  }
  child.unref();
  return child;
}

/** Takes ownership of `fd`. */
async function whenReady(fd: number, target: BinaryTarget, child: ChildProcess): Promise<void> {
  const socket = new Socket({ fd, readable: true, writable: false });
  const first = new Promise<'byte' | 'closed'>((resolve) => {
    socket.once('data', () => {
      resolve('byte');
    });
    for (const event of ['end', 'close', 'error']) {
      socket.once(event, () => {
        resolve('closed');
      });
    }
  });
  try {
    const late = new KataError('DeadlineExceeded', `start log program ${target.path}: not ready after ${String(READY_TIMEOUT_MS)} ms`, {
      hint: target.readiness === 'close' ? 'it has to close descriptor 5' : 'it has to write a byte to descriptor 5',
    });
    const seen = await withTimeout(first, READY_TIMEOUT_MS, () => late);
    if (seen === 'closed' && target.readiness === 'byte') {
      throw new KataError('Unavailable', `start log program ${target.path}: it closed descriptor 5 without a byte${endOf(child)}`);
    }
  } finally {
    socket.destroy();
  }
}

function endOf(child: ChildProcess): string {
  return child.exitCode === null ? '' : ` and ended with exit code ${String(child.exitCode)}`;
}
