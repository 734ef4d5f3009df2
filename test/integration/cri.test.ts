/**
 * Pods as a kubelet makes them: RunPodSandbox with a runtime handler, containers in it, through the CRI plugin of each
 * containerd that Debian has; and kata-monitor beside it, which knows the pods by their names.
 */
import assert from 'node:assert/strict';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { ROOT, runCommand } from '../../hack/private-containerd';
import { parseMetrics } from '../../virtcontainers/metrics/prometheus-text';
import { CriHost } from '../support/cri/cri-host';
import { ExecStream } from '../support/cri/exec-stream';
import { containerdBinaries, CONTAINERD_HOSTS } from '../support/hosts/container-hosts';
import { KataMonitor, until } from '../support/kata-monitor';
import { leakedSince, takeInventory, type Inventory } from '../support/leaks';
import { endAll } from '../support/suite';

const READY = 0;
const NOTREADY = 1;
const RUNNING = 1;
const EXITED = 2;
/** What a kubelet asks for unless `shareProcessNamespace` is set. */
const OWN_PID = { securityContext: { namespaceOptions: { pid: 1 } } } as const;

interface Row {
  readonly id: string;
  readonly shimPid: number;
  readonly vmPid: number;
  readonly vcpus: number;
  readonly containers: readonly { readonly id: string; readonly state: string }[];
}

async function psRow(id: string): Promise<Row> {
  const listed = await runCommand(join(ROOT, 'build/kata-runtime'), ['ps', '--json']);
  const row = (JSON.parse(listed.stdout) as Row[]).find((one) => one.id === id);
  assert.ok(row !== undefined, listed.stdout);
  return row;
}

