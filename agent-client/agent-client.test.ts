import assert from 'node:assert/strict';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { test, type TestContext } from 'node:test';
import { MAX_MESSAGE_BYTES, TtrpcError } from 'ttrpc-ts';
import { isCode, KataError } from '../base/errors';
import { FSGroupChangePolicy } from '../gen/agent/agent';
import { connectAgent } from './connect';
import { startFakeAgent, startRawPeer, type AgentHandlers } from './testing/fake-agent';
import type { AgentClient, ConnectOptions } from './types';

type HealthHandlers = NonNullable<Parameters<typeof startFakeAgent>[1]>;

async function clientOf(t: TestContext, handlers: AgentHandlers, more: Partial<ConnectOptions> = {}, health: HealthHandlers = {}): Promise<AgentClient> {
  const agent = await startFakeAgent(handlers, { check: () => ({ status: 1 }), version: () => ({ grpcVersion: '0.0.1', agentVersion: '3.0.0' }), ...health });
  t.after(agent.close);
  const client = await connectAgent(agent.url, { sandboxId: 'sb', timeoutMs: 5_000, ...more });
  t.after(() => client.close());
  return client;
}

const init = { containerId: 'c', execId: 'c' };

test('health is asked and the version is told', async (t) => {
  const client = await clientOf(t, {});
  await client.check();
  assert.deepEqual(await client.version(), { grpcVersion: '0.0.1', agentVersion: '3.0.0' });
});

test('a container is created with storages, devices and its configuration', async (t) => {
  let seen: unknown;
  const client = await clientOf(t, {
    createContainer: (request) => {
      seen = request;
      return {};
    },
  });
  await client.createContainer({
    containerId: 'c',
    spec: { ociVersion: '1.0.2', process: { args: ['sh'] } },
    storages: [
      { driver: 'blk', source: '02/01', fstype: 'ext4', mountPoint: '/m', fsGroup: { groupId: 7, changePolicy: 'on-root-mismatch' } },
    ],
    devices: [{ id: '02/02', type: 'blk', vmPath: '/dev/vdb', containerPath: '/dev/x' }],
    sandboxPidns: true,
  });
  const request = seen as Parameters<NonNullable<AgentHandlers['createContainer']>>[0];
  assert.equal(request.execId, 'c');
  assert.equal(request.sandboxPidns, true);
  assert.deepEqual(request.oci?.process?.args, ['sh']);
  assert.deepEqual(request.devices[0], { id: '02/02', type: 'blk', vmPath: '/dev/vdb', containerPath: '/dev/x', options: [] });
  assert.deepEqual(request.storages[0]?.fsGroup, { groupId: 7, groupChangePolicy: FSGroupChangePolicy.OnRootMismatch });
});

test('a sandbox is created with a host name that the kernel takes', async (t) => {
  const names: string[] = [];
  const client = await clientOf(t, {
    createSandbox: ({ hostname, kernelModules }) => {
      names.push(hostname, ...kernelModules.map(({ name }) => name));
      return {};
    },
  });
  await client.createSandbox({
    hostname: 'h'.repeat(100), dns: [''], storages: [], sandboxPidns: false, sandboxId: 'sb', guestHookPath: '',
    kernelModules: [{ name: 'm', parameters: ['a=1'] }],
  });
  assert.deepEqual(names, ['h'.repeat(64), 'm']);
});

test('the agent knows how long the caller waits; Wait and reads have no limit', async (t) => {
  const waits: Record<string, number | undefined> = {};
  const note = (name: string, deadlineMs: number | undefined): void => {
    waits[name] = deadlineMs === undefined ? undefined : Math.round((deadlineMs - Date.now()) / 10_000) * 10;
  };
  const client = await clientOf(t, {
    startContainer: (_, { deadlineMs }) => (note('start', deadlineMs), {}),
    createContainer: (_, { deadlineMs }) => (note('create', deadlineMs), {}),
    waitProcess: (_, { deadlineMs }) => (note('wait', deadlineMs), { status: 137 }),
    readStdout: (_, { deadlineMs }) => (note('read', deadlineMs), { data: Buffer.from('x') }),
    getOOMEvent: (_, { deadlineMs }) => (note('oom', deadlineMs), { containerId: 'c' }),
  }, {}, { check: (_, { deadlineMs }) => (note('check', deadlineMs), { status: 1 }) });
  await client.check();
  await client.startContainer('c');
  await client.createContainer({ containerId: 'c', spec: {}, storages: [], devices: [], sandboxPidns: false, timeoutMs: 90_000 });
  assert.equal(await client.waitProcess(init), 137);
  await client.readStdout(init, 10);
  assert.equal(await client.getOomEvent(new AbortController().signal), 'c');
  assert.deepEqual(waits, { check: 30, start: 60, create: 90, wait: undefined, read: undefined, oom: undefined });
});

