/** dockerd over its own suite's containerd, with containers of our runtime: what a user of `docker run` meets. */
import assert from 'node:assert/strict';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { release, tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test, type TestContext } from 'node:test';
import { ROOT } from '../../hack/private-containerd';
import { Host, type HypervisorName } from '../support/host';
import { containerdBinaries, dockerBinaries, DOCKER_HOSTS, versionOf, type DockerVersion } from '../support/hosts/container-hosts';
import { DOCKER_IMAGE, PrivateDockerd } from '../support/hosts/private-dockerd';
import { leakedSince, takeInventory, type Inventory } from '../support/leaks';

interface DockerHost {
  readonly host: Host;
  readonly dockerd: PrivateDockerd;
  /** Fails if anything of this host is left. */
  stop(): Promise<void>;
}

async function startDocker(version: DockerVersion, hypervisor: HypervisorName): Promise<DockerHost> {
  const [containerd, docker] = [containerdBinaries({ from: version }), dockerBinaries(version)];
  if ('missing' in containerd || 'missing' in docker) {
    throw new Error('skipped before');
  }
  const clean: Inventory = takeInventory();
  const host = await Host.start(hypervisor, {}, { binaries: containerd.folder });
  const dockerd = await PrivateDockerd.start(docker.folder, host, join(ROOT, 'build/busybox.tar'));
  const stop = async (): Promise<void> => {
    const sockets = [...host.containerd.log.matchAll(/socket=(\/run\/containerd\/s\/[0-9a-f]+)/g)].map((match) => match[1] ?? '');
    const ids = [...host.containerd.log.matchAll(/msg=serving sandbox=([0-9a-f]{64})/g)].map((match) => match[1] ?? '');
    await dockerd.stop();
    await host.stop();
    const leaked = (await leakedSince(clean)).filter((line) => [...ids, host.containerd.folder].some((mark) => line.includes(mark)));
    assert.deepEqual([...leaked, ...sockets.filter((path) => existsSync(path))], []);
  };
  return { host, dockerd, stop };
}