// The newest in real VMs. With KATA_TEST_LONG=1 all: minutes more, for what differs in the host only.
for (const version of CONTAINERD_HOSTS) {
  const unpacked = containerdBinaries(version);
  const hypervisor = version.name === 'containerd 2.x' || process.env['KATA_TEST_LONG'] === '1' ? 'qemu' : 'mock';

  describe(`CRI of ${version.name}, ${hypervisor}`, { skip: 'missing' in unpacked ? unpacked.missing : false }, () => {
    let h: CriHost;
    let monitor: KataMonitor;
    let clean: Inventory;
    let pod = '';
    let web = '';
    let side = '';
    const ids: string[] = [];

    before(async () => {
      clean = takeInventory();
      h = await CriHost.start(hypervisor, 'folder' in unpacked ? unpacked.folder : '');
      monitor = await KataMonitor.start(h.host.containerd.address);
      const config = h.podConfig('web');
      pod = await h.runPod(config);
      web = await h.runContainer(pod, config, 'web', ['sh', '-c', 'echo to stdout; echo to stderr >&2; trap "exit 7" TERM; while :; do sleep 0.1; done'], { linux: OWN_PID, envs: [{ key: 'COLOUR', value: 'blue' }], workingDir: '/home' });
      side = await h.runContainer(pod, config, 'side', ['sleep', '100000'], { linux: OWN_PID });
      ids.push(pod);
    });

    after(async () => {
      await endAll(() => monitor.stop(), () => h.stop());
      const leaked = await leakedSince(clean);
      assert.deepEqual(leaked.filter((line) => ids.some((id) => line.includes(id)) || line.includes(h.host.containerd.folder)), []);
    });

    test('sandbox and containers live in one VM, and the sandbox is ready with its address', async () => {
      const row = await psRow(pod);
      assert.deepEqual(row.containers.map(({ id, state }) => [id, state]).sort(), [[pod, 'running'], [web, 'running'], [side, 'running']].sort());
      const { status } = await h.cri.call('podSandboxStatus', { podSandboxId: pod });
      assert.equal(status?.state, READY);
      assert.equal(status.metadata?.uid, 'uid-of-web');
      assert.match(status.network?.ip ?? '', /^10\./);
    });

    test('containers of a pod share its host name and its network, and have processes of their own', async () => {
      const [, first] = await h.exec(web, 'sh', '-c', 'hostname; readlink /proc/self/ns/net; readlink /proc/self/ns/pid');
      const [, second] = await h.exec(side, 'sh', '-c', 'hostname; readlink /proc/self/ns/net; readlink /proc/self/ns/pid');
      const [name, net, pid] = first.split('\n');
      assert.equal(name, 'web');
      assert.deepEqual(second.split('\n').slice(0, 2), [name, net]);
      assert.notEqual(second.split('\n')[2], pid);
    });

    test('ExecSync: output, error output, exit code, environment, working directory, time limit', async () => {
      assert.deepEqual(await h.exec(web, 'sh', '-c', 'echo $COLOUR; pwd; echo wrong >&2; exit 3'), [3, 'blue\n/home\n', 'wrong\n']);
      assert.deepEqual(await h.exec(web, 'true'), [0, '', '']);
      await assert.rejects(h.exec(web, '/no/such'), /no such file|not found/);
      await assert.rejects(h.cri.call('execSync', { containerId: web, cmd: ['sleep', '1000'], timeout: 1n }), /DEADLINE_EXCEEDED|timeout|timed out/i);
      const [, rest] = await h.exec(web, 'ps');
      assert.doesNotMatch(rest, /sleep 1000/, 'what ran into the time limit is gone');
    });

    test('streaming exec: standard input to the end of a shell, its exit code, a terminal with its size', async () => {
      const { url } = await h.cri.call('exec', { containerId: side, cmd: ['sh'], stdin: true, stdout: true, stderr: true });
      const shell = await ExecStream.open(url);
      shell.stdin('echo hello $((6*7)); echo bad >&2; exit 5\n');
      await shell.ended;
      assert.deepEqual([shell.stdout, shell.stderr], ['hello 42\n', 'bad\n']);
      assert.match(shell.status, /"ExitCode","message":"5"/);

      const asked = await h.cri.call('exec', { containerId: side, cmd: ['sh'], stdin: true, stdout: true, tty: true });
      const terminal = await ExecStream.open(asked.url);
      // containerd passes the size on beside the start: the first answer may be older.
      for (const [width, height] of [[99, 33], [98, 32]] as const) {
        terminal.resize(width, height);
        await until('the size of the client', () => {
          terminal.stdin('stty size\n');
          return terminal.stdout.includes(`${String(height)} ${String(width)}\r\n`);
        });
      }
      terminal.stdin('exit\n');
      await terminal.ended;
      assert.match(terminal.status, /Success/);
    });

    test('logs are what the container wrote, by stream', async () => {
      await until('both lines', () => h.logOf('web', 'web').split('\n').length > 2);
      const lines = h.logOf('web', 'web').trim().split('\n').map((line) => line.split(' ').slice(1).join(' '));
      assert.deepEqual(lines.sort(), ['stderr F to stderr', 'stdout F to stdout']);
    });

    test('stats of one container and of all', async () => {
      const { stats } = await h.cri.call('containerStats', { containerId: web });
      assert.equal(stats?.attributes?.metadata?.name, 'web');
      const [cpu = 0n, memory = 0n] = [stats.cpu?.usageCoreNanoSeconds?.value, stats.memory?.workingSetBytes?.value];
      assert.ok(cpu > 0n && memory > 0n, `CPU ${String(cpu)} ns, working set ${String(memory)} bytes`);
      const all = await h.cri.call('listContainerStats', {});
      assert.deepEqual(all.stats.map((one) => one.attributes?.metadata?.name).sort(), ['side', 'web']);
    });

    test('kata-monitor labels every sample with the pod, and its page names it', async () => {
      const sample = async (): Promise<Record<string, string>> => {
        const { text } = await monitor.get('/metrics?filter_family=kata_shim_vm_source');
        const found = parseMetrics(text).flatMap(({ samples }) => samples).map(({ labels }): Record<string, string> => Object.fromEntries(labels));
        return found.find((labels) => labels['sandbox_id'] === pod) ?? {};
      };
      await until('the pod has its name', async () => (await sample())['cri_name'] === 'web');
      const labels = await sample();
      assert.deepEqual([labels['cri_uid'], labels['cri_name'], labels['cri_namespace']], ['uid-of-web', 'web', 'kata-tests']);
      const { text } = await monitor.get('/metrics');
      const mine = text.split('\n').filter((line) => line.includes(`sandbox_id="${pod}"`));
      assert.ok(mine.length > 200, `${String(mine.length)} samples`);
      assert.deepEqual(mine.filter((line) => !line.includes('cri_uid="uid-of-web",cri_name="web",cri_namespace="kata-tests"')), []);
      assert.match((await monitor.get('/', 'text/html')).text, /kata-tests\/web/);
      assert.match((await monitor.get(`/agent-url?sandbox=${pod}`)).text, /^\w+:\/\/.*\n$/);
    });

    test('volumes: a folder to write to, a read-only one, and single files as the kubelet mounts them', async () => {
      const folder = join(h.folder, 'volumes');
      for (const name of ['data', 'config']) {
        mkdirSync(join(folder, name), { recursive: true });
      }
      writeFileSync(join(folder, 'config/key'), 'value\n');
      writeFileSync(join(folder, 'hosts'), '10.0.0.1 named-here\n');
      writeFileSync(join(folder, 'termination'), '');
      const mounts = [
        { containerPath: '/data', hostPath: join(folder, 'data') },
        { containerPath: '/config', hostPath: join(folder, 'config'), readonly: true },
        { containerPath: '/etc/hosts', hostPath: join(folder, 'hosts') },
        { containerPath: '/dev/termination-log', hostPath: join(folder, 'termination') },
      ];
      const script = 'cat /config/key; cat /etc/hosts; echo written >/data/file; touch /config/no 2>/dev/null && echo writable; echo the end >/dev/termination-log';
      const id = await h.runContainer(pod, h.podConfig('web'), 'volumes', ['sh', '-c', script], { mounts });
      assert.equal((await h.ended(id)).exitCode, 0);
      assert.deepEqual(h.logOf('web', 'volumes').trim().split('\n').map((line) => line.split(' F ')[1]), ['value', '10.0.0.1 named-here']);
      assert.equal(readFileSync(join(folder, 'data/file'), 'utf8'), 'written\n');
      assert.equal(readFileSync(join(folder, 'termination'), 'utf8'), 'the end\n');
      await h.cri.call('removeContainer', { containerId: id });
    });

    test('a container ends with its code, and another attempt of it runs in the same VM', async () => {
      for (const [attempt, code] of [[0, 0], [1, 3]] as const) {
        const id = await h.runContainer(pod, h.podConfig('web'), `job${String(attempt)}`, ['sh', '-c', `exit ${String(code)}`], { metadata: { name: 'job', attempt } });
        const status = await h.ended(id);
        assert.deepEqual([status.exitCode, status.reason], [code, code === 0 ? 'Completed' : 'Error']);
        await h.cri.call('removeContainer', { containerId: id });
      }
      assert.equal((await psRow(pod)).containers.length, 3);
    });

    test('resources: the limits of a container, changed while it runs', async () => {
      const id = await h.runContainer(pod, h.podConfig('web'), 'limited', ['sleep', '100000'], { linux: { ...OWN_PID, resources: { cpuPeriod: 100000n, cpuQuota: 50000n, memoryLimitInBytes: 67108864n } } });
      const limits = async (): Promise<string> => (await h.exec(id, 'sh', '-c', 'own=/sys/fs/cgroup$(sed -n s/^0:://p /proc/self/cgroup); cat $own/cpu.max $own/memory.max 2>/dev/null || cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us /sys/fs/cgroup/memory/memory.limit_in_bytes'))[1];
      assert.match(await limits(), /^50000( 100000)?\n67108864\n$/);
      await h.cri.call('updateContainerResources', { containerId: id, linux: { cpuPeriod: 100000n, cpuQuota: 70000n, memoryLimitInBytes: 50331648n } });
      assert.match(await limits(), /^70000( 100000)?\n50331648\n$/);
      await h.cri.call('stopContainer', { containerId: id, timeout: 0n });
      await h.cri.call('removeContainer', { containerId: id });
    });

    test('out of memory is the reason that the CRI gives', async () => {
      const id = await h.runContainer(pod, h.podConfig('web'), 'greedy', ['sh', '-c', 'sleep 0.5; dd if=/dev/zero of=/dev/null bs=200M count=1'], { linux: { resources: { memoryLimitInBytes: 33554432n } } });
      const status = await h.ended(id);
      assert.deepEqual([status.exitCode, status.reason], [137, 'OOMKilled']);
      await h.cri.call('removeContainer', { containerId: id });
    });

    test('a pod shares its processes where the pod says so, and takes Kata annotations', async () => {
      const shared = { linux: { securityContext: { namespaceOptions: { pid: 0 } } } } as const;
      const config = h.podConfig('shared', { ...shared, annotations: new Map([['io.katacontainers.config.hypervisor.default_vcpus', '2']]) });
      const id = await h.runPod(config);
      ids.push(id);
      const one = await h.runContainer(id, config, 'one', ['sleep', '100001'], shared);
      const two = await h.runContainer(id, config, 'two', ['sleep', '100002'], shared);
      assert.match((await h.exec(two, 'ps'))[1], /sleep 100001/);
      assert.equal((await psRow(id)).vcpus, 2);
      assert.equal((await h.status(one)).state, RUNNING);
      await h.removePod(id);
      assert.ok(!existsSync(`/run/vc/sbs/${id}`));
    });

    test('what cannot be had is refused with the reason: host network, an annotation that is not allowed', async () => {
      const onHost = h.podConfig('onhost', { linux: { securityContext: { namespaceOptions: { network: 2 } } } });
      await assert.rejects(h.runPod(onHost), /host network/i);
      const gated = h.podConfig('gated', { annotations: new Map([['io.katacontainers.config.hypervisor.kernel', '/etc/passwd']]) });
      await assert.rejects(h.runPod(gated), /io\.katacontainers\.config\.hypervisor\.kernel.*enable_annotations/s);
    });

    test('containerd killed and started again: the pod is ready, exec works, an end is seen', async () => {
      const id = await h.runContainer(pod, h.podConfig('web'), 'lasting', ['sh', '-c', 'while ! [ -e /end ]; do sleep 0.1; done; exit 9'], { linux: OWN_PID });
      await h.restartContainerd();
      assert.equal((await h.cri.call('podSandboxStatus', { podSandboxId: pod })).status?.state, READY);
      assert.equal((await h.status(id)).state, RUNNING);
      assert.deepEqual(await h.exec(id, 'touch', '/end'), [0, '', '']);
      assert.equal((await h.ended(id)).exitCode, 9);
      await h.cri.call('removeContainer', { containerId: id });
    });

    test('stop: the handler of a signal has its time, what has none is killed after it', async () => {
      await h.cri.call('stopContainer', { containerId: web, timeout: 20n });
      assert.equal((await h.status(web)).exitCode, 7);
      const id = await h.runContainer(pod, h.podConfig('web'), 'deaf', ['sh', '-c', 'trap "" TERM; sleep 100000'], { linux: OWN_PID });
      await h.cri.call('stopContainer', { containerId: id, timeout: 1n });
      assert.deepEqual([(await h.status(id)).state, (await h.status(id)).exitCode], [EXITED, 137]);
    });

    test('the shim killed: containers have ended with 255, the pod is not ready and can be removed', async () => {
      const config = h.podConfig('killed');
      const id = await h.runPod(config);
      ids.push(id);
      const container = await h.runContainer(id, config, 'one', ['sleep', '100000'], { linux: OWN_PID });
      process.kill((await psRow(id)).shimPid, 'SIGKILL');
      await until('the pod is not ready', async () => (await h.cri.call('podSandboxStatus', { podSandboxId: id })).status?.state === NOTREADY);
      assert.notEqual((await h.ended(container)).exitCode, 0);
      await h.removePod(id);
      // containerd 1.6 does not wait for its own cleaning after a dead shim.
      await until('its state is gone', () => !existsSync(`/run/vc/sbs/${id}`));
    });

    test('a pod that is removed with its containers running leaves nothing, and kata-monitor forgets it', async () => {
      assert.ok((await monitor.sandboxes()).includes(pod));
      await h.removePod(pod);
      assert.ok(!existsSync(`/run/vc/sbs/${pod}`));
      await until('forgotten', async () => !(await monitor.sandboxes()).includes(pod));
    });
  });
}