test('the end of a stream is empty data, as agents of both kinds say it', async (t) => {
  const client = await clientOf(t, {
    readStdout: () => ({ data: new Uint8Array(0) }),
    readStderr: () => {
      throw new TtrpcError('InvalidArgument', 'read meet eof');
    },
  });
  assert.equal((await client.readStdout(init, 32768)).length, 0);
  assert.equal((await client.readStderr(init, 32768)).length, 0);
});

test('another failure of a read is an error', async (t) => {
  const client = await clientOf(t, {
    readStdout: () => {
      throw new TtrpcError('InvalidArgument', 'invalid container id');
    },
  });
  await assert.rejects(client.readStdout(init, 10), (error) => isCode(error, 'InvalidArgument') && /"sb": invalid container id/.test(String(error)));
});

test('an agent that gives more than was asked for, or took more than was given, is not believed', async (t) => {
  const client = await clientOf(t, { readStdout: () => ({ data: Buffer.alloc(11) }), writeStdin: () => ({ len: 4 }) });
  await assert.rejects(client.readStdout(init, 10), (error) => isCode(error, 'DataLoss'));
  await assert.rejects(client.writeStdin(init, Buffer.alloc(3)), (error) => isCode(error, 'DataLoss'));
});

test('a write that no message can carry is taken in part', async (t) => {
  const client = await clientOf(t, { writeStdin: ({ data }) => ({ len: data.length }) });
  const taken = await client.writeStdin(init, Buffer.alloc(MAX_MESSAGE_BYTES + 1));
  assert.ok(taken > MAX_MESSAGE_BYTES - 8192 && taken < MAX_MESSAGE_BYTES);
});

test('a signal to a process that has ended is success, to all processes it has no exec id', async (t) => {
  const seen: unknown[] = [];
  const client = await clientOf(t, {
    signalProcess: (request) => {
      seen.push(request);
      throw new TtrpcError('Internal', request.signal === 9 ? 'ESRCH: No such process' : 'EPERM');
    },
  });
  await client.signalProcess('c', undefined, 9);
  await client.signalProcess('c', 'e', 9);
  await assert.rejects(client.signalProcess('c', 'e', 15), (error) => isCode(error, 'Internal'));
  assert.deepEqual(seen[0], { containerId: 'c', execId: '', signal: 9 });
});

test('an agent without AddARPNeighbors is tolerated; without anything else it is not', async (t) => {
  const client = await clientOf(t, {});
  const address = { family: 'v4', address: '10.0.0.1', prefixLength: 24 } as const;
  await client.addArpNeighbors([{ address, device: 'eth0', lladdr: '00:00:00:00:00:01', state: 128, flags: 0 }]);
  await assert.rejects(client.setPolicy('x'), (error) => isCode(error, 'Unimplemented'));
});

test('an interface that is late in the guest is tried again', async (t) => {
  let calls = 0;
  const client = await clientOf(t, {
    updateInterface: ({ interface: link }) => {
      calls++;
      if (calls < 3) {
        throw new TtrpcError('Internal', 'Link not found (Address: 02:00:00:00:00:01)');
      }
      assert.ok(link !== undefined);
      assert.deepEqual(link.ipAddresses, [{ family: 1, address: 'fd00::2', mask: '64' }]);
      return link;
    },
  });
  await client.updateInterface({
    device: 'eth0', name: 'eth0', addresses: [{ family: 'v6', address: 'fd00::2', prefixLength: 64 }], mtu: 1500,
    hwAddr: '02:00:00:00:00:01', devicePath: '', type: '', rawFlags: 0,
  });
  assert.equal(calls, 3);
});

test('routes, interfaces and iptables come back as they went', async (t) => {
  const client = await clientOf(t, {
    listRoutes: () => ({ routes: [{ dest: 'default', gateway: '10.0.0.1', device: 'eth0', source: '', scope: 0, family: 0, flags: 0, mtu: 1400 }] }),
    listInterfaces: () => ({
      interfaces: [{ device: 'eth0', name: 'eth0', ipAddresses: [{ family: 0, address: '10.0.0.2', mask: '24' }, { family: 7 as 0, address: 'x', mask: 'y' }], mtu: 1500n, hwAddr: 'a', devicePath: '02/01', type: '', rawFlags: 0 }],
    }),
    setIPTables: ({ isIpv6, data }) => ({ data: isIpv6 ? data : new Uint8Array(0) }),
  });
  assert.deepEqual(await client.listRoutes(), [
    { dest: 'default', gateway: '10.0.0.1', device: 'eth0', source: '', scope: 0, family: 'v4', flags: 0, mtu: 1400 },
  ]);
  const [link] = await client.listInterfaces();
  assert.deepEqual(link?.addresses[0], { family: 'v4', address: '10.0.0.2', prefixLength: 24 });
  assert.deepEqual(link.addresses[1], { family: 'v4', address: 'x', prefixLength: 0 });
  assert.deepEqual(Buffer.from(await client.setIpTables(true, Buffer.from('*nat'))).toString(), '*nat');
});

