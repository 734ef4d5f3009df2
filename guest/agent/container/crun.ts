import { closeSync, constants, existsSync, openSync, readFileSync, rmSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { describeError, KataError, type ErrorCode } from '../../../base/errors';
import { sealedProgram } from '../../../base/syscalls';
import { log } from '../console-log';
import { runTool, runWith, type ToolResult } from '../process/tool';

/** State of the OCI runtime; inside the guest's tmpfs. */
export const CRUN_ROOT = '/run/kata-containers/.crun';
/** No container of a guest needs longer for one runtime command, under emulation and load. */
const TIMEOUT_MS = 120_000;

let program: string | undefined;

function crunPath(): string {
  const path = ['/usr/bin/crun', '/usr/local/bin/crun', '/bin/crun', '/sbin/crun'].find((candidate) => existsSync(candidate));
  if (path === undefined) {
    throw new KataError('FailedPrecondition', 'run crun: not found in the guest');
  }
  return path;
}

/**
 * The runtime as a sealed copy in memory, made once. Run from a file that could be written, crun copies and executes
 * itself anew each time so that no container can overwrite it (CVE-2019-5736), which is more than half of what a start of it
 * costs under emulation; such a copy it takes as it is.
 */
export function sealedCrun(path: string): string {
  try {
    return `/proc/self/fd/${String(sealedProgram('crun', readFileSync(path)))}`;
  } catch (reason) {
    log.debug('the runtime runs from its file', { error: describeError(reason) });
    return path;
  }
}

function crun(): string {
  program ??= sealedCrun(crunPath());
  return program;
}

/**
 * The error that stands for the runtime's words. Where a program cannot be executed the text has the words by which
 * Docker and Kubernetes tell exit codes 126 and 127.
 */
export function explainRuntimeError(text: string, what: string, program: string): KataError {
  const words = text.trim().split('\n').slice(-3).join('; ').slice(-1000) || 'the runtime gave no reason';
  const quoted = JSON.stringify(program);
  const as = (code: ErrorCode, message: string): KataError => new KataError(code, `${what}: ${message}`);
  if (/executable file .* not found|not found in \$PATH/i.test(words)) {
    const where = program.includes('/') ? 'no such file or directory' : 'executable file not found in $PATH';
    return as('NotFound', `exec: ${quoted}: executable file not found: ${where}`);
  }
  if (/open executable.*Operation not permitted|is a directory/i.test(words)) {
    return as('PermissionDenied', `exec: ${quoted}: is a directory: permission denied`);
  }
  if (/(?:open|exec)\S* .*Permission denied|exec.*Permission denied/i.test(words)) {
    return as('PermissionDenied', `exec: ${quoted}: permission denied`);
  }
  if (/exec.*No such file or directory/i.test(words)) {
    return as('NotFound', `exec: ${quoted}: no such file or directory`);
  }
  if (/exec format error/i.test(words)) {
    return as('InvalidArgument', `exec: ${quoted}: exec format error`);
  }
  return as('Internal', words);
}

export interface CrunOptions {
  /** Where the runtime writes its errors: its stderr may be the container's. */
  readonly logPath: string;
  readonly stdio?: readonly [number, number, number];
  /** What is done, for the error. */
  readonly what: string;
  /** The program that the container runs, for the error. */
  readonly program?: string;
}

/** Runs the OCI runtime; a failure carries its own words. */
export async function runCrun(args: readonly string[], options: CrunOptions): Promise<ToolResult> {
  const words = ['--root', CRUN_ROOT, `--log=file:${options.logPath}`, ...args];
  const limits = { timeoutMs: TIMEOUT_MS, argv0: 'crun' };
  const result = options.stdio === undefined
    ? await runTool(crun(), words, limits)
    : { code: await runWith(options.stdio, crun(), words, limits), stdout: '', stderr: '' };
  if (result.code === 0) {
    return result;
  }
  const text = readLog(options.logPath) || result.stderr || `exit code ${String(result.code)}`;
  rmSync(options.logPath, { force: true });
  throw explainRuntimeError(text, options.what, options.program ?? '');
}

/**
 * Lets an init that `crun create` made run its program: one byte into the FIFO that it waits at, as `crun start` does
 * for a container without poststart hooks, at the cost of no process (0.1 to 0.3 s under emulation). False if nobody
 * waits there: let the runtime say why.
 */
export function releaseInit(id: string, root = CRUN_ROOT): boolean {
  const path = join(root, id, 'exec.fifo');
  let fd: number;
  try {
    // Without a reader this fails; it never waits.
    fd = openSync(path, constants.O_WRONLY | constants.O_NONBLOCK | constants.O_NOFOLLOW);
  } catch {
    return false;
  }
  try {
    // Its absence is how the runtime knows that the container was started.
    rmSync(path);
    writeSync(fd, Buffer.alloc(1));
    return true;
  } finally {
    closeSync(fd);
  }
}

function readLog(path: string): string {
  try {
    return readFileSync(path, 'utf8').slice(-4096);
  } catch {
    return '';
  }
}
