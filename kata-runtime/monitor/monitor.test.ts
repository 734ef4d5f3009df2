import assert from 'node:assert/strict';
import { mkdirSync, rmSync } from 'node:fs';
import { createServer as createHttp2 } from 'node:http2';
import type { AddressInfo } from 'node:net';
import { gunzipSync } from 'node:zlib';
import { request } from 'node:http';
import { test } from 'node:test';
import { BinaryWriter } from '@bufbuild/protobuf/wire';
import { isCode } from '../../base/errors';
import { Logger } from '../../base/log';
import { parseMetrics } from '../../virtcontainers/metrics/prometheus-text';
import { liveSandbox } from '../sandboxes';
import { withHost, type FakeHost } from '../testing/fake-host';
import { aggregate, labelled } from './aggregate';
import { parseEndpoint, parseListenAddress } from './command';
import { decodeSandboxes, listPodSandboxes, type PodLabels } from './cri';
import { Discovery } from './discovery';
import { OwnMetrics } from './own-metrics';
import { escapeHtml, renderPage } from './page';
import { monitorServer } from './server';

const POD: PodLabels = { uid: 'u1', name: 'web', namespace: 'prod' };

function podList(entries: readonly (readonly [string, PodLabels])[]): Uint8Array {
  const writer = new BinaryWriter();
  for (const [id, pod] of entries) {
    writer.uint32(10).fork();
    writer.uint32(10).string(id);
    writer.uint32(18).fork().uint32(10).string(pod.name).uint32(18).string(pod.uid).uint32(26).string(pod.namespace).uint32(32).uint32(3).join();
    writer.uint32(24).uint32(0).join();
  }
  return writer.finish();
}

async function serveCri(path: string, services: readonly string[], reply: Uint8Array): Promise<() => void> {
  const server = createHttp2();
  server.on('stream', (stream, headers) => {
    const known = services.some((service) => headers[':path'] === `/${service}/ListPodSandbox`);
    stream.respond({ ':status': 200, 'content-type': 'application/grpc', ...(known ? {} : { 'grpc-status': '12', 'grpc-message': 'unknown service' }) }, { waitForTrailers: known, endStream: !known });
    if (known) {
      const frame = Buffer.alloc(5);
      frame.writeUInt32BE(reply.length, 1);
      stream.on('wantTrailers', () => stream.sendTrailers({ 'grpc-status': '0' }));
      stream.end(Buffer.concat([frame, reply]));
    }
    stream.on('error', () => undefined);
  });
  await new Promise<void>((resolve) => server.listen(path, resolve));
  return () => server.close();
}

test('pods are read from the CRI, in its new form or in its old one', () =>
  withHost(async (fake) => {
    for (const services of [['runtime.v1.RuntimeService'], ['runtime.v1alpha2.RuntimeService']]) {
      const path = fake.path(`${services[0]?.split('.')[1] ?? ''}.sock`);
      const stop = await serveCri(path, services, podList([['s1', POD]]));
      assert.deepEqual([...(await listPodSandboxes(path))], [['s1', POD]]);
      stop();
    }
    const path = fake.path('none.sock');
    const stop = await serveCri(path, [], Buffer.alloc(0));
    await assert.rejects(listPodSandboxes(path), (reason) => isCode(reason, 'Unavailable'));
    stop();
    await assert.rejects(listPodSandboxes(fake.path('absent.sock')), (reason) => isCode(reason, 'NotFound'));
  }));

test('an answer of the CRI that is cut off is an error, not a crash', () => {
  const whole = podList([['s1', POD], ['s2', POD]]);
  for (let cut = 1; cut < whole.length; cut++) {
    try {
      decodeSandboxes(whole.subarray(0, cut));
    } catch (reason) {
      assert.ok(isCode(reason, 'DataLoss'), String(cut));
    }
  }
});