test('figures that the agent leaves out are zero', async (t) => {
  const client = await clientOf(t, {
    statsContainer: ({ containerId }) =>
      containerId === 'none'
        ? { cgroupStats: undefined, networkStats: [] }
        : {
            cgroupStats: {
              cpuStats: { cpuUsage: { totalUsage: 2n ** 63n, percpuUsage: [1n, 2n], usageInKernelmode: 3n, usageInUsermode: 4n }, throttlingData: undefined },
              memoryStats: { cache: 1n, usage: { usage: 5n, maxUsage: 6n, failcnt: 7n, limit: 2n ** 64n - 1n }, swapUsage: undefined, kernelUsage: undefined, useHierarchy: true, stats: new Map([['inactive_file', 9n]]) },
              pidsStats: undefined,
              blkioStats: undefined,
              hugetlbStats: new Map([['2MB', { usage: 1n, maxUsage: 2n, failcnt: 3n }]]),
            },
            networkStats: [{ name: 'eth0', rxBytes: 1n, rxPackets: 2n, rxErrors: 3n, rxDropped: 4n, txBytes: 5n, txPackets: 6n, txErrors: 7n, txDropped: 8n }],
          },
  });
  const none = await client.statsContainer('none');
  assert.equal(none.memory.usage.usage, 0n);
  assert.deepEqual(none.network, []);
  const stats = await client.statsContainer('c');
  assert.equal(stats.cpu.totalNs, 2n ** 63n);
  assert.equal(stats.memory.usage.limit, 2n ** 64n - 1n);
  assert.equal(stats.memory.stats.get('inactive_file'), 9n);
  assert.deepEqual(stats.hugetlb.get('2MB'), { usage: 1n, maxUsage: 2n, failcnt: 3n });
  assert.equal(stats.network[0]?.txDropped, 8n);
});

test('latency is told under the request names that upstream uses', async (t) => {
  const calls: [string, boolean][] = [];
  const client = await clientOf(
    t,
    { startContainer: () => ({}), readStdout: () => ({ data: new Uint8Array(0) }), getGuestDetails: () => ({ memBlockSizeBytes: 1n, agentDetails: undefined, supportMemHotplugProbe: false }) },
    { onCall: (request, durationMs, ok) => { assert.ok(durationMs >= 0); calls.push([request, ok]); } },
  );
  await client.check();
  await client.startContainer('c');
  await client.readStdout(init, 1);
  await client.getGuestDetails();
  await assert.rejects(client.destroySandbox());
  assert.deepEqual(calls, [
    ['CheckRequest', true], ['StartContainerRequest', true], ['ReadStreamRequest', true], ['GuestDetailsRequest', true], ['DestroySandboxRequest', false],
  ]);
});

const never = async (): Promise<never> => new Promise(() => undefined);

test('an agent that never answers: the call ends with the time, naming call, sandbox and key', async (t) => {
  const client = await clientOf(t, { createContainer: never, startContainer: never }, { defaultTimeoutMs: 20 });
  await assert.rejects(
    client.startContainer('c'),
    (error) => isCode(error, 'DeadlineExceeded') && String(error).includes('agent call StartContainer of sandbox "sb": no answer within 20 ms'),
  );
  await assert.rejects(
    client.createContainer({ containerId: 'c', spec: {}, storages: [], devices: [], sandboxPidns: false, timeoutMs: 20 }),
    (error) => isCode(error, 'DeadlineExceeded') && String(error).includes('create_container_timeout'),
  );
});

test('a parked call ends when its signal fires', async (t) => {
  const client = await clientOf(t, { waitProcess: never, getOOMEvent: never });
  const controller = new AbortController();
  const parked = [client.waitProcess(init, controller.signal), client.getOomEvent(controller.signal)];
  controller.abort(new KataError('Canceled', 'the container was deleted'));
  for (const call of parked) {
    await assert.rejects(call, (error) => isCode(error, 'Canceled') && String(error).includes('the container was deleted'));
  }
});

