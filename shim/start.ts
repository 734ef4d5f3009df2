/**
 * The `start` verb up to its reply. Everything here runs before containerd can dial, so it loads next to nothing:
 * no generated code unless something came on standard input, no configuration, no native part unless a stale socket
 * is in the way.
 */
import { closeSync, openSync, readFileSync, renameSync, rmSync, statSync, writeFileSync, writeSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import { isAbsolute, join } from 'node:path';
import { KataError } from '../base/errors';
import { checkId } from '../base/ids';
import { containerType, sandboxIdOf } from '../virtcontainers/bundle/container-type';
import { claimSocket, DEFAULT_SOCKET_DIR, isListening, socketPath } from './address';
import type { ShimArgs } from './args';
import { readStdin } from './stdin';

/** A server that listens and is not yet served; `serve` takes it over. */
export interface StartedServer {
  readonly server: Server;
  /** Connections that came before `serve` listened for them. */
  readonly early: Socket[];
  readonly args: ShimArgs;
  readonly sandboxId: string;
  /** Absolute path of the bundle of the container that `start` was called for. */
  readonly bundle: string;
  readonly socketPath: string;
  /** containerd's ttrpc socket for events; '' if there is none. */
  readonly ttrpcAddress: string;
}

const MAX_CONFIG_BYTES = 16 * 1024 * 1024;
/** A container of a pod may come while the pod's own shim is still on its way. */
const POD_WAIT_MS = 1_000;
const POD_POLL_MS = 10;

/** Does `start`: replies and returns the listening server, or undefined if a live one serves this sandbox already. */
export async function start(args: ShimArgs): Promise<StartedServer | undefined> {
  const id = checkId(args.id, 'container');
  if (args.namespace === '') {
    throw new KataError('InvalidArgument', 'start: shim namespace cannot be empty', { hint: 'pass -namespace' });
  }
  const bundle = process.cwd();
  const annotations = readAnnotations(join(bundle, 'config.json'));
  const sandboxId = checkId(sandboxIdOf({ annotations }, id), 'sandbox');
  const input = await startInput(id, args.namespace);
  const folder = input?.socketDir ?? DEFAULT_SOCKET_DIR;
  const path = socketPath(args.address, args.namespace, sandboxId, folder);
  const reply = replyFor(path, input !== undefined || process.env['KATA_SHIM_TASK_API'] === '3');
  raiseOomScore();
  // The receipt of an earlier deletion (task/receipt.ts): hosts that keep bundles may start in one again.
  rmSync(join(bundle, 'kata-deleted'), { force: true });

  if (containerType(annotations) === 'pod_container') {
    await waitForPod(path, sandboxId);
    writeBeside(join(bundle, 'address'), `unix://${path}`);
    answer(args, reply);
    return undefined;
  }
  const early: Socket[] = [];
  const server = createServer((socket) => early.push(socket.on('error', () => undefined)));
  const { outcome } = await claimSocket(server, path, folder);
  if (outcome === 'claimed') {
    writeBeside(join(bundle, 'shim.pid'), String(process.pid));
  }
  writeBeside(join(bundle, 'address'), `unix://${path}`);
  answer(args, reply);
  if (outcome === 'taken') {
    server.close();
    return undefined;
  }
  return { server, early, args, sandboxId, bundle, socketPath: path, ttrpcAddress: input?.ttrpcAddress ?? process.env['TTRPC_ADDRESS'] ?? '' };
}

/** Only what the decision needs; Create reads and checks the file whole. */
function readAnnotations(file: string): Record<string, string> {
  try {
    const { size } = statSync(file);
    if (size > MAX_CONFIG_BYTES) {
      throw new KataError('InvalidArgument', `${String(size)} bytes, more than ${String(MAX_CONFIG_BYTES)}`);
    }
    const spec: unknown = JSON.parse(readFileSync(file, 'utf8'));
    const found: unknown = typeof spec === 'object' && spec !== null && 'annotations' in spec ? spec.annotations : undefined;
    return typeof found === 'object' && found !== null ? (found as Record<string, string>) : {};
  } catch (reason) {
    if (reason instanceof SyntaxError) {
      throw new KataError('InvalidArgument', `read bundle ${file}: not valid JSON: ${reason.message.slice(0, 200)}`, { hint: 'was the file written whole?' });
    }
    throw KataError.from(reason, `read bundle ${file}`, { hint: 'the shim must be called with the bundle as working directory' });
  }
}

/** The two facts that BootstrapParams (containerd 2.3 and later) give; undefined if standard input held none. */
async function startInput(id: string, namespace: string): Promise<{ readonly socketDir: string; readonly ttrpcAddress: string } | undefined> {
  const bytes = await readStdin();
  if (bytes.length === 0) {
    return undefined;
  }
  // eslint-disable-next-line @typescript-eslint/no-require-imports
  const { parseStartInput } = require('./bootstrap') as typeof import('./bootstrap');
  const input = parseStartInput(bytes, id, namespace);
  if (input.kind !== 'bootstrap') {
    return undefined;
  }
  const { socketDir, containerdTtrpcAddress } = input.params;
  return {
    socketDir: socketDir !== undefined && isAbsolute(socketDir) ? socketDir : DEFAULT_SOCKET_DIR,
    ttrpcAddress: containerdTtrpcAddress !== '' ? containerdTtrpcAddress : (process.env['TTRPC_ADDRESS'] ?? ''),
  };
}

/** The plain address is understood by every host; version 3 only by those that say so (containerd-contract 1.6). */
function replyFor(path: string, knowsVersion3: boolean): string {
  return knowsVersion3 ? JSON.stringify({ version: 3, address: `unix://${path}`, protocol: 'ttrpc' }) : `unix://${path}`;
}

async function waitForPod(path: string, sandboxId: string): Promise<void> {
  const deadline = Date.now() + POD_WAIT_MS;
  while (!(await isListening(path))) {
    if (Date.now() >= deadline) {
      throw new KataError('NotFound', `start: no shim of sandbox "${sandboxId}" listens at ${path}`, {
        hint: 'the pod has ended or its shim died: the pod must be made anew',
      });
    }
    await new Promise((resolve) => setTimeout(resolve, POD_POLL_MS));
  }
}

/** As all shims do: the kernel shall kill a shim before containerd. Children inherit it. */
function raiseOomScore(): void {
  try {
    const score = Number(readFileSync('/proc/self/oom_score_adj', 'utf8'));
    writeFileSync('/proc/self/oom_score_adj', String(Math.min(score + 1, 1000)));
  } catch {
    // Not allowed here: nothing depends on it.
  }
}

/** Whole or not at all for a reader. Not synced: bundles live in memory and are worthless after a reboot. */
function writeBeside(path: string, text: string): void {
  const temporary = `${path}.${String(process.pid)}`;
  try {
    writeFileSync(temporary, text, { mode: 0o644 });
    renameSync(temporary, path);
  } catch (reason) {
    rmSync(temporary, { force: true });
    throw KataError.from(reason, `start: write ${path}`);
  }
}

/** Writes the reply and lets go of every descriptor that the caller waits on. */
function answer(args: ShimArgs, reply: string): void {
  writeSync(args.replyFd ?? 1, reply);
  releaseDescriptors(args);
}

/** Puts /dev/null in the place of standard input, output and error; closes the reply's descriptor. */
export function releaseDescriptors(args: ShimArgs): void {
  if (args.replyFd !== undefined) {
    closeSync(args.replyFd);
  }
  for (const fd of [0, 1, 2]) {
    closeSync(fd);
    // The lowest free number is the one just closed.
    openSync('/dev/null', fd === 0 ? 'r' : 'w');
  }
}
