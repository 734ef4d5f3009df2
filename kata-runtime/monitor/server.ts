/** kata-monitor: one HTTP endpoint for all sandboxes of the node. */
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { gzipSync } from 'node:zlib';
import { describeError, KataError } from '../../base/errors';
import { checkId } from '../../base/ids';
import type { Logger } from '../../base/log';
import { formatFamily, type Family } from '../../virtcontainers/metrics/prometheus-text';
import type { CliHost } from '../host';
import { askSandbox } from '../sandboxes';
import { askMonitor, askMonitorOk, type MonitorReply } from '../shim-monitor';
import { aggregate, labelled } from './aggregate';
import type { PodLabels } from './cri';
import type { Discovery } from './discovery';
import type { OwnMetrics } from './own-metrics';
import { escapeHtml, renderPage, type PageRow } from './page';

const SCRAPE_TIMEOUT_MS = 3_000;
/** A CPU profile takes as long as it is asked to. */
const DEBUG_TIMEOUT_MS = 90_000;
/** A client that sends slowly, or nothing, holds a connection no longer than this. */
const HEADERS_TIMEOUT_MS = 10_000;
const REQUEST_TIMEOUT_MS = 30_000;
const MAX_CONNECTIONS = 256;
const PROMETHEUS = 'text/plain; version=0.0.4; charset=utf-8';
const PLAIN = 'text/plain; charset=utf-8';
const HTML = 'text/html; charset=utf-8';

export interface MonitorParts {
  readonly host: CliHost;
  readonly discovery: Discovery;
  readonly own: OwnMetrics;
  readonly logger: Logger;
}

interface Answer {
  readonly status: number;
  readonly type: string;
  readonly body: string | Buffer;
}

const ok = (type: string, body: string | Buffer): Answer => ({ status: 200, type, body });
const bad = (status: number, text: string): Answer => ({ status, type: PLAIN, body: `${text}\n` });

/** The families of one sandbox; empty if its shim does not answer, which is counted. */
async function scrapeOne(parts: MonitorParts, id: string, pod: PodLabels | undefined): Promise<Family[]> {
  try {
    const reply = await askMonitorOk(parts.host.roots.monitor, id, { method: 'GET', path: '/metrics', timeoutMs: SCRAPE_TIMEOUT_MS });
    return labelled(reply.body.toString('utf8'), id, pod);
  } catch (reason) {
    parts.own.failed.inc();
    parts.logger.warn('a sandbox gives no metrics', { sandbox: id, error: describeError(reason) });
    return [];
  }
}

async function allMetrics(parts: MonitorParts, filters: readonly string[]): Promise<Answer> {
  const started = performance.now();
  parts.own.scrapes.inc();
  const { sandboxes } = parts.discovery;
  parts.own.running.set(sandboxes.length);
  const families = aggregate(await Promise.all(sandboxes.map(([id, pod]) => scrapeOne(parts, id, pod))), filters);
  parts.own.durations.observe(performance.now() - started);
  const ownText = filters.length > 0 ? '' : await parts.own.text();
  return ok(PROMETHEUS, `${ownText === '' || ownText.endsWith('\n') ? ownText : `${ownText}\n`}${families.map(formatFamily).join('')}`);
}

async function metrics(parts: MonitorParts, query: URLSearchParams): Promise<Answer> {
  const sandbox = query.get('sandbox');
  if (sandbox === null || sandbox === '') {
    return allMetrics(parts, (query.get('filter_family') ?? '').split(',').filter((prefix) => prefix !== ''));
  }
  try {
    const reply = await askMonitorOk(parts.host.roots.monitor, checkId(sandbox, 'sandbox'), { method: 'GET', path: '/metrics', timeoutMs: SCRAPE_TIMEOUT_MS });
    return ok(PROMETHEUS, reply.body);
  } catch (reason) {
    return bad(reason instanceof KataError && reason.code === 'InvalidArgument' ? 400 : 500, describeError(reason));
  }
}

async function agentUrl(parts: MonitorParts, query: URLSearchParams): Promise<Answer> {
  try {
    const id = checkId(query.get('sandbox') ?? '', 'sandbox');
    const reply = await askMonitorOk(parts.host.roots.monitor, id, { method: 'GET', path: '/agent-url', timeoutMs: SCRAPE_TIMEOUT_MS });
    return ok(PLAIN, `${reply.body.toString('utf8')}\n`);
  } catch (reason) {
    return bad(400, describeError(reason));
  }
}

