import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync, statSync, mkdirSync } from 'node:fs';
import { request } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import type { AgentClient } from '../../agent-client/types';
import { KataError } from '../../base/errors';
import { Logger } from '../../base/log';
import { parseMetrics } from '../../virtcontainers/metrics/prometheus-text';
import type { Sandbox } from '../../virtcontainers/sandbox/types';
import { addVolume } from '../../virtcontainers/volume/direct-volume';
import { ShimFigures } from './figures';
import { overheadBetween } from './overhead';
import { startManagement } from './server';
import { parseResize, statsJson } from './volumes';

interface Reply {
  readonly status: number;
  readonly body: string;
  readonly headers: NodeJS.Dict<string | string[]>;
}

class Monitor {
  readonly folder = mkdtempSync(join(tmpdir(), 'kata-management-'));
  readonly calls: string[] = [];
  readonly sandbox: Sandbox;
  private readonly stop: () => void;

  constructor(id = 'box1', change: { state?: string; enablePprof?: boolean; agent?: Partial<AgentClient> } = {}) {
    const note = (what: string): Promise<void> => Promise.resolve(void this.calls.push(what));
    const agent = {
      url: 'vsock://3:1024',
      getMetrics: () => Promise.resolve('# TYPE kata_guest_load gauge\nkata_guest_load{item="load1"} 1\n# TYPE process_fds gauge\nprocess_fds 3\n# TYPE kata_shim_threads gauge\nkata_shim_threads 666\nrubbish\n'),
      getIpTables: (v6: boolean) => note(`get ${String(v6)}`).then(() => Buffer.from('*filter\n')),
      setIpTables: (v6: boolean, data: Uint8Array) => note(`set ${String(v6)} ${Buffer.from(data).toString()}`).then(() => data),
      setPolicy: () => Promise.reject(new KataError('Unimplemented', 'no policy')),
      getVolumeStats: (path: string) => note(`stats ${path}`).then(() => ({ usage: [{ available: 9007199254740993n, total: 0n, used: 1n, unit: 'bytes' }], condition: { abnormal: false, message: 'OK' } })),
      resizeVolume: (path: string, size: bigint) => note(`resize ${path} ${String(size)}`),
      ...change.agent,
    };
    const container = { id, state: 'running', execs: new Map(), spec: { mounts: [{ destination: '/v', source: '/volume' }], linux: { resources: {} } } };
    const config = {
      path: '/c.toml',
      hypervisor: { type: 'mock', sharedFs: 'none', defaultVcpus: 1, defaultMemory: 512, defaultMaxvcpus: 4, defaultMaxmemory: 4096 },
      runtime: { enablePprof: change.enablePprof === true, staticSandboxResourceMgmt: false },
      factory: { enableTemplate: true, vmCacheNumber: 0, templatePath: join(this.folder, 'template') },
    };
    this.sandbox = {
      id,
      state: change.state ?? 'running',
      config,
      pid: process.pid,
      agent,
      vmSource: 'direct',
      phases: [{ name: 'vm-boot', startMs: 0, durationMs: 12.5 }],
      containers: new Map([[id, container]]),
      resizeBlock: (path: string, size: bigint) => note(`block ${path} ${String(size)}`),
    } as unknown as Sandbox;
    addVolume(join(this.folder, 'volumes'), '/volume', '{"device":"/dev/null","fstype":"ext4"}');
    mkdirSync(join(this.folder, 'bundle'));
    this.stop = startManagement({ sandbox: this.sandbox, bundle: join(this.folder, 'bundle'), figures: new ShimFigures(), logger: Logger.none(), stateRoot: this.folder, directVolumes: join(this.folder, 'volumes') });
  }

  async ask(method: string, path: string, body: string | Buffer = '', headers: Record<string, string> = {}): Promise<Reply> {
    const id = this.sandbox.id;
    return new Promise((resolve, reject) => {
      const home = process.cwd();
      process.chdir(join(this.folder, id));
      const client = request({ socketPath: 'shim-monitor.sock', method, path, headers, agent: false }, (response) => {
        let text = '';
        response.on('data', (part: Buffer) => {
          text += part.toString();
        });
        response.on('end', () => resolve({ status: response.statusCode ?? 0, body: text, headers: response.headers }));
      });
      process.chdir(home);
      client.on('error', reject);
      client.end(body);
    });
  }

  close(): void {
    this.stop();
    rmSync(this.folder, { recursive: true, force: true });
  }
}