test('a dead agent: pending and later calls fail at once with the reason, closed tells it', async (t) => {
  const client = await clientOf(t, { waitProcess: never });
  const parked = client.waitProcess(init);
  client.markDead(new KataError('Unavailable', 'qemu was killed by SIGKILL'));
  client.markDead(new KataError('Unavailable', 'a later reason'));
  const isDead = (error: unknown): boolean =>
    isCode(error, 'Unavailable') && String(error).includes('agent of sandbox "sb" is dead: qemu was killed by SIGKILL');
  await assert.rejects(parked, isDead);
  await assert.rejects(client.check(), isDead);
  assert.ok(isDead(await client.closed));
});

test('an agent that goes away: pending calls fail, closed tells the address', async (t) => {
  const agent = await startFakeAgent({ waitProcess: never });
  t.after(agent.close);
  const client = await connectAgent(agent.url, { sandboxId: 'sb', timeoutMs: 5_000 });
  const parked = client.waitProcess(init);
  await agent.server.close();
  const isGone = (error: unknown): boolean => isCode(error, 'Unavailable') && String(error).includes(`connection to ${agent.url} ended`);
  await assert.rejects(parked, isGone);
  assert.ok(isGone(await client.closed));
  await assert.rejects(client.check(), isGone);
});

/** The first request's frame header comes, then `answer` is sent. */
async function clientOfRaw(t: TestContext, answer: Buffer, thenClose = false): Promise<AgentClient> {
  const peer = await startRawPeer((socket) => {
    socket.once('data', () => {
      socket.write(answer);
      if (thenClose) {
        socket.end();
      }
    });
  });
  t.after(peer.close);
  const client = await connectAgent(peer.url, { sandboxId: 'sb', timeoutMs: 5_000, defaultTimeoutMs: 200 });
  t.after(() => client.close());
  return client;
}

function header(length: number, streamId: number, type: number): Buffer {
  const bytes = Buffer.alloc(10);
  bytes.writeUInt32BE(length, 0);
  bytes.writeUInt32BE(streamId, 4);
  bytes[8] = type;
  return bytes;
}

test('an agent that answers nonsense: the call fails, the client lives', async (t) => {
  const nonsense = Buffer.concat([header(4, 1, 2), Buffer.from('\xff\xff\xff\xff', 'latin1')]);
  const client = await clientOfRaw(t, nonsense);
  await assert.rejects(client.startContainer('c'), (error) => isCode(error, 'Internal'));
  await assert.rejects(client.startContainer('c'), (error) => isCode(error, 'DeadlineExceeded'));
});

test('an agent that closes in the middle of a frame: Unavailable, and why', async (t) => {
  const client = await clientOfRaw(t, Buffer.concat([header(100, 1, 2), Buffer.alloc(50)]), true);
  await assert.rejects(client.startContainer('c'), (error) => isCode(error, 'Unavailable'));
  assert.match((await client.closed).message, /middle of a message/);
});

test('an agent that announces 3 GB costs no memory and fails the call only', async (t) => {
  const client = await clientOfRaw(t, Buffer.concat([header(3 * 2 ** 30, 1, 2), Buffer.alloc(1000)]));
  const before = process.memoryUsage().arrayBuffers;
  await assert.rejects(client.startContainer('c'), KataError);
  assert.ok(process.memoryUsage().arrayBuffers - before < 16 << 20);
});

test('an error of the agent keeps its code and its words', async (t) => {
  const client = await clientOf(t, {
    createContainer: () => {
      throw new TtrpcError('NotFound', 'exec: "nope": executable file not found in $PATH');
    },
  });
  await assert.rejects(
    client.createContainer({ containerId: 'c', spec: {}, storages: [], devices: [], sandboxPidns: false }),
    (error) => isCode(error, 'NotFound') && String(error).includes('executable file not found in $PATH'),
  );
});

test('a thousand calls at once are told apart', async (t) => {
  const client = await clientOf(t, { waitProcess: ({ execId }) => ({ status: Number(execId) }) });
  const statuses = await Promise.all(Array.from({ length: 1000 }, async (_, i) => client.waitProcess({ containerId: 'c', execId: String(i) })));
  assert.deepEqual(statuses, Array.from({ length: 1000 }, (_, i) => i));
});

test('close ends the connection of the agent too', async (t) => {
  const agent = await startFakeAgent({ startContainer: () => ({}) });
  t.after(agent.close);
  const client = await connectAgent(agent.url, { sandboxId: 'sb', timeoutMs: 5_000 });
  await client.startContainer('c');
  client.close();
  await assert.rejects(client.startContainer('c'), (error) => isCode(error, 'Unavailable'));
  while (agent.server.connections > 0) {
    await nextTurn();
  }
});
