import assert from 'node:assert/strict';
import { existsSync, readFileSync } from 'node:fs';
import { after, before, describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { TtrpcError } from 'ttrpc-ts';
import type { AgentClient} from './mock-agent';
import { missing, MockAgent, processOf, specOf } from './mock-agent';

const skip = missing() ?? false;
const LIMIT = { timeout: 60_000 };

describe('guest agent as a mock', { skip, timeout: 240_000 }, () => {
  let agent: MockAgent;
  let client: AgentClient;

  before(async () => {
    agent = await MockAgent.start();
    client = await agent.connect();
    await client.call('createSandbox', { hostname: 'pod-host', sandboxId: 'pod1' });
  });

  after(async () => {
    client.close();
    await agent.stop();
  });

  async function status(containerId: string, execId = containerId): Promise<number> {
    return (await client.call('waitProcess', { containerId, execId })).status;
  }

  const output = async (id: string, execId = id): Promise<string> => (await client.readAll('readStdout', id, execId)).toString();

  const exec = async (containerId: string, script: string, terminal = false): Promise<string> => {
    const execId = agent.nextId();
    await client.call('execProcess', { containerId, execId, process: processOf(['sh', '-c', script], terminal) });
    return execId;
  };

  it('says that it serves', LIMIT, async () => {
    assert.equal(await client.check(), 1);
  });

  it('runs a container to its exit code, with its output and errors apart', LIMIT, async () => {
    const id = await agent.run(client, 'echo out; echo err >&2; exit 7');
    const [out, err] = await Promise.all([output(id), client.readAll('readStderr', id)]);
    assert.equal(out, 'out\n');
    assert.equal(err.toString(), 'err\n');
    assert.equal(await status(id), 7);
    assert.equal(await status(id), 7, 'the status of an init is kept');
    await client.call('removeContainer', { containerId: id });
  });

  it('gives a short program\'s output to one who reads late', LIMIT, async () => {
    const id = await agent.run(client, 'seq 1 2000');
    assert.equal(await status(id), 0);
    await sleep(50);
    assert.equal((await output(id)).split('\n').length, 2001);
    await client.call('removeContainer', { containerId: id });
  });

  it('shares the pod\'s host name with its containers', LIMIT, async () => {
    const id = await agent.run(client, 'hostname');
    assert.equal(await output(id), 'pod-host\n');
    await client.call('removeContainer', { containerId: id });
  });

  it('runs further processes, and reports their exit codes', LIMIT, async () => {
    const id = await agent.run(client, 'sleep 100');
    const codes = await Promise.all([0, 3, 42].map(async (code) => {
      const execId = await exec(id, `echo ${String(code)}; exit ${String(code)}`);
      assert.equal(await output(id, execId), `${String(code)}\n`);
      return status(id, execId);
    }));
    assert.deepEqual(codes, [0, 3, 42]);
    await client.call('removeContainer', { containerId: id });
  });

  it('passes arguments that are longer than a command line may be for one tool', LIMIT, async () => {
    const id = await agent.run(client, 'sleep 100');
    const execId = await exec(id, `: ${'x'.repeat(100_000)}; echo done`);
    assert.equal(await output(id, execId), 'done\n');
    await client.call('removeContainer', { containerId: id });
  });

  it('carries stdin to its end', LIMIT, async () => {
    const id = await agent.run(client, 'cat; echo end');
    const reading = output(id);
    for (const text of ['one ', 'two ', 'three\n']) {
      const { len } = await client.call('writeStdin', { containerId: id, execId: id, data: Buffer.from(text) });
      assert.equal(len, text.length);
    }
    await client.call('closeStdin', { containerId: id, execId: id });
    await client.call('closeStdin', { containerId: id, execId: id });
    assert.equal(await reading, 'one two three\nend\n');
    await client.call('removeContainer', { containerId: id });
  });

  it('loses nothing of 100 MB of output', LIMIT, async () => {
    const id = await agent.run(client, 'dd if=/dev/zero bs=1024k count=100 2>/dev/null');
    const startedMs = performance.now();
    let size = 0;
    for (;;) {
      const { data } = await client.call('readStdout', { containerId: id, execId: id, len: 1024 * 1024 });
      if (data.length === 0) {
        break;
      }
      size += data.length;
    }
    assert.equal(size, 100 * 1024 * 1024);
    console.log(`  100 MB of stdout: ${(100 / ((performance.now() - startedMs) / 1000)).toFixed(0)} MB/s`);
    assert.equal(await status(id), 0);
    await client.call('removeContainer', { containerId: id });
  });

  it('loses nothing of what is written to stdin', LIMIT, async () => {
    const id = await agent.run(client, 'wc -c');
    for (let at = 0; at < 20; at++) {
      await client.call('writeStdin', { containerId: id, execId: id, data: Buffer.alloc(1024 * 1024, at) });
    }
    await client.call('writeStdin', { containerId: id, execId: id, data: Buffer.alloc(0) });
    assert.equal((await output(id)).trim(), String(20 * 1024 * 1024));
    await client.call('removeContainer', { containerId: id });
  });

  it('gives a process a terminal, with a size', LIMIT, async () => {
    const id = await agent.run(client, 'read line; stty size; echo "got $line"; exit 5', { terminal: true });
    await client.call('ttyWinResize', { containerId: id, execId: id, row: 33, column: 99 });
    await client.call('writeStdin', { containerId: id, execId: id, data: Buffer.from('hello\n') });
    const text = await output(id);
    assert.match(text, /33 99\r\n/);
    assert.match(text, /got hello\r\n/);
    assert.equal(await status(id), 5);
    await client.call('removeContainer', { containerId: id });
  });

  it('gives all of a terminal\'s tail', LIMIT, async () => {
    for (let round = 0; round < 3; round++) {
      const id = await agent.run(client, 'seq 1 50000', { terminal: true });
      const lines = (await output(id)).trim().split('\r\n');
      assert.equal(lines.length, 50_000);
      assert.equal(lines.at(-1), '50000');
      await client.call('removeContainer', { containerId: id });
    }
  });

  it('gives an exec a terminal', LIMIT, async () => {
    const id = await agent.run(client, 'sleep 100');
    const execId = await exec(id, 'tty; exit 9', true);
    assert.match(await output(id, execId), /\/dev\/pts\/\d+\r\n/);
    assert.equal(await status(id, execId), 9);
    await client.call('removeContainer', { containerId: id });
  });

  it('kills one process, or all', LIMIT, async () => {
    const id = await agent.run(client, 'sleep 100 & sleep 100 & wait');
    const execId = await exec(id, 'sleep 100');
    await client.call('signalProcess', { containerId: id, execId, signal: 9 });
    assert.equal(await status(id, execId), 137);
    const other = await exec(id, 'sleep 100');
    await client.call('signalProcess', { containerId: id, signal: 9 });
    assert.equal(await status(id), 137);
    assert.equal(await status(id, other), 137);
    await assert.rejects(client.call('signalProcess', { containerId: id, signal: 9 }), /ESRCH: No such process/);
    await client.call('removeContainer', { containerId: id });
  });

  it('ends an init that has no handler for SIGTERM, and lets one that has it decide', LIMIT, async () => {
    const plain = await agent.run(client, 'exec sleep 100');
    await client.call('signalProcess', { containerId: plain, execId: plain, signal: 15 });
    assert.equal(await status(plain), 137);
    const handling = await agent.run(client, 'trap "exit 3" TERM; echo ready; while :; do sleep 0.05; done');
    await client.call('readStdout', { containerId: handling, execId: handling, len: 100 });
    await client.call('signalProcess', { containerId: handling, execId: handling, signal: 15 });
    assert.equal(await status(handling), 3);
    await Promise.all([plain, handling].map((containerId) => client.call('removeContainer', { containerId })));
  });

  it('ends a stream 0.5 s after its process where an orphan holds it', LIMIT, async () => {
    const id = await agent.run(client, 'sleep 100');
    const execId = await exec(id, 'sleep 30 & echo first; exit 4');
    const startedMs = performance.now();
    assert.equal(await output(id, execId), 'first\n');
    const tookMs = performance.now() - startedMs;
    assert.ok(tookMs >= 300 && tookMs < 3000, `took ${tookMs.toFixed(0)} ms`);
    assert.equal(await status(id, execId), 4);
    await client.call('removeContainer', { containerId: id });
  });

  it('pauses and resumes', LIMIT, async () => {
    const id = await agent.run(client, 'while :; do echo x >> /tmp/count; done');
    const count = `${agent.folder}/share/rootfs/tmp/count`;
    const lines = (): number => (existsSync(count) ? readFileSync(count).length : 0);
    const grown = async (from: number): Promise<void> => {
      for (const deadline = Date.now() + 10_000; lines() <= from && Date.now() < deadline; ) {
        await sleep(10);
      }
      assert.ok(lines() > from, `stays at ${String(from)}`);
    };
    await grown(0);
    await client.call('pauseContainer', { containerId: id });
    const paused = lines();
    await sleep(100);
    assert.equal(lines(), paused);
    await client.call('resumeContainer', { containerId: id });
    await grown(paused);
    await client.call('removeContainer', { containerId: id });
  });

  it('counts what a container uses, and changes its limits', LIMIT, async () => {
    const id = await agent.run(client, 'i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; echo done; sleep 100');
    await client.call('readStdout', { containerId: id, execId: id, len: 100 });
    const { cgroupStats } = await client.call('statsContainer', { containerId: id });
    assert.ok((cgroupStats?.cpuStats?.cpuUsage?.totalUsage ?? 0n) > 0n);
    assert.equal(cgroupStats?.memoryStats?.usage?.limit, 268435456n);
    assert.ok((cgroupStats.memoryStats.stats.size) > 5);
    assert.ok((cgroupStats.pidsStats?.current ?? 0n) >= 1n);
    const memory = { limit: 134217728n, reservation: 0n, swap: 0n, kernel: 0n, kernelTcp: 0n, swappiness: 0n, disableOomKiller: false };
    await client.call('updateContainer', { containerId: id, resources: { devices: [], hugepageLimits: [], memory } });
    const after = await client.call('statsContainer', { containerId: id });
    assert.equal(after.cgroupStats?.memoryStats?.usage?.limit, 134217728n);
    await client.call('removeContainer', { containerId: id });
  });

  it('runs two containers beside each other, each in its own pid namespace', LIMIT, async () => {
    const [one, two] = await Promise.all([agent.run(client, 'echo $$; sleep 0.2'), agent.run(client, 'echo $$; sleep 0.2')]);
    assert.deepEqual(await Promise.all([output(one), output(two)]), ['1\n', '1\n']);
    await Promise.all([one, two].map((containerId) => client.call('removeContainer', { containerId })));
  });

  it('joins a container to the pid namespace of the pod\'s first', LIMIT, async () => {
    const other = await MockAgent.start();
    const own = await other.connect();
    try {
      const first = await other.run(own, 'sleep 100', { id: 'pause-box' });
      const id = 'app-box';
      await own.call('createContainer', { containerId: id, execId: id, sandboxPidns: true, oci: specOf(id, ['sh', '-c', 'cat /proc/1/cmdline']) });
      await own.call('startContainer', { containerId: id });
      assert.match((await own.readAll('readStdout', id)).toString(), /sleep/);
      await own.call('removeContainer', { containerId: id });
      await own.call('removeContainer', { containerId: first });
    } finally {
      own.close();
      await other.stop();
    }
  });

  it('keeps containers over a connection that breaks in the middle of a frame', LIMIT, async () => {
    const id = await agent.run(client, 'cat');
    const parked = client.call('readStdout', { containerId: id, execId: id, len: 100 });
    parked.catch(() => undefined);
    client.socket.write(Buffer.from([0, 0, 1]));
    client.close();
    await assert.rejects(parked, TtrpcError);
    client = await agent.connect();
    await client.call('writeStdin', { containerId: id, execId: id, data: Buffer.from('still here') });
    const { data } = await client.call('readStdout', { containerId: id, execId: id, len: 100 });
    assert.equal(Buffer.from(data).toString(), 'still here');
    await client.call('closeStdin', { containerId: id, execId: id });
    assert.equal(await status(id), 0);
    await client.call('removeContainer', { containerId: id });
  });

  it('says why a program cannot be run, in the words that Docker looks for', LIMIT, async () => {
    const attempt = async (program: string): Promise<TtrpcError> => {
      const id = agent.nextId();
      try {
        await client.call('createContainer', { containerId: id, execId: id, oci: specOf(id, [program]) });
      } catch (reason) {
        assert.ok(reason instanceof TtrpcError);
        return reason;
      }
      throw new Error(`${program} was accepted`);
    };
    const gone = await attempt('no-such-program');
    assert.equal(gone.code, 'NotFound');
    assert.match(gone.message, /executable file not found/);
    assert.match((await attempt('/no/such')).message, /no such file or directory/);
    const folder = await attempt('/tmp');
    assert.equal(folder.code, 'PermissionDenied');
    assert.match(folder.message, /is a directory.*permission denied/);
    const id = await agent.run(client, 'sleep 100');
    await assert.rejects(
      client.call('execProcess', { containerId: id, execId: 'exec-x', process: processOf(['nothing-here']) }),
      /executable file not found/,
    );
    await client.call('removeContainer', { containerId: id });
  });

  it('refuses bad ids, unknown containers and a second container of one id', LIMIT, async () => {
    const code = async (call: Promise<unknown>): Promise<string> => {
      try {
        await call;
      } catch (reason) {
        assert.ok(reason instanceof TtrpcError);
        return reason.code;
      }
      return 'OK';
    };
    assert.equal(await code(client.call('createContainer', { containerId: '../evil', oci: specOf('x', ['sh']) })), 'InvalidArgument');
    assert.equal(await code(client.call('startContainer', { containerId: 'nobody' })), 'NotFound');
    const id = await agent.run(client, 'sleep 100');
    assert.equal(await code(client.call('createContainer', { containerId: id, oci: specOf(id, ['sh']) })), 'AlreadyExists');
    assert.equal(await code(client.call('setPolicy', { policy: '' })), 'Unimplemented');
    await client.call('removeContainer', { containerId: id });
    assert.equal(await code(client.call('removeContainer', { containerId: id })), 'OK');
  });

  it('copies files in pieces below its own folder only', LIMIT, async () => {
    const path = '/run/kata-containers/shared/containers/copied/file';
    const base = { path, fileSize: 8n, fileMode: 0o100640, dirMode: 0o750, uid: 0, gid: 0 };
    await client.call('copyFile', { ...base, offset: 0n, data: Buffer.from('abcd') });
    await client.call('copyFile', { ...base, offset: 4n, data: Buffer.from('efgh') });
    assert.equal(readFileSync(`${agent.folder}/share/copied/file`, 'utf8'), 'abcdefgh');
    await assert.rejects(client.call('copyFile', { ...base, path: '/etc/evil', offset: 0n }), /only below/);
    await assert.rejects(client.call('copyFile', { ...base, path: '/run/kata-containers/../../etc/evil', offset: 0n }), /plain absolute path/);
    await client.call('copyFile', { ...base, path: '/run/kata-containers/shared/containers/link', fileMode: 0o120777, offset: 0n, data: Buffer.from('/etc') });
    await assert.rejects(client.call('copyFile', { ...base, path: '/run/kata-containers/shared/containers/link/evil', offset: 0n }), /not a folder/);
  });

  it('mounts storages once for all who name them', LIMIT, async () => {
    const shm = { driver: 'ephemeral', driverOptions: [], source: 'shm', fstype: 'tmpfs', options: ['mode=1777', 'size=1048576'], mountPoint: '/run/kata-containers/sandbox/ephemeral/e', fsGroup: undefined, shared: false };
    const mounts = async (): Promise<number> => (await client.call('getDiagnosticData', { logType: 'mounts' })).data.split('\n').filter((line) => line.includes('/ephemeral/e ')).length;
    for (const id of ['store1', 'store2']) {
      await client.call('createContainer', { containerId: id, execId: id, storages: [shm], oci: specOf(id, ['sleep', '100']) });
    }
    assert.equal(await mounts(), 1);
    await client.call('removeContainer', { containerId: 'store1' });
    assert.equal(await mounts(), 1);
    await client.call('removeContainer', { containerId: 'store2' });
    assert.equal(await mounts(), 0);
  });

  it('tells of a process killed for want of memory', LIMIT, async () => {
    const id = agent.nextId();
    const spec = specOf(id, ['sh', '-c', 'x=a; while :; do x="$x$x"; done']);
    if (spec.linux?.resources?.memory !== undefined) {
      spec.linux.resources.memory.limit = 16n * 1024n * 1024n;
    }
    const told = client.call('getOOMEvent');
    await client.call('createContainer', { containerId: id, execId: id, oci: spec });
    await client.call('startContainer', { containerId: id });
    assert.equal(await status(id), 137);
    assert.equal((await told).containerId, id);
    await client.call('removeContainer', { containerId: id });
  });

  it('leaves nothing of a container: no process, mount, descriptor or cgroup', LIMIT, async () => {
    const agentPid = Number(readFileSync(`/proc/${String(agent.pid)}/task/${String(agent.pid)}/children`, 'latin1').trim().split(' ')[0]);
    const { readdirSync } = await import('node:fs');
    const count = (): { fds: number; children: string } => ({
      fds: readdirSync(`/proc/${String(agentPid)}/fd`).length,
      children: readFileSync(`/proc/${String(agentPid)}/task/${String(agentPid)}/children`, 'latin1').trim(),
    });
    const cycle = async (terminal: boolean): Promise<void> => {
      const id = await agent.run(client, 'echo x; sleep 100', { terminal });
      const execId = await exec(id, 'echo y');
      await output(id, execId);
      await status(id, execId);
      await client.call('removeContainer', { containerId: id });
    };
    await cycle(false);
    await cycle(true);
    await sleep(700);
    const start = count();
    for (let round = 0; round < 3; round++) {
      await cycle(round === 1);
    }
    await sleep(700);
    const end = count();
    assert.equal(end.fds, start.fds);
    assert.equal(end.children, '');
  });

  it('answers what it is and what it measures', LIMIT, async () => {
    const details = await client.call('getGuestDetails', { memBlockSize: true, memHotplugProbe: true });
    assert.equal(details.agentDetails?.supportsSeccomp, true);
    assert.ok(details.agentDetails.storageHandlers.includes('virtio-fs'));
    const { metrics } = await client.call('getMetrics');
    assert.match(metrics, /^kata_guest_meminfo\{item="mem_total"\} \d+$/m);
    assert.match(metrics, /^kata_agent_total_rss \d+$/m);
    const { usage } = await client.call('getVolumeStats', { volumeGuestPath: '/run/kata-containers' });
    assert.ok((usage[0]?.total ?? 0n) > 0n);
  });
});