async function withMonitor(work: (monitor: Monitor) => Promise<void>, ...args: ConstructorParameters<typeof Monitor>): Promise<void> {
  const monitor = new Monitor(...args);
  try {
    await work(monitor);
  } finally {
    monitor.close();
  }
}

test('the socket is private, its address is in the bundle, a long id works', async () => {
  for (const id of ['box1', 'l'.repeat(128)]) {
    await withMonitor(async (monitor) => {
      const path = join(monitor.folder, id, 'shim-monitor.sock');
      assert.equal(statSync(path).mode & 0o777, 0o600);
      assert.equal(readFileSync(join(monitor.folder, 'bundle/monitor_address'), 'utf8'), `unix://${path}`);
      assert.equal((await monitor.ask('GET', '/agent-url')).body, 'vsock://3:1024');
    }, id);
  }
});

test('every endpoint: method, content type, status', () =>
  withMonitor(async (monitor) => {
    const table: readonly (readonly [string, string, string, number])[] = [
      ['GET', '/metrics', '', 200], ['POST', '/metrics', '', 405], ['GET', '/agent-url', '', 200], ['HEAD', '/agent-url', '', 200], ['GET', '/sandbox', '', 200],
      ['GET', '/iptables', '', 200], ['GET', '/ip6tables', '', 200], ['PUT', '/iptables', 'x', 200], ['DELETE', '/iptables', '', 501], ['POST', '/ip6tables', '', 501],
      ['PUT', '/policy', 'package x', 501], ['GET', '/policy', '', 501], ['GET', '/direct-volume/stats', '', 400], ['GET', '/direct-volume/stats?path=/dev/null', '', 200],
      ['GET', '/direct-volume/stats?path=%252Fdev%252Fnull', '', 200], ['GET', '/direct-volume/stats?path=%25zz', '', 400], ['GET', '/direct-volume/stats?path=/nowhere', '', 404],
      ['POST', '/direct-volume/resize', '{"volumepath":"/dev/null","SIZE":5}', 200], ['POST', '/direct-volume/resize', '', 400], ['POST', '/direct-volume/resize', '[]', 400], ['GET', '/direct-volume/resize', '', 405],
      ['GET', '/debug/vars', '', 404], ['GET', '/debug/pprof/', '', 404], ['GET', '/', '', 404], ['GET', '/metrics/', '', 404], ['GET', '/constructor', '', 404], ['GET', '/__proto__', '', 404],
    ];
    for (const [method, path, body, status] of table) {
      assert.equal((await monitor.ask(method, path, body)).status, status, `${method} ${path} ${body}`);
    }
    const guest = `/run/kata-containers/sandbox/storage/${Buffer.from('/volume').toString('base64url')}`;
    assert.deepEqual(monitor.calls, ['get false', 'get true', 'set false x', `stats ${guest}`, `stats ${guest}`, 'block /dev/null 5', `resize ${guest} 5`]);
    assert.equal((await monitor.ask('GET', '/nothing')).body, '404 page not found\n');
    assert.match(String((await monitor.ask('GET', '/iptables')).headers['content-type']), /^text\/plain/);
    assert.equal((await monitor.ask('POST', '/metrics')).headers['allow'], 'GET');
  }));

test('a body beyond 4 MiB is refused: announced, or in pieces without end', () =>
  withMonitor(async (monitor) => {
    assert.equal((await monitor.ask('PUT', '/iptables', 'x', { 'content-length': String(1 << 30) }).catch(() => ({ status: 413 }))).status, 413);
    assert.equal((await monitor.ask('PUT', '/iptables', Buffer.alloc(4 * 1024 * 1024))).status, 200);
    const status = await new Promise<number>((resolve, reject) => {
      const client = request({ socketPath: join(monitor.folder, 'box1/shim-monitor.sock'), method: 'PUT', path: '/iptables', agent: false }, (response) => {
        resolve(response.statusCode ?? 0);
        client.destroy();
      });
      client.on('error', reject);
      const chunk = Buffer.alloc(256 * 1024);
      const pump = (): void => {
        if (!client.destroyed) {
          client.write(chunk, () => setImmediate(pump));
        }
      };
      pump();
    });
    assert.equal(status, 413);
  }));