for (const version of DOCKER_HOSTS) {
  const missing = [containerdBinaries({ from: version }), dockerBinaries(version)].flatMap((unpacked) => ('missing' in unpacked ? [unpacked.missing] : []));
  const skip = missing[0] ?? false;

  describe(version.name, { skip }, () => {
    let docker: DockerHost;
    let dockerd: PrivateDockerd;

    before(async () => {
      docker = await startDocker(version, 'mock');
      dockerd = docker.dockerd;
      await dockerd.runDetached('base', [DOCKER_IMAGE, 'sleep', '100000']);
    });

    after(async () => {
      await docker.stop();
    });

    test('is the version that its name says', (t: TestContext) => {
      const unpacked = dockerBinaries(version);
      const text = 'folder' in unpacked ? versionOf(unpacked.folder, 'usr/sbin/dockerd') : '';
      t.diagnostic(text);
      assert.match(text, new RegExp(` ${version.name.replace('dockerd ', '')}\\.`));
    });

    test('exit codes 0, 3, 125, 126, 127 and 137', async () => {
      assert.equal((await dockerd.run([DOCKER_IMAGE, 'true'])).code, 0);
      const three = await dockerd.run([DOCKER_IMAGE, 'sh', '-c', 'echo out; echo err >&2; exit 3']);
      assert.deepEqual(three, { code: 3, stdout: 'out\n', stderr: 'err\n' });
      assert.equal((await dockerd.run(['--no-such-flag', DOCKER_IMAGE, 'true'])).code, 125);
      const notExecutable = await dockerd.run([DOCKER_IMAGE, '/etc/passwd']);
      assert.equal(notExecutable.code, 126, notExecutable.stderr);
      const missingBinary = await dockerd.run([DOCKER_IMAGE, '/no/such']);
      assert.equal(missingBinary.code, 127, missingBinary.stderr);
      const running = dockerd.run(['--name', 'victim', DOCKER_IMAGE, 'sleep', '1000']);
      for (let tries = 0; tries < 100 && (await dockerd.inspect('victim', '{{.State.Running}}')) !== 'true'; tries++) {
        await new Promise((resolve) => setTimeout(resolve, 100));
      }
      await dockerd.docker(['kill', 'victim']);
      assert.equal((await running).code, 137);
    });

    test('stdin, environment, working directory, user and host name', async () => {
      const done = await dockerd.run(['-i', '-e', 'A=b', '-w', '/tmp', '-u', '1000:2000', '-h', 'guesthost', DOCKER_IMAGE, 'sh', '-c', 'cat; echo $A; pwd; id -u; id -g; hostname; cat /etc/hostname'], {
        input: 'typed\n',
      });
      assert.deepEqual([done.code, done.stdout], [0, 'typed\nb\n/tmp\n1000\n2000\nguesthost\nguesthost\n'], done.stderr);
    });

    test('logs of a container that ends at once are whole', async () => {
      await dockerd.runDetached('logs', [DOCKER_IMAGE, 'sh', '-c', 'i=0; while [ $i -lt 2000 ]; do echo line $i; i=$((i+1)); done; echo last >&2']);
      assert.equal((await dockerd.docker(['wait', 'logs'])).stdout, '0\n');
      const logs = await dockerd.docker(['logs', 'logs']);
      assert.equal(logs.stdout, Array.from({ length: 2000 }, (_, n) => `line ${String(n)}\n`).join(''));
      assert.equal(logs.stderr, 'last\n');
      await dockerd.docker(['rm', 'logs']);
    });

    test('exec with its exit code, exec of a missing binary, exec under a terminal', async () => {
      const done = await dockerd.docker(['exec', '-i', 'base', 'sh', '-c', 'cat; exit 5'], { input: 'in\n' });
      assert.deepEqual([done.code, done.stdout], [5, 'in\n'], done.stderr);
      const missingBinary = await dockerd.docker(['exec', 'base', '/no/such']);
      assert.ok([126, 127].includes(missingBinary.code), missingBinary.stderr);
      const terminal = await dockerd.dockerTerminal('exec -it base sh', 'stty size\nexit 7\n');
      assert.equal(terminal.code, 7, terminal.stdout);
      assert.match(terminal.stdout, /33 101\r+\n/);
    });

    test('a container with a terminal', async () => {
      const terminal = await dockerd.dockerTerminal(`run --rm -it --network none --runtime io.containerd.kata.v2 ${DOCKER_IMAGE} sh`, 'stty size\nexit 9\n');
      assert.equal(terminal.code, 9, terminal.stdout);
      assert.match(terminal.stdout, /33 101\r+\n/);
    });

    test('stats, top, pause, update', async () => {
      const stats = await dockerd.docker(['stats', '--no-stream', '--format', '{{.Name}} {{.MemUsage}} {{.PIDs}}', 'base']);
      assert.equal(stats.code, 0, stats.stderr);
      assert.match(stats.stdout, /^base [1-9][0-9.]*[kKM]?i?B \/ .* [1-9]/);
      const top = await dockerd.docker(['top', 'base']);
      assert.equal(top.code, 0, top.stderr);
      assert.match(top.stdout, /\n\S+\s+\d+/);
      assert.equal((await dockerd.docker(['pause', 'base'])).code, 0);
      assert.equal(await dockerd.inspect('base', '{{.State.Status}}'), 'paused');
      assert.equal((await dockerd.docker(['unpause', 'base'])).code, 0);
      assert.equal((await dockerd.docker(['exec', 'base', 'echo', 'awake'])).stdout, 'awake\n');
      const update = await dockerd.docker(['update', '--cpus', '0.5', 'base']);
      assert.equal(update.code, 0, update.stderr);
    });

    test('docker cp in and out of a running container', async () => {
      const folder = mkdtempSync(join(tmpdir(), 'kata-ts-cp-'));
      try {
        writeFileSync(join(folder, 'in'), 'copied\n');
        const copied = await dockerd.docker(['cp', join(folder, 'in'), 'base:/tmp/in']);
        assert.equal(copied.code, 0, copied.stderr);
        assert.equal((await dockerd.docker(['exec', 'base', 'cat', '/tmp/in'])).stdout, 'copied\n');
        await dockerd.docker(['exec', 'base', 'sh', '-c', 'echo from inside > /tmp/out']);
        const out = await dockerd.docker(['cp', 'base:/tmp/out', join(folder, 'out')]);
        assert.equal(out.code, 0, out.stderr);
        assert.equal(readFileSync(join(folder, 'out'), 'utf8'), 'from inside\n');
      } finally {
        rmSync(folder, { recursive: true, force: true });
      }
    });

    test('a volume is the same inside and outside', async () => {
      const folder = mkdtempSync(join(tmpdir(), 'kata-ts-volume-'));
      try {
        writeFileSync(join(folder, 'in'), 'outside\n');
        const done = await dockerd.run(['-v', `${folder}:/data`, DOCKER_IMAGE, 'sh', '-c', 'cat /data/in; echo inside > /data/out']);
        assert.deepEqual([done.code, done.stdout], [0, 'outside\n'], done.stderr);
        assert.equal(readFileSync(join(folder, 'out'), 'utf8'), 'inside\n');
      } finally {
        rmSync(folder, { recursive: true, force: true });
      }
    });

    test('stop with a handler, start again, restart, rm -f', async () => {
      await dockerd.runDetached('polite', [DOCKER_IMAGE, 'sh', '-c', 'trap "exit 9" TERM; echo ready; while :; do sleep 0.1; done']);
      for (let tries = 0; tries < 100 && (await dockerd.docker(['logs', 'polite'])).stdout === ''; tries++) {
        await new Promise((resolve) => setTimeout(resolve, 100));
      }
      assert.equal((await dockerd.docker(['stop', 'polite'])).code, 0);
      assert.equal(await dockerd.inspect('polite', '{{.State.ExitCode}}'), '9');
      assert.equal((await dockerd.docker(['start', 'polite'])).code, 0);
      assert.equal((await dockerd.docker(['restart', '-t', '1', 'polite'])).code, 0);
      assert.equal(await dockerd.inspect('polite', '{{.State.Running}}'), 'true');
      assert.equal((await dockerd.docker(['rm', '-f', 'polite'])).code, 0);
    });

    test('an out-of-memory kill is told', async () => {
      await dockerd.runDetached('eater', ['-m', '32m', DOCKER_IMAGE, 'sh', '-c', 'x=aaaaaaaaaaaaaaaa; while :; do x=$x$x; done']);
      assert.equal((await dockerd.docker(['wait', 'eater'])).stdout, '137\n');
      assert.equal(await dockerd.inspect('eater', '{{.State.OOMKilled}}'), 'true');
      await dockerd.docker(['rm', 'eater']);
    });

    test('host networking is refused with a clear word', async () => {
      const done = await dockerd.docker(['run', '--rm', '--network', 'host', '--runtime', 'io.containerd.kata.v2', DOCKER_IMAGE, 'true']);
      assert.equal(done.code, 125);
      assert.match(done.stderr, /host network/);
    });

    test('dockerd is killed and comes back to its running container', async () => {
      await dockerd.end('SIGKILL');
      await dockerd.launch();
      assert.equal(await dockerd.inspect('base', '{{.State.Running}}'), 'true');
      assert.equal((await dockerd.docker(['exec', 'base', 'echo', 'still here'])).stdout, 'still here\n');
    });
  });

  describe(`${version.name} with a real VM`, { skip }, () => {
    let docker: DockerHost;

    before(async () => {
      docker = await startDocker(version, 'qemu');
    });

    after(async () => {
      await docker.stop();
    });

    test('a container runs on the kernel of its guest', async () => {
      const done = await docker.dockerd.run([DOCKER_IMAGE, 'sh', '-c', 'uname -r; exit 4']);
      assert.equal(done.code, 4, done.stderr);
      if (process.env['KATA_TEST_HYPERVISOR'] !== 'mock') {
        assert.notEqual(done.stdout.trim(), release());
      }
    });
  });
}
