import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs';
import { request } from 'node:http';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { KataError } from '../../base/errors';
import { Logger } from '../../base/log';
import type { RuntimeConfig } from '../../virtcontainers/config/types';
import type { ProcessIo } from '../../virtcontainers/process/types';
import { FakeGuest, FakeSandbox } from '../testing/fake-guest';
import { ShimFigures } from './figures';
import { startManagement } from './server';

const io: ProcessIo = { open: async () => undefined, copy: async () => undefined, closeStdin: () => undefined, close: () => undefined };
let folder: string;
let stop: () => void;
let sandbox: FakeSandbox;

before(() => {
  folder = mkdtempSync(join(tmpdir(), 'kata-ts-monitor-'));
  const container = { id: 'box', bundle: folder, spec: {}, rootfs: [], terminal: false, io };
  sandbox = new FakeSandbox({ id: 'box', namespace: 'n', container, config: { hypervisor: { sharedFs: 'virtio-9p' }, runtime: { enablePprof: false }, factory: { enableTemplate: false, vmCacheNumber: 0 } } as RuntimeConfig, logger: Logger.none(), observer: {}, signal: new AbortController().signal }, new FakeGuest());
  const figures = new ShimFigures();
  figures.rpc('closeIO', 3);
  figures.rpc('resizePty', 1_000);
  const observer = figures.observer();
  observer.onAgentCall?.('CreateContainerRequest', 5, true);
  observer.onPhase?.({ name: 'vm-boot', startMs: 0, durationMs: 12 });
  stop = startManagement({ sandbox, bundle: folder, figures, logger: Logger.none(), stateRoot: folder });
});

after(() => {
  stop();
  rmSync(folder, { recursive: true, force: true });
});

async function ask(path: string, method = 'GET'): Promise<{ status: number; body: string }> {
  return new Promise((resolve, reject) => {
    const asked = request({ socketPath: join(folder, 'box/shim-monitor.sock'), path, method, headers: { Host: 'shim' } }, (response) => {
      let body = '';
      response.setEncoding('utf8').on('data', (text: string) => (body += text));
      response.on('end', () => {
        resolve({ status: response.statusCode ?? 0, body });
      });
    });
    asked.on('error', reject).end();
  });
}

test('the socket is private and its address is in the bundle', () => {
  const path = join(folder, 'box/shim-monitor.sock');
  assert.equal(readFileSync(join(folder, 'monitor_address'), 'utf8'), `unix://${path}`);
  assert.equal(statSync(path).mode & 0o777, 0o600);
});

test('metrics hold our families, the agent\'s, and only lines that are metrics', async () => {
  const { status, body } = await ask('/metrics');
  assert.equal(status, 200, body);
  for (const line of [
    '# TYPE kata_shim_rpc_durations_histogram_milliseconds histogram',
    'kata_shim_rpc_durations_histogram_milliseconds_bucket{action="close_io",le="2"} 0',
    'kata_shim_rpc_durations_histogram_milliseconds_bucket{action="close_io",le="4"} 1',
    'kata_shim_rpc_durations_histogram_milliseconds_bucket{action="resize_pty",le="512"} 0',
    'kata_shim_rpc_durations_histogram_milliseconds_bucket{action="resize_pty",le="+Inf"} 1',
    'kata_shim_agent_rpc_durations_histogram_milliseconds_count{action="grpc.CreateContainerRequest"} 1',
    'kata_shim_phase_milliseconds{phase="vm-boot"} 12',
    'kata_shim_vm_source{source="direct"} 1',
    'kata_agent_go_threads 23',
    'kata_guest_load{item="load1"} 1',
  ]) {
    assert.ok(body.split('\n').includes(line), `missing: ${line}\n${body}`);
  }
  assert.match(body, /^kata_shim_threads \d+$/m);
  assert.match(body, /^kata_shim_proc_status\{item="vmrss"\} \d+$/m);
});

