/** shim-monitor: HTTP on a unix socket, for kata-runtime and kata-monitor. */
import { chmodSync, closeSync, mkdirSync, openSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import { dirname, join } from 'node:path';
import { describeError } from '../../base/errors';
import { errorAnswer, readBody, type Answer, type Endpoint, type ManagementOptions, type Route } from './answer';
import { debugEndpoint } from './debug';
import { agentUrl, getIptables, setIptables, setPolicy } from './guest-endpoints';
import { sandboxInfo } from './sandbox-info';
import { scrape } from './scrape';
import { volumeResize, volumeStats } from './volumes';

export type { ManagementOptions } from './answer';

/** A client that sends slowly, or nothing, holds a connection no longer than this. */
const REQUEST_TIMEOUT_MS = 30_000;
const HEADERS_TIMEOUT_MS = 10_000;
const MAX_CONNECTIONS = 64;
/** So long the rest of a body that is not wanted is read: a client that still writes would find its end closed, not the answer. */
const LINGER_MS = 1_000;
/** Longest path of a unix socket address. */
const MAX_SOCKET_PATH_BYTES = 107;

const ROUTES: Readonly<Record<string, Route>> = {
  '/metrics': { methods: { GET: scrape }, otherwise: 405 },
  '/agent-url': { methods: { GET: agentUrl }, otherwise: 405 },
  '/sandbox': { methods: { GET: sandboxInfo }, otherwise: 405 },
  '/iptables': { methods: { GET: getIptables(false), PUT: setIptables(false) }, otherwise: 501 },
  '/ip6tables': { methods: { GET: getIptables(true), PUT: setIptables(true) }, otherwise: 501 },
  '/direct-volume/stats': { methods: { GET: volumeStats }, otherwise: 405 },
  '/direct-volume/resize': { methods: { POST: volumeResize }, otherwise: 405 },
  '/policy': { methods: { PUT: setPolicy }, otherwise: 501 },
};

/** Starts to listen at `<state>/<id>/shim-monitor.sock`; a failure is only logged. Returns what ends it. */
export function startManagement(options: ManagementOptions): () => void {
  const { sandbox, bundle, logger, stateRoot = '/run/vc/sbs' } = options;
  const path = join(stateRoot, sandbox.id, 'shim-monitor.sock');
  const server = createServer((request, response) => {
    void respond(request, response, options);
  });
  server.on('checkContinue', (request: IncomingMessage, response: ServerResponse) => {
    void respond(request, response, options, () => {
      response.writeContinue();
    });
  });
  server.requestTimeout = REQUEST_TIMEOUT_MS;
  server.headersTimeout = HEADERS_TIMEOUT_MS;
  server.maxConnections = MAX_CONNECTIONS;
  server.on('error', (error) => {
    logger.warn('shim-monitor does not listen', { path, error: error.message });
  });
  try {
    mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
    rmSync(path, { force: true });
    const mask = process.umask(0o177);
    try {
      listenAt(path, (address) => {
        server.listen(address);
      });
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

/** A path that is too long for a socket address is reached through a descriptor of its folder. */
function listenAt(path: string, listen: (address: string) => void): void {
  if (Buffer.byteLength(path) <= MAX_SOCKET_PATH_BYTES) {
    listen(path);
    return;
  }
  const folder = openSync(dirname(path), 'r');
  try {
    listen(`/proc/self/fd/${String(folder)}/shim-monitor.sock`);
  } finally {
    closeSync(folder);
  }
}

/** `goAhead`: for a client that sends its body only when it is told to. One that was not told is done with the answer. */
async function respond(request: IncomingMessage, response: ServerResponse, options: ManagementOptions, goAhead?: () => void): Promise<void> {
  let answer: Answer;
  let waits = goAhead !== undefined;
  try {
    answer = await answerOf(request, options, () => {
      waits = false;
      goAhead?.();
    });
  } catch (reason) {
    answer = errorAnswer(reason);
  }
  if (response.destroyed) {
    return;
  }
  const body = typeof answer.body === 'string' ? Buffer.from(answer.body) : answer.body;
  const type = body.length === 0 ? {} : { 'Content-Type': answer.type ?? 'text/plain; charset=utf-8' };
  const close = waits ? { Connection: 'close' } : {};
  response.writeHead(answer.status, { ...type, ...answer.headers, ...close, 'Content-Length': body.length });
  response.end(request.method === 'HEAD' ? undefined : body, () => {
    if (!request.complete) {
      // Node.js reads and drops the rest until then.
      const cut = setTimeout(() => request.destroy(), LINGER_MS);
      cut.unref();
      request.once('close', () => {
        clearTimeout(cut);
      });
    }
  });
}

function endpointOf(path: string, method: string, options: ManagementOptions): Endpoint | Answer {
  if (path.startsWith('/debug/') && options.sandbox.config.runtime.enablePprof) {
    return debugEndpoint(path) ?? { status: 404, body: '404 page not found\n' };
  }
  const route = Object.hasOwn(ROUTES, path) ? ROUTES[path] : undefined;
  if (route === undefined) {
    return { status: 404, body: '404 page not found\n' };
  }
  const endpoint = Object.hasOwn(route.methods, method) ? route.methods[method] : undefined;
  if (endpoint !== undefined) {
    return endpoint;
  }
  const headers = { Allow: Object.keys(route.methods).join(', ') };
  return route.otherwise === 501 ? { status: 501, body: '', headers } : { status: route.otherwise, body: `method ${method} not allowed\n`, headers };
}

async function answerOf(request: IncomingMessage, options: ManagementOptions, goAhead: () => void): Promise<Answer> {
  const [path = '/', query = ''] = (request.url ?? '/').split('?', 2);
  const method = request.method === 'HEAD' ? 'GET' : (request.method ?? 'GET');
  const endpoint = endpointOf(path, method, options);
  if (typeof endpoint !== 'function') {
    return endpoint;
  }
  const body = await readBody(request, goAhead);
  return endpoint({ options, query: new URLSearchParams(query), body });
}
