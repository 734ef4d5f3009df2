/**
 * The same checks on every containerd version that Debian has: what must hold whatever the host. Over the mock
 * hypervisor, since it is the host's side of the shim that differs; one container of each runs in a real VM.
 */
import assert from 'node:assert/strict';
import { existsSync, readFileSync } from 'node:fs';
import { release } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test, type TestContext } from 'node:test';
import { runCommand } from '../../hack/private-containerd';
import { Host, IMAGE, RUNTIME } from '../support/host';
import { containerdBinaries, CONTAINERD_HOSTS, versionOf } from '../support/hosts/container-hosts';
import { leakedSince, takeInventory, type Inventory } from '../support/leaks';

const sandbox = (id: string): string[] => ['--annotation', 'io.kubernetes.cri.container-type=sandbox', '--annotation', `io.kubernetes.cri.sandbox-id=${id}`];
const member = (id: string): string[] => ['--annotation', 'io.kubernetes.cri.container-type=container', '--annotation', `io.kubernetes.cri.sandbox-id=${id}`];

/** First part of every id: names of other suites' containers on this machine differ. */
const RUN = `compat${String(process.pid)}`;

/** Ends the host; whatever of its containers and sockets is still there afterwards is a leak. */
async function stopClean(host: Host, before: Inventory): Promise<void> {
  const sockets = [...host.containerd.log.matchAll(/socket=(\/run\/containerd\/s\/[0-9a-f]+)/g)].map((match) => match[1] ?? '');
  await host.stop();
  const leaked = await leakedSince(before);
  assert.deepEqual(leaked.filter((line) => line.includes(RUN) || line.includes(host.containerd.folder)), []);
  assert.deepEqual(sockets.filter((path) => existsSync(path)), []);
}

/** Exit code that `ctr tasks rm` reports for a stopped task; the container goes too. */
async function removeStopped(host: Host, id: string): Promise<number> {
  await host.waitForStatus(id, 'STOPPED');
  const removed = await host.ctr(['tasks', 'rm', id]);
  await host.ctr(['containers', 'rm', id]);
  const code = /exit code (\d+)/.exec(removed.stderr)?.[1];
  return removed.code === 0 && code === undefined ? 0 : Number(code);
}

/** ctr 2.2 and newer warns of a host with cgroup v1 on the standard error that it shares with the container. */
function withoutDeprecations(stderr: string): string {
  return stderr.replaceAll(/^time="[^"]*" level=warning msg="DEPRECATION: .*\n/gm, '');
}