test('samples get the labels of sandbox and pod; families of one name become one', () => {
  const text = '# TYPE kata_shim_threads gauge\nkata_shim_threads 5\n# TYPE process_fds gauge\nprocess_fds{sandbox_id="forged"} 1\n# TYPE h histogram\nh_bucket{le="+Inf"} 1\nh_sum 1\nh_count 1\nnot a metric line\n';
  const families = aggregate([labelled(text, 's1', POD), labelled(text, 's2', undefined)], []);
  assert.deepEqual(families.map(({ name, samples }) => [name, samples.length]), [['h', 6], ['kata_shim_process_fds', 2], ['kata_shim_threads', 2]]);
  const [first, second] = families[2]?.samples ?? [];
  assert.deepEqual(first?.labels, [['sandbox_id', 's1'], ['cri_uid', 'u1'], ['cri_name', 'web'], ['cri_namespace', 'prod']]);
  assert.deepEqual(second?.labels, [['sandbox_id', 's2'], ['cri_uid', ''], ['cri_name', ''], ['cri_namespace', '']]);
  assert.ok(!JSON.stringify(families).includes('forged'));
  assert.deepEqual(aggregate([labelled(text, 's1', POD)], ['kata_shim_t', 'h']).map(({ name }) => name), ['h', 'kata_shim_threads']);
});

test('sandboxes are found as they come and go, also when their folder comes late', () =>
  withHost(async (fake) => {
    const discovery = new Discovery([fake.path('late'), fake.path('sbs')], () => Promise.resolve(new Map([['a1', POD]])), Logger.none(), 1);
    discovery.start();
    const ids = (): string[] => discovery.sandboxes.map(([id]) => id);
    const until = async (wanted: string): Promise<void> => {
      for (let tries = 0; tries < 500 && ids().join() !== wanted; tries++) {
        await new Promise((resolve) => setTimeout(resolve, 10));
      }
      assert.equal(ids().join(), wanted);
    };
    try {
      assert.deepEqual(ids(), []);
      mkdirSync(fake.path('late'));
      discovery.scan();
      mkdirSync(fake.path('late/a1'));
      await until('a1');
      for (let tries = 0; tries < 500 && discovery.sandboxes[0]?.[1] === undefined; tries++) {
        await new Promise((resolve) => setTimeout(resolve, 10));
      }
      assert.deepEqual(discovery.sandboxes, [['a1', POD]]);
      fake.write('late/file', 'files do not count');
      mkdirSync(fake.path('late/..x'));
      mkdirSync(fake.path('late/b2'));
      await until('a1,b2');
      rmSync(fake.path('late/a1'), { recursive: true });
      await until('b2');
    } finally {
      discovery.stop();
    }
  }));

interface Got {
  readonly status: number;
  readonly headers: NodeJS.Dict<string | string[]>;
  readonly body: Buffer;
}

async function withServer(fake: FakeHost, work: (get: (path: string, headers?: Record<string, string>) => Promise<Got>) => Promise<void>): Promise<void> {
  const discovery = new Discovery(fake.host.roots.monitor, () => Promise.resolve(new Map([['good1', POD]])), Logger.none(), 1);
  discovery.scan();
  const server = monitorServer({ host: fake.host, discovery, own: new OwnMetrics(), logger: Logger.none() });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  const get = async (path: string, headers: Record<string, string> = {}): Promise<Got> =>
    new Promise((resolve, reject) => {
      const client = request({ host: '127.0.0.1', port, path, headers, agent: false }, (response) => {
        const parts: Buffer[] = [];
        response.on('data', (part: Buffer) => parts.push(part));
        response.on('end', () => resolve({ status: response.statusCode ?? 0, headers: response.headers, body: Buffer.concat(parts) }));
      });
      client.on('error', reject);
      client.end();
    });
  try {
    await work(get);
  } finally {
    discovery.stop();
    server.close();
    server.closeAllConnections();
  }
}