function sandboxList(parts: MonitorParts, html: boolean): Answer {
  const ids = parts.discovery.sandboxes.map(([id]) => id);
  if (!html) {
    return ok(PLAIN, ids.map((id) => `${id}\n`).join(''));
  }
  const items = ids.map((id) => {
    const query = `sandbox=${encodeURIComponent(id)}`;
    return `<li>${escapeHtml(id)}: <a href="/debug/pprof/?${query}">pprof</a>, <a href="/metrics?${query}">metrics</a>, <a href="/agent-url?${query}">agent-url</a></li>`;
  });
  return ok(HTML, `<!DOCTYPE html><title>sandboxes</title><h1>Sandbox list</h1><ul>${items.join('')}</ul>\n`);
}

async function page(parts: MonitorParts, html: boolean): Promise<Answer> {
  if (!html) {
    return ok(PLAIN, 'Available HTTP endpoints:\n/metrics : Get metrics from sandboxes.\n/sandboxes : List all Kata Containers sandboxes.\n/agent-url : Get sandbox agent URL.\n/debug/vars : Internal variables of the shim.\n/debug/pprof/ : Profiles of the shim.\n');
  }
  // The page is read often: it asks shims only, never a guest.
  const rows = await Promise.all(parts.discovery.sandboxes.map(async ([id, pod]): Promise<PageRow> => ({ id, pod, live: await askSandbox(parts.host, id) })));
  return ok(HTML, renderPage(parts.host.hostname, rows, parts.host.now()));
}

/** /debug/* of one shim, passed on as it is. */
async function debug(parts: MonitorParts, path: string, query: URLSearchParams): Promise<Answer> {
  const sandbox = query.get('sandbox') ?? '';
  if (sandbox === '') {
    return bad(400, 'sandbox may be stopped or deleted');
  }
  query.delete('sandbox');
  const target = `${path}${query.size > 0 ? `?${query.toString()}` : ''}`;
  let reply: MonitorReply;
  try {
    reply = await askMonitor(parts.host.roots.monitor, checkId(sandbox, 'sandbox'), { method: 'GET', path: target, timeoutMs: DEBUG_TIMEOUT_MS });
  } catch (reason) {
    return bad(reason instanceof KataError && reason.code === 'InvalidArgument' ? 400 : 500, `failed to request ${path}: ${describeError(reason)}`);
  }
  return { status: reply.status, type: reply.contentType === '' ? PLAIN : reply.contentType, body: reply.body };
}

async function answerOf(parts: MonitorParts, request: IncomingMessage): Promise<Answer> {
  if (request.method !== 'GET' && request.method !== 'HEAD') {
    return bad(405, `method ${request.method ?? ''} not allowed`);
  }
  const [path = '/', text = ''] = (request.url ?? '/').split('?', 2);
  const query = new URLSearchParams(text);
  const html = (request.headers.accept ?? '').split(',').some((token) => token.trim() === 'text/html');
  switch (path) {
    case '/metrics':
      return metrics(parts, query);
    case '/sandboxes':
      return sandboxList(parts, html);
    case '/agent-url':
      return agentUrl(parts, query);
    case '/':
      return page(parts, html);
    default:
      return path === '/debug/vars' || path.startsWith('/debug/pprof/') ? debug(parts, path, query) : bad(404, '404 page not found');
  }
}

async function respond(parts: MonitorParts, request: IncomingMessage, response: ServerResponse): Promise<void> {
  // A body is read and dropped: hanging up on one who sends would take the answer from him.
  request.resume();
  let answer: Answer;
  try {
    answer = await answerOf(parts, request);
  } catch (reason) {
    answer = bad(500, describeError(reason));
  }
  const zip = answer.type === PROMETHEUS && /\bgzip\b/.test(request.headers['accept-encoding']?.toString() ?? '');
  const body = zip ? gzipSync(answer.body) : Buffer.from(answer.body);
  response.writeHead(answer.status, {
    'Content-Type': answer.type,
    'Content-Length': body.length,
    'X-Content-Type-Options': 'nosniff',
    ...(answer.type === HTML ? { 'Content-Security-Policy': "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'" } : {}),
    ...(zip ? { 'Content-Encoding': 'gzip', Vary: 'Accept-Encoding' } : {}),
  });
  response.end(request.method === 'HEAD' ? undefined : body);
}

/** A server that does not listen yet; the caller closes it. */
export function monitorServer(parts: MonitorParts): Server {
  const server = createServer((request, response) => {
    void respond(parts, request, response);
  });
  server.headersTimeout = HEADERS_TIMEOUT_MS;
  server.requestTimeout = REQUEST_TIMEOUT_MS;
  server.maxConnections = MAX_CONNECTIONS;
  return server;
}
