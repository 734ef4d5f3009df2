import { spawn, type StdioOptions } from 'node:child_process';
import { KataError } from '../../../base/errors';
import { killProcess, spawnChild } from '../../../base/syscalls';
import { log } from '../console-log';
import { reaper } from './reaper';

/** Output of a tool beyond this is an error. */
const MAX_OUTPUT_BYTES = 8 * 1024 * 1024;

export interface ToolOptions {
  /** How long it may take, in milliseconds; killed then. */
  readonly timeoutMs: number;
  /** Standard input; absent: /dev/null. */
  readonly input?: string | Uint8Array;
  readonly env?: NodeJS.ProcessEnv;
  readonly cwd?: string;
  /** What the tool sees as its own name; its path if left out. */
  readonly argv0?: string;
}

const SIGKILL = 9;

/** How a tool ended. */
export interface ToolResult {
  /** Exit code; 128 and more for a death by signal or a time-out. */
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

function stdioOf(options: ToolOptions): StdioOptions {
  return [options.input === undefined ? 'ignore' : 'pipe', 'pipe', 'pipe'];
}

/** Runs a program of the guest to its end, whatever that is. Rejects only where it cannot be started or takes too long. */
export async function runTool(file: string, args: readonly string[], options: ToolOptions): Promise<ToolResult> {
  const startedMs = performance.now();
  return new Promise((resolve, reject) => {
    const child = spawn(file, [...args], {
      stdio: stdioOf(options),
      ...(options.env === undefined ? {} : { env: options.env }),
      ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
      ...(options.argv0 === undefined ? {} : { argv0: options.argv0 }),
    });
    const { pid } = child;
    const spawnedMs = performance.now();
    if (pid !== undefined) {
      reaper.addOwn(pid);
    }
    const out: Buffer[] = [];
    const err: Buffer[] = [];
    let size = 0;
    const collect = (into: Buffer[]) => (chunk: Buffer) => {
      size += chunk.length;
      if (size > MAX_OUTPUT_BYTES) {
        child.kill('SIGKILL');
        return;
      }
      into.push(chunk);
    };
    child.stdout?.on('data', collect(out));
    child.stderr?.on('data', collect(err));
    child.stdin?.on('error', () => undefined);
    let isTimedOut = false;
    const timer = setTimeout(() => {
      isTimedOut = true;
      child.kill('SIGKILL');
    }, options.timeoutMs);
    child.on('error', (error) => {
      clearTimeout(timer);
      reject(KataError.from(error, `run ${file}: ${error.message}`));
    });
    child.on('exit', () => {
      if (pid !== undefined) {
        reaper.removeOwn(pid);
      }
    });
    child.on('close', (code: number | null) => {
      clearTimeout(timer);
      logEnd(file, args, spawnedMs - startedMs, performance.now() - startedMs);
      if (isTimedOut) {
        reject(late(file, options.timeoutMs));
        return;
      }
      resolve({ code: code ?? 255, stdout: Buffer.concat(out).toString(), stderr: Buffer.concat(err).toString() });
    });
    if (options.input !== undefined) {
      child.stdin?.end(options.input);
    }
  });
}

/**
 * The same for a program that has `fds` as its 0, 1 and 2, and our environment: its exit code, 128 and more for a death by
 * signal. The caller keeps its own descriptors. Started without a copy of ourselves, see `spawnChild`.
 */
export async function runWith(fds: readonly [number, number, number], file: string, args: readonly string[], options: Pick<ToolOptions, 'timeoutMs' | 'argv0'>): Promise<number> {
  const startedMs = performance.now();
  const pid = spawnChild(file, [options.argv0 ?? file, ...args], fds);
  const spawnedMs = performance.now();
  return new Promise((resolve, reject) => {
    let isTimedOut = false;
    const timer = setTimeout(() => {
      isTimedOut = true;
      killProcess(pid, SIGKILL);
    }, options.timeoutMs);
    reaper.watch(pid, (code) => {
      clearTimeout(timer);
      logEnd(file, args, spawnedMs - startedMs, performance.now() - startedMs);
      if (isTimedOut) {
        reject(late(file, options.timeoutMs));
      } else {
        resolve(code);
      }
    });
  });
}

function late(file: string, timeoutMs: number): KataError {
  return new KataError('DeadlineExceeded', `run ${file}: no end within ${String(timeoutMs)} ms; killed`);
}

function logEnd(file: string, args: readonly string[], spawnMs: number, ms: number): void {
  log.debug('tool ended', { file, verb: args.find((word) => !word.includes('/') && !word.startsWith('-')), spawnMs: toTenths(spawnMs), ms: toTenths(ms) });
}

function toTenths(ms: number): number {
  return Math.round(ms * 10) / 10;
}

/** Runs a program that has to succeed; returns its output. The error carries what it wrote to stderr. */
export async function mustRun(file: string, args: readonly string[], options: ToolOptions): Promise<string> {
  const result = await runTool(file, args, options);
  if (result.code !== 0) {
    const text = result.stderr.trim().slice(-2000) || `exit code ${String(result.code)}`;
    throw new KataError('Internal', `${file} ${args.slice(0, 4).join(' ')}: ${text}`);
  }
  return result.stdout;
}
