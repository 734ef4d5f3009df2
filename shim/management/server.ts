/** shim-monitor: HTTP on a unix socket, for kata-runtime and kata-monitor. */
import { chmodSync, mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import { dirname, join } from 'node:path';
import { withTimeout } from '../../base/deadline';
import { describeError, KataError } from '../../base/errors';
import type { Logger } from '../../base/log';
import { procFigures } from '../../virtcontainers/metrics/proc';
import type { Sandbox } from '../../virtcontainers/sandbox/types';
import type { ShimFigures } from './figures';
import { renderMetrics } from './metrics';

export interface ManagementOptions {
  readonly sandbox: Sandbox;
  /** The sandbox's bundle: `monitor_address` is written there. */
  readonly bundle: string;
  readonly figures: ShimFigures;
  readonly logger: Logger;
  /** Where sandboxes keep their state. */
  readonly stateRoot?: string;
}

const MAX_BODY_BYTES = 4 * 1024 * 1024;
const AGENT_TIMEOUT_MS = 5_000;

type Answer = { readonly status: number; readonly body: string };
type Endpoint = (options: ManagementOptions) => Promise<Answer>;

const ENDPOINTS: Readonly<Record<string, Readonly<Record<string, Endpoint>>>> = {
  '/metrics': { GET: metrics },
  '/agent-url': { GET: async ({ sandbox }) => Promise.resolve({ status: 200, body: sandbox.agent.url }) },
};

/** Starts to listen at `<state>/<id>/shim-monitor.sock`; a failure is only logged. Returns what ends it. */
export function startManagement(options: ManagementOptions): () => void {
  const { sandbox, bundle, logger, stateRoot = '/run/vc/sbs' } = options;
  const path = join(stateRoot, sandbox.id, 'shim-monitor.sock');
  const server = createServer((request, response) => {
    void respond(request, response, options);
  });
  server.on('error', (error) => {
    logger.warn('shim-monitor does not listen', { path, error: error.message });
  });
  try {
    mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
    rmSync(path, { force: true });
    const mask = process.umask(0o177);
    try {
      server.listen(path);
    } finally {
      process.umask(mask);
    }
    chmodSync(path, 0o600);
    writeFileSync(join(bundle, 'monitor_address'), `unix://${path}`);
  } catch (reason) {
    logger.warn('shim-monitor does not listen', { path, error: describeError(reason) });
  }
  return () => {
    server.close();
    server.closeAllConnections();
  };
}

async function respond(request: IncomingMessage, response: ServerResponse, options: ManagementOptions): Promise<void> {
  let answer: Answer;
  try {
    answer = await answerOf(request, options);
  } catch (reason) {
    answer = { status: 500, body: describeError(reason) };
  }
  if (!response.destroyed) {
    const type = answer.body === '' ? {} : { 'Content-Type': 'text/plain; charset=utf-8' };
    response.writeHead(answer.status, { ...type, 'Content-Length': Buffer.byteLength(answer.body) });
    response.end(answer.body);
  }
}

async function answerOf(request: IncomingMessage, options: ManagementOptions): Promise<Answer> {
  const path = (request.url ?? '/').split('?', 1)[0] ?? '/';
  const methods = Object.hasOwn(ENDPOINTS, path) ? ENDPOINTS[path] : undefined;
  if (methods === undefined) {
    return { status: 404, body: '404 page not found\n' };
  }
  const method = request.method === 'HEAD' ? 'GET' : (request.method ?? 'GET');
  const endpoint = Object.hasOwn(methods, method) ? methods[method] : undefined;
  if (endpoint === undefined) {
    return { status: 405, body: `method ${method} not allowed\n` };
  }
  if (Number(request.headers['content-length'] ?? 0) > MAX_BODY_BYTES) {
    return { status: 413, body: `more than ${String(MAX_BODY_BYTES)} bytes\n` };
  }
  request.resume();
  return endpoint(options);
}

async function metrics({ sandbox, figures, logger }: ManagementOptions): Promise<Answer> {
  let agentText: string | undefined;
  try {
    agentText = await withTimeout(sandbox.agent.getMetrics(), AGENT_TIMEOUT_MS, () => new KataError('DeadlineExceeded', 'the agent gave no metrics in time'));
  } catch (reason) {
    logger.debug('no metrics of the agent', { error: describeError(reason) });
  }
  const shim = procFigures(process.pid, false);
  const hypervisor = procFigures(sandbox.pid, true);
  return { status: 200, body: renderMetrics({ sandbox, figures, shim, hypervisor, agentText }) };
}
