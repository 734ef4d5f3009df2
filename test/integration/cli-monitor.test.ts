/** kata-monitor over two sandboxes, and gc after everything was killed. Without VMs: the mock hypervisor. */
import assert from 'node:assert/strict';
import { existsSync, readFileSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { ROOT, runCommand } from '../../hack/private-containerd';
import { parseMetrics } from '../../virtcontainers/metrics/prometheus-text';
import { Host } from '../support/host';
import { KataMonitor, until } from '../support/kata-monitor';
import { endAll } from '../support/suite';

const IDS = ['monitored1', 'monitored2'];
const [FIRST = '', SECOND = ''] = IDS;
/** `ctr` makes no pods: nobody serves the CRI here. */
const NO_CRI = '/run/kata-ts/no-cri.sock';
let host: Host;
let monitor: KataMonitor;
const get: KataMonitor['get'] = async (...args) => monitor.get(...args);

before(async () => {
  host = await Host.start('mock');
  monitor = await KataMonitor.start(NO_CRI);
  for (const id of IDS) {
    await host.runDetached(id, ['sleep', '1000']);
  }
});

after(async () => {
  await endAll(() => monitor.stop(), () => host.stop());
});

/** Writes bytes to the port as they are, then a chunk again and again; what is answered until the other side hangs up. */
async function raw(head: string, chunk = Buffer.alloc(0), times = 0): Promise<string> {
  const { hostname, port } = new URL(monitor.base);
  return new Promise((resolve) => {
    const socket = connect(Number(port), hostname);
    let said = '';
    let left = times;
    const more = (): void => {
      while (left > 0 && !socket.destroyed) {
        left--;
        if (!socket.write(chunk)) {
          socket.once('drain', more);
          return;
        }
      }
    };
    socket.on('data', (part: Buffer) => {
      said += part.toString('latin1');
    });
    socket.on('error', () => undefined);
    socket.on('close', () => resolve(said));
    socket.setTimeout(30_000, () => socket.destroy());
    socket.write(head, 'latin1');
    more();
  });
}

test('sandboxes that came after the start are there', async () => {
  await until('both sandboxes listed', async () => {
    const { text } = await get('/sandboxes');
    return IDS.every((id) => text.includes(id));
  });
});

test('metrics of all sandboxes come merged, with the label of each', async () => {
  const { status, text } = await get('/metrics');
  assert.equal(status, 200);
  const family = parseMetrics(text).find(({ name }) => name === 'kata_shim_vm_source');
  for (const id of IDS) {
    assert.ok(family?.samples.some(({ labels }) => labels.some(([name, value]) => name === 'sandbox_id' && value === id)), id);
  }
  assert.equal(new Set(text.split('\n').filter((line) => line.startsWith('# TYPE'))).size, text.split('\n').filter((line) => line.startsWith('# TYPE')).length, 'no family twice');
});

test('the page shows sandbox, state, VM source and phases', async () => {
  const { status, text } = await get('/', 'text/html');
  assert.equal(status, 200);
  for (const word of [...IDS, 'running', 'direct', 'MiB resident']) {
    assert.ok(text.includes(word), word);
  }
});

test('one sandbox at a time: metrics and agent address', async () => {
  assert.match((await get(`/metrics?sandbox=${IDS[0] ?? ''}`)).text, /^# HELP kata_/);
  assert.match((await get(`/agent-url?sandbox=${IDS[0] ?? ''}`)).text, /^\w+:\/\//);
  assert.equal((await get('/agent-url?sandbox=nobody')).status, 400);
});

test('filters: families by the begin of their names, several of them, and none', async () => {
  const names = async (filter: string): Promise<string[]> => parseMetrics((await get(`/metrics?filter_family=${filter}`)).text).map(({ name }) => name);
  assert.deepEqual(await names('kata_shim_vm_source'), ['kata_shim_vm_source']);
  const two = await names('kata_guest_load,kata_shim_thr');
  assert.deepEqual(two, ['kata_guest_load', 'kata_shim_threads']);
  assert.deepEqual(await names('nothing_like_it'), []);
  const all = await names('');
  assert.ok(all.includes('kata_monitor_scrape_count') && all.includes('kata_guest_load'));
});

test('ids that are none are refused on every endpoint, and name no file', async () => {
  for (const id of ['..', '../..', 'a/b', '%2e%2e%2fetc', '..%2f..%2fetc%2fpasswd', 'x'.repeat(300), '%20', 'a%00b', '-x', '%ff', '%E4']) {
    for (const path of ['/metrics', '/agent-url', '/debug/vars', '/debug/pprof/']) {
      const { status, text } = await get(`${path}?sandbox=${id}`);
      assert.equal(status, 400, `${path} ${id}: ${text}`);
      assert.ok(text.length < 1000 && !text.includes('root:'), text);
    }
  }
  assert.equal((await get('/agent-url?sandbox=')).status, 400);
  assert.equal((await get('/metrics?sandbox=nobody-of-this-name')).status, 500);
  for (const path of ['/etc/passwd', '/../../etc/passwd', '/%2e%2e/etc/passwd', '/metrics/', '//']) {
    assert.equal((await get(path)).status, 404, path);
  }
});

test('other methods are refused, with any body: it is not taken in', async () => {
  for (const method of ['POST', 'PUT', 'DELETE', 'PATCH', 'OPTIONS']) {
    assert.equal((await get('/metrics', '*/*', method)).status, 405, method);
  }
  const said = await raw('POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 1073741824\r\n\r\n', Buffer.alloc(1024 * 1024), 1024);
  assert.match(said, /^HTTP\/1\.1 405 /);
  const resident = Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${String(monitor.pid)}/status`, 'utf8'))?.[1]) / 1024;
  assert.ok(resident < 250, `${String(resident)} MiB`);
});

test('what is no HTTP is answered 400, a header without end 431, and both are hung up on', async () => {
  assert.match(await raw('\x16\x03\x01\x02\x00rubbish\r\n\r\n'), /^HTTP\/1\.1 400 /);
  assert.match(await raw(`GET /metrics?${'x'.repeat(100_000)} HTTP/1.1\r\n\r\n`), /^HTTP\/1\.1 431 /);
  assert.equal((await get('/sandboxes')).status, 200);
});

test('a shim that hangs costs a scrape three seconds and nothing of the others', async () => {
  const shim = host.shimPid(FIRST);
  process.kill(shim, 'SIGSTOP');
  try {
    const started = performance.now();
    const { status, text } = await get('/metrics');
    assert.equal(status, 200);
    assert.ok(performance.now() - started < 10_000);
    assert.ok(!text.includes(`sandbox_id="${FIRST}"`) && text.includes(`sandbox_id="${SECOND}"`));
    assert.ok(Number(/^kata_monitor_scrape_failed_count (\d+)$/m.exec(text)?.[1]) >= 1);
    const one = await get(`/metrics?sandbox=${FIRST}`);
    assert.deepEqual([one.status, /no answer to GET \/metrics within 3000 ms/.test(one.text)], [500, true], one.text);
    assert.equal((await get(`/agent-url?sandbox=${FIRST}`)).status, 400);
    assert.match((await get('/', 'text/html')).text, new RegExp(`data-sandbox="${FIRST}">.*?no answer`));
    assert.ok((await monitor.sandboxes()).includes(FIRST));
  } finally {
    process.kill(shim, 'SIGCONT');
  }
  await until('it answers again', async () => (await get(`/metrics?sandbox=${FIRST}`)).status === 200);
});

test('without a CRI sandboxes have no names of pods, which is said once', async () => {
  assert.match((await get('/metrics?filter_family=kata_shim_vm_source')).text, new RegExp(`sandbox_id="${FIRST}",cri_uid="",cri_name="",cri_namespace=""`));
  await until('the line', () => monitor.log.includes('pods are not known'));
  await new Promise((resolve) => setTimeout(resolve, 12_000));
  assert.equal(monitor.log.split('pods are not known').length, 2, monitor.log);
});

test('wrong arguments end kata-monitor with one line that says what is wrong', async () => {
  const run = async (...args: string[]): Promise<string> => {
    const done = await runCommand(join(ROOT, 'build/kata-monitor'), args, { timeoutMs: 20_000 });
    assert.notEqual(done.code, 0, args.join(' '));
    return done.stderr;
  };
  assert.match(await run('--listen-address', 'nowhere'), /--listen-address "nowhere": wanted host:port/);
  assert.match(await run('--listen-address', new URL(monitor.base).host, '--runtime-endpoint', NO_CRI), /listen on .*EADDRINUSE.*running already/s);
  assert.match(await run('--runtime-endpoint', ''), /--runtime-endpoint: it is empty/);
  assert.match(await run('serve'), /unknown argument "serve"/);
  for (const word of ['version', '--version']) {
    const done = await runCommand(join(ROOT, 'build/kata-monitor'), [word]);
    assert.equal(done.code, 0);
    assert.match(done.stdout, /^kata-monitor\n Version:\t\S+\n[^]*Git commit:[^]*OS\/Arch:/);
  }
});

test('a sandbox that ends goes from the list', async () => {
  await host.remove(IDS[1] ?? '');
  await until('it is gone', async () => !(await get('/sandboxes')).text.includes(IDS[1] ?? ''));
});

test('gc removes what is left after containerd and shim were killed, and says why', async () => {
  const id = IDS[0] ?? '';
  const listed = await runCommand(join(ROOT, 'build/kata-runtime'), ['ps', '--json']);
  const row = (JSON.parse(listed.stdout) as { id: string; shimPid: number; vmPid: number }[]).find((one) => one.id === id);
  assert.ok(row !== undefined);
  await host.containerd.end('SIGKILL');
  process.kill(row.shimPid, 'SIGKILL');
  await until('the shim is gone', async () => Promise.resolve(!existsSync(`/proc/${String(row.shimPid)}`)));
  const dead = await runCommand(join(ROOT, 'build/kata-runtime'), ['gc', '--dry-run']);
  assert.match(dead.stdout, new RegExp(`would remove sandbox /run/vc/sbs/${id}: its shim \\(pid ${String(row.shimPid)}\\) is gone`));
  const done = await runCommand(join(ROOT, 'build/kata-runtime'), ['gc']);
  assert.equal(done.code, 0, done.stderr);
  assert.ok(!existsSync(`/run/vc/sbs/${id}`) && !existsSync(`/run/kata-containers/shared/sandboxes/${id}`));
  await until('no process of the sandbox', async () => Promise.resolve(!existsSync(`/proc/${String(row.vmPid)}`)));
  await host.containerd.launch();
});