test('a sandbox that a factory should have served says why it did not', async () => {
  assert.doesNotMatch((await ask('/metrics')).body, /kata_shim_vm_fallback/);
  sandbox.vmFallback = 'config-mismatch';
  assert.match((await ask('/metrics')).body, /^kata_shim_vm_fallback\{reason="config-mismatch"\} 1$/m);
  assert.equal((JSON.parse((await ask('/sandbox')).body) as { vmFallback?: string }).vmFallback, 'config-mismatch');
  sandbox.vmFallback = undefined;
});

test('an agent that does not answer leaves our own metrics', async () => {
  const good = sandbox.agent.getMetrics.bind(sandbox.agent);
  sandbox.agent.getMetrics = async () => Promise.reject(new KataError('Unavailable', 'gone'));
  const { status, body } = await ask('/metrics');
  sandbox.agent.getMetrics = good;
  assert.equal(status, 200);
  assert.doesNotMatch(body, /kata_guest_load/);
});

test('agent-url, unknown paths and wrong methods', async () => {
  assert.deepEqual(await ask('/agent-url'), { status: 200, body: 'unix:///fake' });
  assert.deepEqual(await ask('/nope'), { status: 404, body: '404 page not found\n' });
  assert.equal((await ask('/constructor')).status, 404);
  assert.equal((await ask('/metrics', 'POST')).status, 405);
});

/** What a client reads that sends `head`, then zeros for `sendMs` or until there are `most` bytes of them. */
async function send(head: string, sendMs: number, most = Infinity): Promise<{ text: string; sent: number; failure?: string }> {
  const socket = connect(join(folder, 'box/shim-monitor.sock'));
  let text = '';
  let sent = 0;
  let failure: string | undefined;
  const ended = new Promise((resolve) => socket.once('close', resolve));
  socket.on('data', (part: Buffer) => { text += part.toString(); });
  socket.on('error', (error: NodeJS.ErrnoException) => { failure = error.code; });
  socket.write(`${head}\r\nHost: shim\r\n\r\n`);
  const end = performance.now() + sendMs;
  while (performance.now() < end && sent < most && !socket.destroyed) {
    sent += 65536;
    if (!socket.write(Buffer.alloc(65536))) {
      await new Promise((resolve) => { socket.once('drain', resolve).once('close', resolve); });
    }
  }
  while (!/^HTTP\/1\.1 [2-5]/m.test(text) && !socket.destroyed) {
    await new Promise((resolve) => { socket.once('data', resolve).once('close', resolve); });
  }
  socket.end();
  await ended;
  return { text, sent, ...(failure === undefined ? {} : { failure }) };
}

test('a client that goes on sending a body that is too large still reads the answer', async () => {
  for (const head of ['PUT /iptables HTTP/1.1\r\nContent-Length: 1000000000', 'PUT /policy HTTP/1.1\r\nContent-Length: 1000000000']) {
    const { text, sent, failure } = await send(head, 200);
    assert.match(text, /^HTTP\/1\.1 413 /);
    assert.ok(sent > 1024 * 1024, 'it could write on');
    assert.equal(failure, undefined);
  }
});

test('a client that sends for ever is cut off', async () => {
  const { failure } = await send('PUT /iptables HTTP/1.1\r\nContent-Length: 1000000000', 30_000);
  assert.match(String(failure), /EPIPE|ECONNRESET/);
});

test('a client that asks before it sends a body is told at once that it is too large, or to go on', async () => {
  const large = await send('PUT /iptables HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 1000000000', 0);
  assert.match(large.text, /^HTTP\/1\.1 413 /);
  const wrong = await send('PUT /metrics HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 10', 0);
  assert.match(wrong.text, /^HTTP\/1\.1 405 /);
  const good = await send('GET /agent-url HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 65536', 1000, 65536);
  assert.match(good.text, /^HTTP\/1\.1 100 Continue\r\n\r\nHTTP\/1\.1 200 /);
});
