/** Every family of /metrics as documented, read by promtool; and the dashboard asks for nothing else. */
import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { spawn } from 'node:child_process';
import { createServer, type AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { ROOT, runCommand, unpackDebian } from '../../hack/private-containerd';
import { parseMetrics, type Family } from '../../virtcontainers/metrics/prometheus-text';
import { Host } from '../support/host';
import { KataMonitor, until } from '../support/kata-monitor';
import { DISKS, FACTORY, FALLBACK, MONITOR, OURS, UPSTREAM, VIRTIOFSD, type Wanted } from '../support/metric-families';
import { endAll } from '../support/suite';

const ID = `metrics-${String(process.pid)}`;
const BUCKETS = ['1', '2', '4', '8', '16', '32', '64', '128', '256', '512', '+Inf'];
const MOCK = process.env['KATA_TEST_HYPERVISOR'] === 'mock';
/** The factory is on, but the pod wants what no template of it has. */
const TEMPLATES = `/run/kata-ts/no-templates-${String(process.pid)}`;
let host: Host;
let monitor: KataMonitor;
let text = '';
let families = new Map<string, Family>();

const labelsOf = (family: Family): Record<string, string>[] => family.samples.map(({ labels }) => Object.fromEntries(labels));

function check(wanted: Readonly<Record<string, Wanted>>): void {
  const problems = Object.entries(wanted).flatMap(([name, { type, labels, items = [] }]) => {
    const family = families.get(name);
    if (family === undefined) {
      return [`${name} is missing`];
    }
    const names = new Set(labelsOf(family).map((one) => Object.keys(one).filter((label) => label !== 'le').join()));
    const found = new Set(labelsOf(family).map((one) => one['item']));
    return [
      ...(family.type === type ? [] : [`${name} is a ${family.type}`]),
      ...([...names].every((list) => list === labels.join()) ? [] : [`${name} has labels ${[...names].join(' or ')}`]),
      ...(family.help === '' ? [`${name} has no help`] : []),
      ...items.filter((item) => !found.has(item)).map((item) => `${name} has no item ${item}`),
    ];
  });
  assert.deepEqual(problems, []);
}

async function promtool(metrics: string): Promise<void> {
  const checked = await runCommand(join(unpackDebian('prometheus', ['prometheus']), 'usr/bin/promtool'), ['check', 'metrics'], { input: metrics });
  // 3 is for opinions about names, which are upstream's.
  assert.ok(checked.code === 0 || checked.code === 3, checked.stderr);
  assert.deepEqual(checked.stderr.split('\n').filter((line) => /error|parse|invalid|duplicate/i.test(line)), []);
}

before(async () => {
  host = await Host.start('qemu', { hypervisor: { enable_annotations: '["kernel_params"]' }, factory: { enable_template: 'true', template_path: `"${TEMPLATES}"` } });
  monitor = await KataMonitor.start(join(host.folder, 'no-cri.sock'));
  await host.runDetached(ID, ['sleep', '100000'], { args: ['--annotation', 'io.katacontainers.config.hypervisor.kernel_params=of.its.own=1'] });
  await host.exec(ID, ['true']);
  // What a pod costs beyond its containers is sampled by a scrape and shown by the next.
  await until('the overhead', async () => {
    ({ text } = await monitor.get(`/metrics?sandbox=${ID}`));
    return text.includes('kata_shim_pod_overhead_cpu');
  });
  families = new Map(parseMetrics(text).map((family) => [family.name, family]));
});

after(async () => {
  await endAll(() => monitor.stop(), () => host.remove(ID), () => host.stop(), () => rmSync(TEMPLATES, { recursive: true, force: true }));
});

test('every family that upstream documents, with its type, labels and items', () => {
  check(UPSTREAM);
});

test('ours: phases, source of the VM, containers, and what the factory did', () => {
  check({ ...OURS, ...FACTORY, ...FALLBACK });
  const one = (name: string): Record<string, string>[] => labelsOf(families.get(name) ?? { name, type: 'gauge', help: '', samples: [] });
  assert.deepEqual(one('kata_shim_vm_source'), [{ source: 'direct' }]);
  const phases = one('kata_shim_phase_milliseconds').map(({ phase }) => phase);
  for (const phase of ['agent-connect', 'create-sandbox', 'create-container']) {
    assert.ok(phases.includes(phase), phase);
  }
  // A factory that is on, and a sandbox with a kernel command line of its own: the boot instead is counted, with its reason.
  const fallbacks = families.get('kata_shim_factory_fallbacks_total')?.samples ?? [];
  assert.ok(fallbacks.some(({ labels, value }) => Object.fromEntries(labels)['reason'] === 'config-mismatch' && Number(value) >= 1), JSON.stringify(fallbacks));
});

test('families of a helper or a device are there where the sandbox has it', async () => {
  const virtiofsd = /\bvirtiofsd\b/.test(readFileSync(`/run/vc/sbs/${ID}/persist.json`, 'utf8'));
  const disks = (await host.exec(ID, ['cat', '/proc/diskstats'])).stdout.trim() !== '';
  for (const [there, wanted] of [[virtiofsd, VIRTIOFSD], [disks, DISKS]] as const) {
    if (there) {
      check(wanted);
    } else {
      assert.deepEqual(Object.keys(wanted).filter((name) => families.has(name)), []);
    }
  }
});

test('nothing else is there: what is added is written down', () => {
  const known = { ...UPSTREAM, ...OURS, ...FACTORY, ...FALLBACK, ...VIRTIOFSD, ...DISKS };
  assert.deepEqual([...families.keys()].filter((name) => known[name] === undefined), []);
});

test('durations: the actions of the task service and of the agent, in the same buckets', () => {
  const actions = (name: string): Set<string | undefined> => new Set(labelsOf(families.get(name) ?? { name, type: 'histogram', help: '', samples: [] }).map(({ action }) => action));
  const rpcs = actions('kata_shim_rpc_durations_histogram_milliseconds');
  for (const action of ['create', 'start', 'wait', 'exec', 'state', 'delete', 'connect'].filter((one) => one !== 'connect' || rpcs.has(one))) {
    assert.ok(rpcs.has(action), `${action} of ${[...rpcs].join()}`);
  }
  const agent = actions('kata_shim_agent_rpc_durations_histogram_milliseconds');
  for (const action of ['grpc.CreateSandboxRequest', 'grpc.CreateContainerRequest', 'grpc.StartContainerRequest', 'grpc.ExecProcessRequest', 'grpc.WaitProcessRequest']) {
    assert.ok(agent.has(action), `${action} of ${[...agent].join()}`);
  }
  for (const name of ['kata_shim_rpc_durations_histogram_milliseconds', 'kata_shim_agent_rpc_durations_histogram_milliseconds']) {
    const bounds = families.get(name)?.samples.filter((sample) => sample.name.endsWith('_bucket')).map(({ labels }) => labels.find(([label]) => label === 'le')?.[1]) ?? [];
    assert.deepEqual([...new Set(bounds)], BUCKETS);
  }
});

test('figures are those of the processes, not zeros', () => {
  const value = (name: string, item: string): number => Number(families.get(name)?.samples.find(({ labels }) => labels.some(([label, text]) => label === 'item' && text === item))?.value);
  assert.ok(value('kata_hypervisor_proc_status', 'vmrss') > (MOCK ? 0 : 20 * 1024 * 1024));
  assert.ok(value('kata_shim_proc_status', 'vmrss') > 10 * 1024 * 1024);
  assert.ok(value('kata_guest_meminfo', 'mem_total') > 256 * 1024 * 1024);
  assert.ok(MOCK || value('kata_guest_meminfo', 'mem_total') < 1100 * 1024 * 1024, 'of the guest, not of the host');
  assert.ok(Number(families.get('process_cpu_seconds_total')?.samples[0]?.value) > 0.05);
});

test('promtool takes the text of the shim, and that of kata-monitor with all sandboxes', async () => {
  await promtool(text);
  const all = (await monitor.get('/metrics')).text;
  await promtool(all);
  families = new Map(parseMetrics(all).map((family) => [family.name, family]));
  const labels = ['sandbox_id', 'cri_uid', 'cri_name', 'cri_namespace'];
  const renamed = Object.entries({ ...UPSTREAM, ...OURS, ...FACTORY }).map(([name, wanted]): [string, Wanted] => [name.replace(/^process_/, 'kata_shim_process_'), { ...wanted, labels: [...wanted.labels, ...labels] }]);
  check({ ...MONITOR, ...Object.fromEntries(renamed) });
  assert.ok(families.has('kata_monitor_process_cpu_seconds_total'));
});

interface Panel {
  readonly title: string;
  readonly type: string;
  readonly gridPos: { readonly x: number; readonly y: number; readonly w: number; readonly h: number };
  readonly targets?: readonly { readonly expr: string }[];
}

interface Dashboard {
  readonly title: string;
  readonly uid: string;
  readonly schemaVersion: number;
  readonly panels: readonly Panel[];
  readonly templating: { readonly list: readonly { readonly name: string; readonly query: string | { readonly query: string } }[] };
}

const DASHBOARD = JSON.parse(readFileSync(join(ROOT, 'deploy/grafana/kata-ts.json'), 'utf8')) as Dashboard;

test('the dashboard is valid, its panels do not overlap, and it asks for families that are there', () => {
  assert.ok(DASHBOARD.title !== '' && DASHBOARD.uid !== '' && DASHBOARD.schemaVersion >= 36 && DASHBOARD.panels.length >= 8);
  const cells = DASHBOARD.panels.flatMap(({ gridPos: { x, y, w, h } }) => Array.from({ length: w * h }, (_, n) => `${String(x + (n % w))},${String(y + Math.floor(n / w))}`));
  assert.equal(new Set(cells).size, cells.length, 'panels overlap');
  assert.ok(DASHBOARD.panels.every(({ gridPos: { x, w } }) => x + w <= 24));
  const queries = [
    ...DASHBOARD.panels.flatMap(({ targets = [], title }) => targets.map(({ expr }) => [title, expr] as const)),
    ...DASHBOARD.templating.list.flatMap(({ name, query }) => (typeof query === 'string' ? [] : [[name, query.query] as const])),
  ];
  for (const [title, query] of queries) {
    const asked = query.match(/\bkata_\w+/g) ?? [];
    assert.ok(asked.length > 0, `${title} asks for nothing`);
    for (const name of asked) {
      const family = families.has(name) ? name : name.replace(/_(bucket|sum|count)$/, '');
      assert.ok(families.has(family), `"${title}" asks for ${name}, which is not there`);
    }
  }
});

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  return port;
}