for (const version of CONTAINERD_HOSTS) {
  const unpacked = containerdBinaries(version);
  const skip = 'missing' in unpacked ? unpacked.missing : false;
  const binaries = 'folder' in unpacked ? unpacked.folder : '';

  describe(version.name, { skip }, () => {
    let host: Host;
    let clean: Inventory;

    before(async () => {
      clean = takeInventory();
      host = await Host.start('mock', {}, { binaries });
      await host.runDetached(`${RUN}-base`, ['sleep', '100000']);
    });

    after(async () => {
      await stopClean(host, clean);
    });

    test('is the version that its name says', (t: TestContext) => {
      t.diagnostic(versionOf(binaries, 'usr/bin/containerd'));
      assert.match(versionOf(binaries, 'usr/bin/containerd'), new RegExp(` v?${version.version.replaceAll('.', '\\.')}`));
    });

    test('output and exit codes of a foreground run', async () => {
      const done = await host.run(`${RUN}-say`, ['sh', '-c', 'echo out; echo err >&2; exit 42']);
      assert.deepEqual([done.code, done.stdout, withoutDeprecations(done.stderr)], [42, 'out\n', 'err\n']);
      assert.equal((await host.run(`${RUN}-fine`, ['true'])).code, 0);
      assert.equal((await host.run(`${RUN}-high`, ['sh', '-c', 'exit 255'])).code, 255);
    });

    test('a missing entry point is refused with its name', async () => {
      const done = await host.run(`${RUN}-nothing`, ['/no/such/binary']);
      assert.notEqual(done.code, 0);
      assert.match(done.stderr, /no\/such\/binary.*(executable file not found|no such file or directory)/s);
      await host.remove(`${RUN}-nothing`);
    });

    test('exec, its exit code, its stdin and a missing binary', async () => {
      const done = await host.exec(`${RUN}-base`, ['sh', '-c', 'cat; exit 3'], { input: 'typed\n' });
      assert.deepEqual([done.code, done.stdout], [3, 'typed\n'], done.stderr);
      assert.match((await host.exec(`${RUN}-base`, ['/no/such'])).stderr, /executable file not found|no such file or directory/);
    });

    test('stdin of a container, and a terminal with its size', async () => {
      const cat = await host.run(`${RUN}-cat`, ['cat'], { input: 'through\n' });
      assert.deepEqual([cat.code, cat.stdout], [0, 'through\n'], cat.stderr);
      const inner = `${host.containerd.ctrPath} -a ${host.containerd.address} run --rm -t --runtime ${RUNTIME} ${IMAGE} ${RUN}-tty sh`;
      const script = await runCommand('script', ['-qec', `stty rows 33 cols 101; ${inner}`, '/dev/null'], { input: 'stty size\nexit 7\n', timeoutMs: 60_000 });
      assert.equal(script.code, 7, script.stdout + script.stderr);
      assert.match(script.stdout, /33 101\r+\n/);
    });

    test('stats, processes, pause and resume', async () => {
      const metrics = await host.ctr(['tasks', 'metrics', '--format', 'json', `${RUN}-base`]);
      assert.equal(metrics.code, 0, metrics.stderr);
      assert.match(JSON.stringify(JSON.parse(metrics.stdout)), /"usage":(\{[^}]*"usage":)?"?[1-9]/);
      assert.match((await host.ctr(['tasks', 'ps', `${RUN}-base`])).stdout, /\n\d+/);
      assert.equal((await host.ctr(['tasks', 'pause', `${RUN}-base`])).code, 0);
      assert.equal(await host.status(`${RUN}-base`), 'PAUSED');
      assert.equal((await host.ctr(['tasks', 'resume', `${RUN}-base`])).code, 0);
      assert.equal((await host.exec(`${RUN}-base`, ['echo', 'awake'])).stdout, 'awake\n');
    });

    test('kill with a signal that the process handles, and with one that it cannot', async () => {
      await host.runDetached(`${RUN}-polite`, ['sh', '-c', 'trap "exit 9" TERM; touch /ready; while :; do sleep 0.1; done']);
      await host.exec(`${RUN}-polite`, ['sh', '-c', 'until [ -e /ready ]; do sleep 0.05; done']);
      assert.equal((await host.ctr(['tasks', 'kill', '-s', 'TERM', `${RUN}-polite`])).code, 0);
      assert.equal(await removeStopped(host, `${RUN}-polite`), 9);
      await host.runDetached(`${RUN}-stubborn`, ['sh', '-c', 'trap "" TERM; sleep 1000 & sleep 1000']);
      assert.equal((await host.ctr(['tasks', 'kill', '-a', '-s', 'KILL', `${RUN}-stubborn`])).code, 0);
      assert.equal(await removeStopped(host, `${RUN}-stubborn`), 137);
    });

    test('events come in order: create, start, exec, exit of both, delete', async () => {
      const events = host.containerd.spawnCtr(['events']);
      let seen = '';
      events.stdout?.setEncoding('utf8').on('data', (text: string) => {
        seen += text;
      });
      try {
        await host.runDetached(`${RUN}-ordered`, ['sleep', '1000']);
        await host.exec(`${RUN}-ordered`, ['true']);
        await host.ctr(['tasks', 'kill', '-s', 'KILL', `${RUN}-ordered`]);
        await removeStopped(host, `${RUN}-ordered`);
        for (let tries = 0; tries < 100 && !seen.includes('/tasks/delete'); tries++) {
          await new Promise((resolve) => setTimeout(resolve, 100));
        }
        const topics = [...seen.matchAll(/\/tasks\/(\S+) .*"\S+-ordered"/g)].map((match) => match[1]);
        assert.deepEqual(topics, ['create', 'start', 'exec-added', 'exec-started', 'exit', 'exit', 'delete']);
      } finally {
        events.kill('SIGKILL');
      }
    });

    test('two containers of a pod share its sandbox; one ends and the other lives on', async () => {
      await host.runDetached(`${RUN}-pod`, ['sleep', '100000'], { args: sandbox(`${RUN}-pod`) });
      await host.runDetached(`${RUN}-app1`, ['sleep', '100000'], { args: member(`${RUN}-pod`) });
      await host.runDetached(`${RUN}-app2`, ['sleep', '100000'], { args: member(`${RUN}-pod`) });
      const shim = (id: string): string => readFileSync(join(host.containerd.bundle(id), 'address'), 'utf8');
      assert.deepEqual([shim(`${RUN}-app1`), shim(`${RUN}-app2`)], [shim(`${RUN}-pod`), shim(`${RUN}-pod`)]);
      await host.remove(`${RUN}-app1`);
      assert.equal(await host.status(`${RUN}-app2`), 'RUNNING');
      assert.equal((await host.run(`${RUN}-job`, ['sh', '-c', 'exit 5'], { args: member(`${RUN}-pod`) })).code, 5);
      await host.remove(`${RUN}-app2`);
      await host.remove(`${RUN}-pod`);
    });

    test('containerd is killed and comes back to running, stopped and meanwhile ended tasks', async () => {
      await host.runDetached(`${RUN}-stopped`, ['sh', '-c', 'exit 21']);
      await host.waitForStatus(`${RUN}-stopped`, 'STOPPED');
      await host.runDetached(`${RUN}-meanwhile`, ['sh', '-c', 'until [ -e /go ]; do sleep 0.05; done; sleep 1; exit 22']);
      await host.exec(`${RUN}-meanwhile`, ['touch', '/go']);
      await host.containerd.end('SIGKILL');
      await new Promise((resolve) => setTimeout(resolve, 2000));
      await host.containerd.launch();
      assert.equal(await host.status(`${RUN}-base`), 'RUNNING');
      assert.equal((await host.exec(`${RUN}-base`, ['echo', 'still here'])).stdout, 'still here\n');
      assert.equal(await removeStopped(host, `${RUN}-stopped`), 21);
      assert.equal(await removeStopped(host, `${RUN}-meanwhile`), 22);
    });

    test('the shim is killed: containerd says so, the container can be removed and created again', async () => {
      await host.runDetached(`${RUN}-victim`, ['sleep', '100000']);
      process.kill(host.shimPid(`${RUN}-victim`), 'SIGKILL');
      const again = await host.runAgain(`${RUN}-victim`, ['echo', 'again']);
      assert.deepEqual([again.code, again.stdout], [0, 'again\n'], again.stderr);
    });

    test('ctr asks the runtime about itself', { skip: version.version.startsWith('2.') ? false : 'ctr before 2.0 cannot ask' }, async () => {
      const info = await host.ctr(['plugins', 'inspect-runtime', '--runtime', RUNTIME]);
      assert.equal(info.code, 0, info.stderr);
      assert.match(info.stdout, /kata/);
    });
  });

  describe(`${version.name} with a real VM`, { skip }, () => {
    let host: Host;
    let clean: Inventory;

    before(async () => {
      clean = takeInventory();
      host = await Host.start('qemu', {}, { binaries });
    });

    after(async () => {
      await stopClean(host, clean);
    });

    test('a container runs on the kernel of its guest', async () => {
      const done = await host.run(`${RUN}-vm`, ['sh', '-c', 'uname -r; exit 4'], { timeoutMs: 120_000 });
      assert.equal(done.code, 4, done.stderr);
      assert.match(done.stdout, /^\d+\.\d+/);
      if (process.env['KATA_TEST_HYPERVISOR'] !== 'mock') {
        assert.notEqual(done.stdout.trim(), release());
      }
    });
  });
}
