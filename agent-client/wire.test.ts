/**
 * Every call of the agent protocol byte by byte: field numbers and types as upstream's agents (3.0 and 4.x) read them,
 * written here as literals so that a mistake in our own definitions cannot hide on both sides.
 */
import assert from 'node:assert/strict';
import { chmod, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { TtrpcServer, type Codec, type UnaryMethod } from 'ttrpc-ts';
import { connectAgent } from './connect';
import type { AgentClient, ProcessRef } from './types';

type Value = string | number | bigint | boolean | Uint8Array | Fields | readonly Value[] | Packed;
interface Fields {
  readonly [field: number]: Value;
}

/** A repeated number, which proto3 packs. */
class Packed {
  constructor(readonly values: readonly number[]) {}
}

function varint(value: bigint): Buffer {
  const bytes: number[] = [];
  for (let rest = BigInt.asUintN(64, value); ; rest >>= 7n) {
    if (rest < 0x80n) {
      return Buffer.from([...bytes, Number(rest)]);
    }
    bytes.push(Number(rest & 0x7fn) | 0x80);
  }
}

function field(number: number, value: Value): Buffer {
  if (Array.isArray(value)) {
    return Buffer.concat((value as readonly Value[]).map((one) => field(number, one)));
  }
  if (typeof value === 'number' || typeof value === 'bigint' || typeof value === 'boolean') {
    return Buffer.concat([varint(BigInt(number << 3)), varint(BigInt(value))]);
  }
  const bytes =
    typeof value === 'string' ? Buffer.from(value)
    : value instanceof Uint8Array ? value
    : value instanceof Packed ? Buffer.concat(value.values.map((one) => varint(BigInt(one))))
    : message(value);
  return Buffer.concat([varint(BigInt((number << 3) | 2)), varint(BigInt(bytes.length)), bytes]);
}

function message(fields: Fields): Buffer {
  return Buffer.concat(Object.entries(fields).map(([number, value]) => field(Number(number), value as Value)));
}

/** One call: what is asked of the client, what must be on the wire, what the agent says, what the caller gets. */
interface Row {
  readonly call: (client: AgentClient) => Promise<unknown>;
  readonly method: string;
  readonly request: Fields;
  readonly response?: Fields;
  readonly result?: unknown;
}

const exec: ProcessRef = { containerId: 'c', execId: 'e' };
const DATA = Buffer.from([1, 2, 3]);
let file = '';

const ROWS: Readonly<Record<string, Row>> = {
  'D3 check': { call: (c) => c.check(), method: 'Health/Check', request: {}, response: { 1: 1 } },
  'version': { call: (c) => c.version(), method: 'Health/Version', request: {}, response: { 1: '0.0.1', 2: '3.0.0' }, result: { grpcVersion: '0.0.1', agentVersion: '3.0.0' } },
  'D4 exec': {
    call: (c) => c.execProcess(exec, { terminal: true, consoleSize: { height: 3, width: 4 }, user: { uid: 5, gid: 6, additionalGids: [7, 8] }, args: ['a', 'b'], env: ['X=1'], cwd: '/w', noNewPrivileges: true }),
    method: 'AgentService/ExecProcess',
    request: { 1: 'c', 2: 'e', 4: { 1: true, 2: { 1: 3, 2: 4 }, 3: { 1: 5, 2: 6, 3: new Packed([7, 8]) }, 4: ['a', 'b'], 5: ['X=1'], 6: '/w', 9: true } },
  },
  'D5 stopSandbox': { call: (c) => c.destroySandbox(), method: 'AgentService/DestroySandbox', request: {} },
  'D6 startContainer': { call: (c) => c.startContainer('c'), method: 'AgentService/StartContainer', request: { 1: 'c' } },
  'D7 stopContainer': { call: (c) => c.removeContainer('c', 9), method: 'AgentService/RemoveContainer', request: { 1: 'c', 2: 9 } },
  'D8 signalProcess': { call: (c) => c.signalProcess('c', 'e', 15), method: 'AgentService/SignalProcess', request: { 1: 'c', 2: 'e', 3: 15 } },
  'D8 signalProcess, all': { call: (c) => c.signalProcess('c', undefined, 9), method: 'AgentService/SignalProcess', request: { 1: 'c', 3: 9 } },
  'D9 winsizeProcess': { call: (c) => c.ttyWinResize(exec, 25, 80), method: 'AgentService/TtyWinResize', request: { 1: 'c', 2: 'e', 3: 25, 4: 80 } },
  'D10 writeProcessStdin': { call: (c) => c.writeStdin(exec, DATA), method: 'AgentService/WriteStdin', request: { 1: 'c', 2: 'e', 3: DATA }, response: { 1: 3 }, result: 3 },
  'D11 closeProcessStdin': { call: (c) => c.closeStdin(exec), method: 'AgentService/CloseStdin', request: { 1: 'c', 2: 'e' } },
  'D12 readProcessStdout': { call: async (c) => Buffer.from(await c.readStdout(exec, 100)), method: 'AgentService/ReadStdout', request: { 1: 'c', 2: 'e', 3: 100 }, response: { 1: DATA }, result: DATA },
  'D13 readProcessStderr': { call: async (c) => Buffer.from(await c.readStderr(exec, 100)), method: 'AgentService/ReadStderr', request: { 1: 'c', 2: 'e', 3: 100 }, response: { 1: DATA }, result: DATA },
  'D14 updateContainer': {
    call: (c) => c.updateContainer('c', { memory: { limit: 1 << 20 }, cpu: { shares: 512, quota: 50_000, period: 100_000 } }),
    method: 'AgentService/UpdateContainer',
    request: { 1: 'c', 2: { 2: { 1: 1 << 20 }, 3: { 1: 512, 2: 50_000, 3: 100_000 } } },
  },
  'D15 waitProcess': { call: (c) => c.waitProcess(exec), method: 'AgentService/WaitProcess', request: { 1: 'c', 2: 'e' }, response: { 1: 137 }, result: 137 },
  'D16 onlineCPUMem': { call: (c) => c.onlineCpuMem({ wait: true, cpus: 3, cpuOnly: true }), method: 'AgentService/OnlineCPUMem', request: { 1: true, 2: 3, 3: true } },
  'D17 memHotplugByProbe': { call: (c) => c.memHotplugByProbe([0x8000000n, 0x10000000n]), method: 'AgentService/MemHotplugByProbe', request: { 1: new Packed([0x8000000, 0x10000000]) } },
  'D18 statsContainer': {
    call: async (c) => {
      const { cpu, memory, pids, blkio, hugetlb, network } = await c.statsContainer('c');
      return [cpu.totalNs, cpu.perCpuNs, cpu.kernelNs, cpu.userNs, cpu.periods, cpu.throttledPeriods, cpu.throttledNs, memory.cache, memory.usage, memory.useHierarchy, [...memory.stats], pids, blkio.serviced, [...hugetlb], network[0]?.name, network[0]?.txDropped];
    },
    method: 'AgentService/StatsContainer',
    request: { 1: 'c' },
    response: {
      1: {
        1: { 1: { 1: 11, 2: new Packed([5, 6]), 3: 12, 4: 13 }, 2: { 1: 14, 2: 15, 3: 16 } },
        2: { 1: 17, 2: { 1: 18, 2: 19, 3: 20, 4: 21 }, 5: true, 6: { 1: 'inactive_file', 2: 22 } },
        3: { 1: 23, 2: 24 },
        4: { 2: { 1: 8, 2: 16, 3: 'Read', 4: 25 } },
        5: { 1: '2MB', 2: { 1: 26, 2: 27, 3: 28 } },
      },
      2: { 1: 'eth0', 9: 29 },
    },
    result: [
      11n, [5n, 6n], 12n, 13n, 14n, 15n, 16n, 17n, { usage: 18n, maxUsage: 19n, failcnt: 20n, limit: 21n }, true, [['inactive_file', 22n]], { current: 23n, limit: 24n },
      [{ major: 8n, minor: 16n, op: 'Read', value: 25n }], [['2MB', { usage: 26n, maxUsage: 27n, failcnt: 28n }]], 'eth0', 29n,
    ],
  },
  'D19 pauseContainer': { call: (c) => c.pauseContainer('c'), method: 'AgentService/PauseContainer', request: { 1: 'c' } },
  'D20 resumeContainer': { call: (c) => c.resumeContainer('c'), method: 'AgentService/ResumeContainer', request: { 1: 'c' } },
  'D21 reseedRNG': { call: (c) => c.reseedRandom(DATA), method: 'AgentService/ReseedRandomDev', request: { 2: DATA } },
  'D22 updateInterface': {
    call: (c) => c.updateInterface({ device: 'eth0', name: 'net0', addresses: [{ family: 'v6', address: 'fd00::2', prefixLength: 64 }], mtu: 1400, hwAddr: '02:00:00:00:00:01', devicePath: '02/01', type: 'veth', rawFlags: 128 }),
    method: 'AgentService/UpdateInterface',
    request: { 1: { 1: 'eth0', 2: 'net0', 3: { 1: 1, 2: 'fd00::2', 3: '64' }, 4: 1400, 5: '02:00:00:00:00:01', 6: '02/01', 7: 'veth', 8: 128 } },
  },
  'D23 listInterfaces': {
    call: (c) => c.listInterfaces(),
    method: 'AgentService/ListInterfaces',
    request: {},
    response: { 1: { 1: 'eth0', 2: 'net0', 3: { 2: '10.0.0.2', 3: '24' }, 4: 1400, 5: 'aa', 6: '02/01', 7: 'veth', 8: 128 } },
    result: [{ device: 'eth0', name: 'net0', addresses: [{ family: 'v4', address: '10.0.0.2', prefixLength: 24 }], mtu: 1400, hwAddr: 'aa', devicePath: '02/01', type: 'veth', rawFlags: 128 }],
  },
  'D24 updateRoutes': {
    call: (c) => c.updateRoutes([{ dest: '10.1.0.0/16', gateway: '10.0.0.1', device: 'eth0', source: '10.0.0.2', scope: 253, family: 'v6', flags: 4, mtu: 1300 }]),
    method: 'AgentService/UpdateRoutes',
    request: { 1: { 1: { 1: '10.1.0.0/16', 2: '10.0.0.1', 3: 'eth0', 4: '10.0.0.2', 5: 253, 6: 1, 7: 4, 8: 1300 } } },
  },
  'D25 listRoutes': {
    call: (c) => c.listRoutes(),
    method: 'AgentService/ListRoutes',
    request: {},
    response: { 1: { 1: 'default', 2: '10.0.0.1', 3: 'eth0', 5: 2, 7: 4, 8: 1300 } },
    result: [{ dest: 'default', gateway: '10.0.0.1', device: 'eth0', source: '', scope: 2, family: 'v4', flags: 4, mtu: 1300 }],
  },
  'addARPNeighbors': {
    call: (c) => c.addArpNeighbors([{ address: { family: 'v4', address: '10.0.0.1', prefixLength: 24 }, device: 'eth0', lladdr: 'aa', state: 128, flags: 2 }]),
    method: 'AgentService/AddARPNeighbors',
    request: { 1: { 1: { 1: { 2: '10.0.0.1', 3: '24' }, 2: 'eth0', 3: 'aa', 4: 128, 5: 2 } } },
  },
  'getIPTables': { call: async (c) => Buffer.from(await c.getIpTables(true)), method: 'AgentService/GetIPTables', request: { 1: true }, response: { 1: DATA }, result: DATA },
  'setIPTables': { call: async (c) => Buffer.from(await c.setIpTables(true, DATA)), method: 'AgentService/SetIPTables', request: { 1: true, 2: DATA }, response: { 1: DATA }, result: DATA },
  'getGuestDetails': {
    call: (c) => c.getGuestDetails(),
    method: 'AgentService/GetGuestDetails',
    request: { 1: true, 2: true },
    response: { 1: 0x8000000, 2: { 1: '3.1.0', 2: true, 3: ['blk'], 4: ['9p'], 5: true, 6: ['x'] }, 3: true },
    result: { memoryBlockSizeBytes: 0x8000000n, supportsMemoryHotplugProbe: true, agentVersion: '3.1.0', initDaemon: true, deviceHandlers: ['blk'], storageHandlers: ['9p'], supportsSeccomp: true, extraFeatures: ['x'] },
  },
  'setGuestDateTime': { call: (c) => c.setGuestDateTime(1_700_000_000n, 5n), method: 'AgentService/SetGuestDateTime', request: { 1: 1_700_000_000, 2: 5 } },
  'copyFile': {
    call: (c) => c.copyFile(file, '/g/f'),
    method: 'AgentService/CopyFile',
    request: { 1: '/g/f', 2: 3, 3: 0o100640, 4: 0x800001e8, 8: DATA },
  },
  'getOOMEvent': { call: (c) => c.getOomEvent(new AbortController().signal), method: 'AgentService/GetOOMEvent', request: {}, response: { 1: 'c' }, result: 'c' },
  'getMetrics': { call: (c) => c.getMetrics(), method: 'AgentService/GetMetrics', request: {}, response: { 1: 'x 1\n' }, result: 'x 1\n' },
  'setPolicy': { call: (c) => c.setPolicy('p'), method: 'AgentService/SetPolicy', request: { 1: 'p' } },
  'addSwap': { call: (c) => c.addSwap([2, 300]), method: 'AgentService/AddSwap', request: { 1: new Packed([2, 300]) } },
  'getVolumeStats': {
    call: (c) => c.getVolumeStats('/v'),
    method: 'AgentService/GetVolumeStats',
    request: { 1: '/v' },
    response: { 1: [{ 1: 1, 2: 2, 3: 3, 4: 1 }, { 1: 4, 2: 5, 3: 6, 4: 2 }], 2: { 1: true, 2: 'bad' } },
    result: { usage: [{ available: 1n, total: 2n, used: 3n, unit: 'bytes' }, { available: 4n, total: 5n, used: 6n, unit: 'inodes' }], condition: { abnormal: true, message: 'bad' } },
  },
  'resizeVolume': { call: (c) => c.resizeVolume('/v', 1n << 40n), method: 'AgentService/ResizeVolume', request: { 1: '/v', 2: 1n << 40n } },
  'createSandbox': {
    call: (c) =>
      c.createSandbox({
        hostname: 'h', dns: ['nameserver 1.1.1.1'], sandboxPidns: true, sandboxId: 'sb', guestHookPath: '/hooks', kernelModules: [{ name: 'm', parameters: ['a=1'] }],
        storages: [{ driver: 'blk', driverOptions: ['o'], source: '02/01', fstype: 'ext4', options: ['ro'], mountPoint: '/m', fsGroup: { groupId: 7, changePolicy: 'on-root-mismatch' } }],
      }),
    method: 'AgentService/CreateSandbox',
    request: { 1: 'h', 2: 'nameserver 1.1.1.1', 3: { 1: 'blk', 2: 'o', 3: '02/01', 4: 'ext4', 5: 'ro', 6: '/m', 7: { 2: 7, 3: 1 } }, 4: true, 5: 'sb', 6: '/hooks', 7: { 1: 'm', 2: 'a=1' } },
  },
  'createContainer': {
    call: (c) =>
      c.createContainer({
        containerId: 'c', sandboxPidns: true, storages: [], spec: { ociVersion: '1.0.2', hostname: 'h' },
        devices: [{ id: '02/02', type: 'blk', vmPath: '/dev/vdb', containerPath: '/dev/x' }],
      }),
    method: 'AgentService/CreateContainer',
    request: { 1: 'c', 2: 'c', 4: { 1: '02/02', 2: 'blk', 3: '/dev/vdb', 4: '/dev/x' }, 6: { 1: '1.0.2', 4: 'h' }, 7: true },
  },
};

const bytesCodec: Codec<Uint8Array> = { encode: (value) => value, decode: (value) => value };
const bytesMethod: UnaryMethod<Uint8Array, Uint8Array> = { kind: 'unary', request: bytesCodec, response: bytesCodec };

describe('the agent protocol on the wire', () => {
  let folder = '';
  let server: TtrpcServer;
  let client: AgentClient;
  let seen: { method: string; bytes: Buffer } | undefined;
  let answer: Fields = {};

  before(async () => {
    folder = await mkdtemp(join(tmpdir(), 'agent-wire-'));
    file = join(folder, 'file');
    await writeFile(file, DATA);
    await chmod(file, 0o640);
    server = new TtrpcServer();
    for (const service of ['AgentService', 'Health']) {
      const names = [...new Set(Object.values(ROWS).map(({ method }) => method))].filter((name) => name.startsWith(`${service}/`)).map((name) => name.slice(service.length + 1));
      const methods = Object.fromEntries(names.map((name) => [name, bytesMethod]));
      const handlers = names.map((name) => [
        name,
        (bytes: Uint8Array): Uint8Array => {
          seen = { method: `${service}/${name}`, bytes: Buffer.from(bytes) };
          return message(answer);
        },
      ]);
      server.register({ name: `grpc.${service}`, methods }, Object.fromEntries(handlers) as object);
    }
    const path = join(folder, 's');
    await server.listen({ path });
    client = await connectAgent(`unix://${path}`, { sandboxId: 'sb', timeoutMs: 5_000 });
  });

  after(async () => {
    client.close();
    await server.close();
    await rm(folder, { recursive: true, force: true });
  });

  for (const [name, row] of Object.entries(ROWS)) {
    test(name, async () => {
      seen = undefined;
      answer = row.response ?? {};
      const result = await row.call(client);
      assert.equal((seen as { method: string } | undefined)?.method, row.method);
      const sent: Buffer = (seen as { bytes: Buffer } | undefined)?.bytes ?? Buffer.alloc(0);
      assert.equal(sent.toString('hex'), message(row.request).toString('hex'), JSON.stringify(sent.toString('latin1')));
      assert.deepEqual(result, row.result);
    });
  }
});