test('a Prometheus that scrapes kata-monitor has an answer for every panel', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'kata-ts-prometheus-'));
  const address = `127.0.0.1:${String(await freePort())}`;
  writeFileSync(join(folder, 'prometheus.yml'), `scrape_configs:\n- job_name: kata\n  scrape_interval: 3s\n  scrape_timeout: 3s\n  static_configs:\n  - targets: ["${new URL(monitor.base).host}"]\n`);
  const args = [`--config.file=${join(folder, 'prometheus.yml')}`, `--storage.tsdb.path=${join(folder, 'data')}`, `--web.listen-address=${address}`];
  const prometheus = spawn(join(unpackDebian('prometheus', ['prometheus']), 'usr/bin/prometheus'), args, { stdio: 'ignore' });
  const gone = new Promise((resolve) => prometheus.once('exit', resolve));
  const answers = async (query: string): Promise<number> => {
    const filled = query.replace(/\$__(rate_interval|range|interval)/g, '5m').replace(/\$\{?\w+\}?/g, '.*');
    const reply = await fetch(`http://${address}/api/v1/query?query=${encodeURIComponent(filled)}`).catch(() => undefined);
    const said = (await reply?.json()) as { status: string; error?: string; data?: { result: readonly unknown[] } } | undefined;
    assert.notEqual(said?.status, 'error', `${query}: ${said?.error ?? ''}`);
    return said?.data?.result.length ?? 0;
  };
  try {
    // Until it has read its database it answers 503.
    await until('Prometheus is ready', async () => (await fetch(`http://${address}/-/ready`).catch(() => undefined))?.ok === true);
    for (const { title, targets = [] } of DASHBOARD.panels) {
      for (const { expr } of targets) {
        await until(`"${title}" shows something: ${expr}`, async () => (await answers(expr)) > 0, 60);
      }
    }
    assert.equal(await answers(`up{job="kata"} == 1`), 1);
  } finally {
    prometheus.kill('SIGTERM');
    await gone;
    rmSync(folder, { recursive: true, force: true });
  }
});
