import { spawn, execFileSync, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { copyFileSync, existsSync, mkdirSync, mkdtempSync, rmSync, symlinkSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { codecFromTsProto, TtrpcClient } from 'ttrpc-ts';
import { AgentServiceDefinition } from '../../../gen/agent/agent';
import { HealthDefinition } from '../../../gen/agent/health';
import { Process, Spec } from '../../../gen/agent/oci';

const ROOT = join(__dirname, '..', '..', '..');
const BUNDLE = join(ROOT, 'build', 'agent.cjs');
const APPLETS = ['sh', 'true', 'false', 'cat', 'sleep', 'echo', 'dd', 'ls', 'stty', 'seq', 'md5sum', 'ps', 'head', 'wc', 'kill', 'hostname', 'tty', 'id'];
const GUEST_SHARE = '/run/kata-containers/shared/containers';

/** Why these tests cannot run here; undefined if they can. */
export function missing(): string | undefined {
  if (process.getuid?.() !== 0) {
    return 'needs root';
  }
  if (!existsSync(BUNDLE)) {
    return 'needs build/agent.cjs (make build)';
  }
  return ['crun', 'busybox', 'unshare'].find((tool) => !['/usr/bin', '/bin', '/usr/sbin'].some((folder) => existsSync(join(folder, tool))));
}

type Methods = typeof AgentServiceDefinition.methods;
type Request<K extends keyof Methods> = Methods[K]['requestType'] extends { create(base?: infer R): unknown } ? R : never;
type Decoded<K extends keyof Methods> = Methods[K]['responseType'] extends { decode(input: Uint8Array): infer R } ? R : never;

/** A client of the agent with the generated types. */
export class AgentClient {
  constructor(
    private readonly client: TtrpcClient,
    readonly socket: Socket,
  ) {}

  async call<K extends keyof Methods>(name: K, request: Record<string, unknown> = {}): Promise<Decoded<K>> {
    const method = AgentServiceDefinition.methods[name];
    const type = method.requestType as unknown as { create(base: unknown): unknown };
    const codecs = { request: codecFromTsProto(method.requestType as never), response: codecFromTsProto(method.responseType as never) };
    return (this.client.call('grpc.AgentService', method.name, codecs as never, type.create(request) as never));
  }

  async check(): Promise<number> {
    const { check } = HealthDefinition.methods;
    const codecs = { request: codecFromTsProto(check.requestType), response: codecFromTsProto(check.responseType) };
    const response = await this.client.call('grpc.Health', 'Check', codecs, { service: '' });
    return response.status;
  }

  /** All of a stream, up to its end. */
  async readAll(method: 'readStdout' | 'readStderr', containerId: string, execId = containerId): Promise<Buffer> {
    const parts: Buffer[] = [];
    for (;;) {
      const { data } = await this.call(method, { containerId, execId, len: 1024 * 1024 });
      if (data.length === 0) {
        return Buffer.concat(parts);
      }
      parts.push(Buffer.from(data));
    }
  }

  close(): void {
    this.client.close();
    this.socket.destroy();
  }
}

export type { Request };

/** The agent as a process of its own, with a share that has one root file system of busybox. */
export class MockAgent {
  private count = 0;

  private constructor(
    readonly folder: string,
    private readonly child: ChildProcess,
    private readonly log: () => string,
  ) {}

  static async start(): Promise<MockAgent> {
    const folder = mkdtempSync(join(tmpdir(), 'kata-agent-'));
    const bin = join(folder, 'share', 'rootfs', 'bin');
    mkdirSync(bin, { recursive: true });
    ['proc', 'dev', 'sys', 'tmp'].forEach((name) => mkdirSync(join(folder, 'share', 'rootfs', name)));
    copyFileSync('/usr/bin/busybox', join(bin, 'busybox'));
    APPLETS.forEach((name) => symlinkSync('busybox', join(bin, name)));
    const args = [
      '--pid', '--fork', '--kill-child', '--mount-proc', '--uts', '--ipc', '--mount', '--propagation', 'slave',
      process.execPath, BUNDLE, '--listen', `unix://${folder}/agent.sock`, '--mock', '--share', join(folder, 'share'),
      '--cgroup-parent', `/kata-agent-test-${String(process.pid)}`, '--log', 'debug',
    ];
    const child = spawn('unshare', args, { stdio: ['ignore', 'pipe', 'pipe'], env: { PATH: process.env['PATH'] } });
    let text = '';
    child.stdout.on('data', (chunk) => (text += String(chunk)));
    child.stderr.on('data', (chunk) => (text += String(chunk)));
    const endsMs = performance.now() + 10_000;
    // The socket file is there a moment before it accepts.
    while (!text.includes('agent serves')) {
      if (performance.now() > endsMs || child.exitCode !== null) {
        throw new Error(`the agent does not listen: ${text}`);
      }
      await sleep(5);
    }
    return new MockAgent(folder, child, () => text);
  }

  get output(): string {
    return this.log();
  }

  get pid(): number {
    return this.child.pid ?? 0;
  }

  async connect(): Promise<AgentClient> {
    const socket = connect(join(this.folder, 'agent.sock'));
    await once(socket, 'connect');
    return new AgentClient(new TtrpcClient(socket), socket);
  }

  /** An id that no other container has. */
  nextId(): string {
    return `box${String(++this.count)}`;
  }

  /** Makes and starts a container that runs a shell command. */
  async run(client: AgentClient, script: string, options: { terminal?: boolean; id?: string; isStarted?: boolean } = {}): Promise<string> {
    const id = options.id ?? this.nextId();
    await client.call('createContainer', { containerId: id, execId: id, oci: specOf(id, ['sh', '-c', script], options.terminal) });
    if (options.isStarted !== false) {
      await client.call('startContainer', { containerId: id });
    }
    return id;
  }

  async stop(): Promise<void> {
    if (this.child.exitCode === null && this.child.signalCode === null) {
      const ended = once(this.child, 'exit');
      this.child.kill('SIGKILL');
      await ended;
    }
    rmSync(this.folder, { recursive: true, force: true });
    const parent = `kata-agent-test-${String(process.pid)}`;
    execFileSync('sh', ['-c', `sleep 0.2; find /sys/fs/cgroup -depth -type d -path '*/${parent}*' -exec rmdir {} + 2>/dev/null || true`]);
  }
}

export function processOf(args: readonly string[], terminal = false): Process {
  return Process.create({
    terminal,
    user: { uid: 0, gid: 0, additionalGids: [], username: '' },
    args: [...args],
    env: ['PATH=/bin:/usr/bin', 'TERM=xterm'],
    cwd: '/',
    capabilities: undefined,
    noNewPrivileges: false,
  });
}

export function specOf(id: string, args: readonly string[], terminal = false): Spec {
  const mount = (destination: string, type: string, options: string[] = []): { destination: string; source: string; type: string; options: string[] } => ({ destination, source: type, type, options });
  return Spec.create({
    version: '1.0.2',
    process: processOf(args, terminal),
    root: { path: `${GUEST_SHARE}/rootfs`, readonly: false },
    hostname: 'box',
    mounts: [
      mount('/proc', 'proc'),
      mount('/dev', 'tmpfs', ['nosuid', 'mode=755', 'size=65536k']),
      mount('/dev/pts', 'devpts', ['nosuid', 'noexec', 'newinstance', 'ptmxmode=0666', 'mode=0620', 'gid=5']),
    ],
    linux: {
      namespaces: [{ type: 'mount', path: '' }, { type: 'uts', path: '' }, { type: 'ipc', path: '' }],
      cgroupsPath: `/pods/${id}`,
      resources: { memory: { limit: 268435456n, reservation: 0n, swap: 0n, kernel: 0n, kernelTcp: 0n, swappiness: 0n, disableOomKiller: false } },
    },
  });
}