test('a guest that is gone is 503, one that does not answer 504, rules that it refuses 400', async () => {
  await withMonitor(
    async (monitor) => {
      for (const [method, path, body] of [['GET', '/iptables', ''], ['PUT', '/iptables', 'x'], ['GET', '/direct-volume/stats?path=/dev/null', ''], ['POST', '/direct-volume/resize', '{"VolumePath":"/dev/null","Size":5}'], ['PUT', '/policy', 'x']] as const) {
        assert.equal((await monitor.ask(method, path, body)).status, 503, path);
      }
      assert.equal((await monitor.ask('GET', '/metrics')).status, 200);
      assert.deepEqual(monitor.calls, [], 'its agent is not asked');
    },
    'box1',
    { state: 'stopped' },
  );
  const fails = (code: 'Unavailable' | 'DeadlineExceeded' | 'Unknown'): (() => Promise<never>) => () => Promise.reject(new KataError(code, 'no'));
  for (const [code, get, set] of [['Unavailable', 503, 503], ['DeadlineExceeded', 504, 504], ['Unknown', 500, 400]] as const) {
    await withMonitor(
      async (monitor) => {
        assert.equal((await monitor.ask('GET', '/iptables')).status, get);
        assert.equal((await monitor.ask('PUT', '/iptables', 'x')).status, set);
        assert.equal((await monitor.ask('GET', '/metrics')).status, 200);
      },
      'box1',
      { agent: { getIpTables: fails(code), setIpTables: fails(code), getMetrics: fails(code) } },
    );
  }
});

test('metrics: ours and the guest\'s, which cannot pass its own off as ours', () =>
  withMonitor(async (monitor) => {
    const { body } = await monitor.ask('GET', '/metrics');
    const families = new Map(parseMetrics(body).map((family) => [family.name, family]));
    for (const name of ['kata_shim_threads', 'kata_hypervisor_fds', 'kata_shim_vm_source', 'kata_guest_load', 'kata_agent_process_fds', 'kata_shim_factory_misses_total']) {
      assert.ok(families.has(name), name);
    }
    assert.ok(!body.includes('666') && !body.includes('rubbish'));
    assert.equal(body.split('\n').filter((line) => line.startsWith('# TYPE')).length, families.size, 'no family twice');
  }));

test('the sandbox as JSON, and profiles only when they are enabled', () =>
  withMonitor(
    async (monitor) => {
      const info = JSON.parse((await monitor.ask('GET', '/sandbox')).body) as Record<string, unknown>;
      assert.deepEqual([info['id'], info['state'], info['vmSource'], info['vcpus'], info['memoryMiB']], ['box1', 'running', 'direct', 1, 512]);
      assert.equal((await monitor.ask('GET', '/debug/vars')).status, 200);
      assert.equal((await monitor.ask('GET', '/debug/pprof/heap')).status, 200);
      assert.equal((await monitor.ask('GET', '/debug/pprof/trace')).status, 501);
      assert.equal((await monitor.ask('GET', '/debug/pprof/profile?seconds=1e9')).status, 400);
      const [first, second] = await Promise.all([monitor.ask('GET', '/debug/pprof/profile?seconds=0.2'), monitor.ask('GET', '/debug/pprof/profile?seconds=0.2')]);
      assert.deepEqual([first.status, second.status].sort(), [200, 409]);
    },
    'box1',
    { enablePprof: true },
  ));

test('volume figures: zero is left out, 64 bits are kept', () => {
  assert.equal(statsJson({ usage: [{ available: 9007199254740993n, total: 0n, used: 1n, unit: 'bytes' }], condition: { abnormal: true, message: 'x' } }), '{"usage":[{"available":9007199254740993,"used":1,"unit":1}],"volume_condition":{"abnormal":true,"message":"x"}}');
  assert.equal(statsJson({ usage: [], condition: undefined }), '{}');
  assert.deepEqual(parseResize(Buffer.from('{"VolumePath":"/d","Size":9007199254740993}')), { device: '/d', sizeBytes: 9007199254740993n });
  for (const text of ['{"VolumePath":"/d"}', '{"VolumePath":"/d","Size":-1}', '{"VolumePath":"/d","Size":1.5}', '{"VolumePath":"/d","Size":"5"}', '{"VolumePath":"","Size":5}', 'null']) {
    assert.throws(() => parseResize(Buffer.from(text)), /the body is/, text);
  }
});

test('overhead is host less guest, never below zero', () => {
  assert.deepEqual(overheadBetween({ atNs: 0n, cpuNs: 0, memoryBytes: 0 }, { atNs: 1_000_000_000n, cpuNs: 250_000_000, memoryBytes: 7 }), { cpuPercent: 25, memoryBytes: 7 });
  assert.deepEqual(overheadBetween({ atNs: 0n, cpuNs: 5, memoryBytes: 0 }, { atNs: 1n, cpuNs: 0, memoryBytes: -1 }), { cpuPercent: 0, memoryBytes: 0 });
});