test('endpoints: all metrics, one sandbox, lists, agent address, debug, and what is wrong', () =>
  withHost(async (fake) => {
    await fake.monitor('good1', (asked, response) => {
      const answers: Record<string, string> = { '/metrics': '# TYPE kata_shim_threads gauge\nkata_shim_threads 5\n', '/agent-url': 'vsock://3:1024', '/debug/vars?a=b': '{}' };
      const body = answers[asked.url ?? ''];
      response.writeHead(body === undefined ? 404 : 200);
      response.end(body ?? '404 page not found');
    });
    mkdirSync(fake.path('sbs/gone1'));
    await withServer(fake, async (get) => {
      const all = await get('/metrics', { 'accept-encoding': 'gzip' });
      assert.equal(all.headers['content-encoding'], 'gzip');
      const text = gunzipSync(all.body).toString();
      assert.match(text, /kata_shim_threads\{sandbox_id="good1",cri_uid=/);
      const names = parseMetrics(text).map(({ name }) => name);
      for (const name of ['kata_monitor_running_shim_count', 'kata_monitor_scrape_count', 'kata_monitor_scrape_failed_count', 'kata_monitor_scrape_durations_histogram_milliseconds', 'kata_monitor_process_cpu_seconds_total']) {
        assert.ok(names.includes(name), name);
      }
      assert.match(text, /kata_monitor_running_shim_count 2/);
      assert.match(text, /kata_monitor_scrape_failed_count 1/);
      assert.doesNotMatch((await get('/metrics?filter_family=kata_shim')).body.toString(), /kata_monitor/);
      assert.equal((await get('/metrics?sandbox=good1')).body.toString(), '# TYPE kata_shim_threads gauge\nkata_shim_threads 5\n');
      assert.equal((await get('/metrics?sandbox=gone1')).status, 500);
      assert.equal((await get('/metrics?sandbox=../etc')).status, 400);
      assert.equal((await get('/sandboxes')).body.toString(), 'gone1\ngood1\n');
      assert.match((await get('/sandboxes', { accept: 'text/html' })).body.toString(), /href="\/metrics\?sandbox=good1"/);
      assert.equal((await get('/agent-url?sandbox=good1')).body.toString(), 'vsock://3:1024\n');
      assert.equal((await get('/agent-url')).status, 400);
      assert.equal((await get('/debug/vars?sandbox=good1&a=b')).body.toString(), '{}');
      assert.equal((await get('/debug/vars')).status, 400);
      assert.equal((await get('/debug/pprof/?sandbox=gone1')).status, 500);
      assert.equal((await get('/nothing')).status, 404);
      assert.match((await get('/')).body.toString(), /Available HTTP endpoints/);
      const page = await get('/', { accept: 'text/html,*/*' });
      assert.match(page.body.toString(), /2 sandboxes/);
      assert.equal(page.headers['x-content-type-options'], 'nosniff');
    });
  }));

test('members of /sandbox that are not what we take them for are left out', () => {
  const wrong = { state: 5, vmSource: {}, vmFallback: [], vcpus: '1', memoryMiB: null, residentBytes: 7, startedAt: 'now', containers: [{ id: 1, state: 'running' }, { id: 'a', state: 'running', execs: 0 }, 3], phases: [{ name: 'a', durationMs: 'x' }, { name: 'b', durationMs: 1, startMs: '0' }] };
  assert.deepEqual(liveSandbox(wrong), { residentBytes: 7, startedAt: 'now', containers: [{ id: 'a', state: 'running' }], phases: [{ name: 'b', durationMs: 1 }] });
  assert.deepEqual([liveSandbox(null), liveSandbox('text'), liveSandbox([]), liveSandbox({ phases: {}, containers: 3 })], [undefined, undefined, {}, {}]);
});

test('without a CRI its absence is logged once, and it is asked until it answers', () =>
  withHost(async (fake) => {
    mkdirSync(fake.path('sbs/a1'), { recursive: true });
    const lines: string[] = [];
    let asked = 0;
    const lister = (): Promise<Map<string, PodLabels>> => (++asked < 4 ? Promise.reject(new Error('no CRI')) : Promise.resolve(new Map([['a1', POD]])));
    const discovery = new Discovery([fake.path('sbs')], lister, Logger.to((line) => lines.push(line), 'info', {}), 1);
    for (let tries = 0; tries < 500 && discovery.sandboxes[0]?.[1] === undefined; tries++) {
      discovery.scan();
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
    discovery.stop();
    assert.deepEqual(discovery.sandboxes, [['a1', POD]]);
    assert.equal(asked, 4);
    assert.equal(lines.length, 1, lines.join(''));
  }));

test('a shim that hangs, floods, breaks off or talks nonsense costs a bounded time and only its own figures', () =>
  withHost(async (fake) => {
    await fake.monitor('good1', (_, response) => response.end('# TYPE kata_shim_threads gauge\nkata_shim_threads 5\n'));
    await fake.monitor('silent1', () => undefined);
    await fake.monitor('half1', (_, response) => {
      response.writeHead(200, { 'content-length': 100 });
      response.write('kata_shim_threads 6\n');
    });
    await fake.monitor('broken1', (_, response) => response.destroy());
    await fake.monitor('noise1', (_, response) => response.end(Buffer.alloc(100_000, 0xff)));
    await fake.monitor('failing1', (_, response) => {
      response.writeHead(500);
      response.end('no');
    });
    await withServer(fake, async (get) => {
      const started = performance.now();
      const text = (await get('/metrics')).body.toString();
      assert.ok(performance.now() - started < 8_000);
      assert.deepEqual(text.split('\n').filter((line) => line.startsWith('kata_shim_threads')), ['kata_shim_threads{sandbox_id="good1",cri_uid="u1",cri_name="web",cri_namespace="prod"} 5']);
      assert.match(text, /kata_monitor_scrape_failed_count 4/);
      const page = (await get('/', { accept: 'text/html' })).body.toString();
      assert.ok(['silent1', 'half1', 'broken1', 'noise1', 'failing1'].every((id) => page.includes(`data-sandbox="${id}"`)));
      assert.equal((await get('/agent-url?sandbox=silent1')).status, 400);
      assert.equal((await get('/metrics?sandbox=failing1')).status, 500);
    });
  }));

test('the page shows hostile names as text', () => {
  const hostile = '<script>alert(1)</script>"&\'';
  const page = renderPage(hostile, [{ id: hostile, pod: { uid: '', name: hostile, namespace: hostile }, live: { state: hostile, vmSource: hostile, hypervisor: hostile, containers: [{ id: hostile, state: hostile }], phases: [{ name: hostile, durationMs: 5 }], startedAt: hostile, vmFallback: hostile, residentBytes: 1048576 } }], new Date(0));
  assert.ok(!page.includes('<script>'));
  assert.equal(escapeHtml(hostile), '&lt;script&gt;alert(1)&lt;/script&gt;&quot;&amp;&#39;');
});

test('addresses: host and port, v6 in brackets, all interfaces; endpoints with or without scheme', () => {
  assert.deepEqual([parseListenAddress('127.0.0.1:8090'), parseListenAddress('[::1]:1'), parseListenAddress(':9')], [{ host: '127.0.0.1', port: 8090 }, { host: '::1', port: 1 }, { host: '::', port: 9 }]);
  for (const text of ['8090', 'a:b', 'a:99999', '::1:80']) {
    assert.throws(() => parseListenAddress(text), /listen-address/, text);
  }
  assert.deepEqual(['unix:///x', 'unix:/x', '/x'].map(parseEndpoint), ['/x', '/x', '/x']);
  assert.throws(() => parseEndpoint(''), /runtime-endpoint/);
});
