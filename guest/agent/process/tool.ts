import { spawn, type StdioOptions } from 'node:child_process';
import { KataError } from '../../../base/errors';
import { log } from '../console-log';
import { reaper } from './reaper';

/** Output of a tool beyond this is an error. */
const MAX_OUTPUT_BYTES = 8 * 1024 * 1024;

export interface ToolOptions {
  /** How long it may take, in milliseconds; killed then. */
  readonly timeoutMs: number;
  /** Standard input; absent: /dev/null. */
  readonly input?: string | Uint8Array;
  /** Descriptors for 0, 1, 2 of the tool in place of captured ones. The caller keeps its own. */
  readonly stdio?: readonly [number, number, number];
  readonly env?: NodeJS.ProcessEnv;
  readonly cwd?: string;
  /** What the tool sees as its own name; its path if left out. */
  readonly argv0?: string;
}

/** How a tool ended. */
export interface ToolResult {
  /** Exit code; 128 and more for a death by signal or a time-out. */
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

function stdioOf(options: ToolOptions): StdioOptions {
  if (options.stdio !== undefined) {
    return [...options.stdio];
  }
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
    child.on(options.stdio === undefined ? 'close' : 'exit', (code: number | null) => {
      clearTimeout(timer);
      log.debug('tool ended', { file, verb: args.find((word) => !word.includes('/') && !word.startsWith('-')), spawnMs: toTenths(spawnedMs - startedMs), ms: toTenths(performance.now() - startedMs) });
      if (isTimedOut) {
        reject(new KataError('DeadlineExceeded', `run ${file}: no end within ${String(options.timeoutMs)} ms; killed`));
        return;
      }
      resolve({ code: code ?? 255, stdout: Buffer.concat(out).toString(), stderr: Buffer.concat(err).toString() });
    });
    if (options.input !== undefined) {
      child.stdin?.end(options.input);
    }
  });
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
