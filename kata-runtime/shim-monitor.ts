/** Client of a sandbox's shim-monitor: HTTP over the unix socket in its state folder. Every wait and every body is bounded. */
import { closeSync, openSync, statSync } from 'node:fs';
import { request as httpRequest, type IncomingMessage } from 'node:http';
import { dirname, join } from 'node:path';
import { errnoOf, KataError, type ErrorCode } from '../base/errors';
import { checkId } from '../base/ids';

const SOCKET = 'shim-monitor.sock';
const MAX_REPLY_BYTES = 64 * 1024 * 1024;
/** A guest under TCG needs longer than upstream's 3 s to answer for a scrape or for iptables. */
const READ_TIMEOUT_MS = 10_000;
const WRITE_TIMEOUT_MS = 60_000;
/** Longest path of a unix socket address. */
const MAX_SOCKET_PATH_BYTES = 107;

export interface MonitorRequest {
  readonly method: 'GET' | 'PUT' | 'POST';
  /** With the query. */
  readonly path: string;
  readonly body?: Uint8Array | string;
  readonly contentType?: string;
  readonly timeoutMs?: number;
}

export interface MonitorReply {
  readonly status: number;
  readonly contentType: string;
  readonly body: Buffer;
}

/** An id that the user gave, before it becomes part of a path. */
export function checkSandboxId(id: string): string {
  if (id === '') {
    throw new KataError('InvalidArgument', 'ID cannot be blank', { hint: 'kata-runtime ps lists the sandboxes of this machine' });
  }
  return checkId(id, 'container/sandbox');
}

/** PermissionDenied where only root may look: that is not the same as no sandbox. */
function isThere(path: string, sandboxId: string): boolean {
  try {
    return statSync(path, { throwIfNoEntry: false }) !== undefined;
  } catch (reason) {
    if (['EACCES', 'EPERM'].includes(errnoOf(reason) ?? '')) {
      throw KataError.from(reason, `find sandbox "${sandboxId}": ${path} may not be looked at`, { hint: 'run as root' });
    }
    return false;
  }
}

/** The socket of a sandbox; NotFound names the places that were looked at. */
export function monitorSocket(roots: readonly string[], sandboxId: string): string {
  checkSandboxId(sandboxId);
  const candidates = roots.map((root) => join(root, sandboxId, SOCKET));
  const found = candidates.find((path) => isThere(path, sandboxId));
  if (found === undefined) {
    throw new KataError('NotFound', `find sandbox "${sandboxId}": no shim-monitor at ${candidates.join(' or ')}`, {
      hint: 'kata-runtime ps lists the sandboxes of this machine',
    });
  }
  return found;
}

/** One exchange, whatever the status. Unavailable where nobody serves, DeadlineExceeded where the shim hangs. */
export async function askMonitor(roots: readonly string[], sandboxId: string, request: MonitorRequest): Promise<MonitorReply> {
  const path = monitorSocket(roots, sandboxId);
  // A long id makes a path that no socket address holds: then through a descriptor of the folder.
  const folder = Buffer.byteLength(path) > MAX_SOCKET_PATH_BYTES ? openSync(dirname(path), 'r') : undefined;
  try {
    return await exchange(folder === undefined ? path : `/proc/self/fd/${String(folder)}/${SOCKET}`, sandboxId, request);
  } catch (reason) {
    throw reason instanceof KataError ? reason : explain(reason, sandboxId, path);
  } finally {
    if (folder !== undefined) {
      closeSync(folder);
    }
  }
}

function explain(reason: unknown, sandboxId: string, path: string): KataError {
  const errno = errnoOf(reason);
  if (errno === 'ECONNREFUSED' || errno === 'ENOENT') {
    return KataError.from(reason, `ask the shim of sandbox "${sandboxId}": nobody serves ${path}`, {
      hint: 'its shim has ended; kata-runtime gc removes what it left',
    });
  }
  if (errno === 'EACCES' || errno === 'EPERM') {
    return KataError.from(reason, `ask the shim of sandbox "${sandboxId}": ${path} may not be opened`, { hint: 'run as root' });
  }
  return KataError.from(reason, `ask the shim of sandbox "${sandboxId}"`);
}

async function exchange(socketPath: string, sandboxId: string, request: MonitorRequest): Promise<MonitorReply> {
  const timeoutMs = request.timeoutMs ?? (request.method === 'GET' ? READ_TIMEOUT_MS : WRITE_TIMEOUT_MS);
  const body = request.body === undefined ? undefined : Buffer.from(request.body);
  return new Promise((resolve, reject) => {
    const headers = body === undefined ? {} : { 'content-type': request.contentType ?? 'application/octet-stream', 'content-length': body.length };
    const client = httpRequest({ socketPath, method: request.method, path: request.path, agent: false, headers: { host: 'shim', connection: 'close', ...headers } });
    const timer = setTimeout(() => {
      client.destroy(
        new KataError('DeadlineExceeded', `ask the shim of sandbox "${sandboxId}": no answer to ${request.method} ${request.path} within ${String(timeoutMs)} ms`, {
          hint: 'its shim or its guest hangs; containerd\'s log tells more',
        }),
      );
    }, timeoutMs);
    const fail = (reason: Error): void => {
      clearTimeout(timer);
      reject(reason);
    };
    client.on('error', fail);
    client.on('response', (response) => {
      collect(response).then(
        (bytes) => {
          clearTimeout(timer);
          resolve({ status: response.statusCode ?? 0, contentType: response.headers['content-type'] ?? '', body: bytes });
        },
        (reason: unknown) => {
          // `destroy` with a reason of ours ends the response with a plain reset: the reason is what counts.
          fail(client.errored instanceof KataError ? client.errored : reason instanceof Error ? reason : new KataError('Unknown', String(reason)));
          client.destroy();
        },
      );
    });
    client.end(body);
  });
}

async function collect(response: IncomingMessage): Promise<Buffer> {
  const parts: Buffer[] = [];
  let length = 0;
  for await (const chunk of response) {
    const bytes = chunk as Buffer;
    length += bytes.length;
    if (length > MAX_REPLY_BYTES) {
      throw new KataError('ResourceExhausted', `the shim's answer is larger than ${String(MAX_REPLY_BYTES)} bytes`);
    }
    parts.push(bytes);
  }
  return Buffer.concat(parts);
}

const CODE_OF_STATUS: Readonly<Record<number, ErrorCode>> = {
  400: 'InvalidArgument',
  404: 'NotFound',
  405: 'Unimplemented',
  409: 'FailedPrecondition',
  413: 'ResourceExhausted',
  501: 'Unimplemented',
  503: 'Unavailable',
  504: 'DeadlineExceeded',
};

/** As `askMonitor`, and anything but 200 is an error with what the shim said. */
export async function askMonitorOk(roots: readonly string[], sandboxId: string, request: MonitorRequest): Promise<MonitorReply> {
  const reply = await askMonitor(roots, sandboxId, request);
  if (reply.status === 200) {
    return reply;
  }
  const said = reply.body.toString('utf8').trim().slice(0, 4096);
  const what = `${request.method} ${request.path.split('?')[0] ?? ''}`;
  throw new KataError(
    CODE_OF_STATUS[reply.status] ?? 'Unknown',
    `ask the shim of sandbox "${sandboxId}": ${what} was answered ${String(reply.status)}${said === '' ? '' : `: ${said}`}`,
    reply.status === 404 && said === '404 page not found' ? { hint: 'its shim is of another version and has no such endpoint' } : {},
  );
}
