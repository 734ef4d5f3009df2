/**
 * Drives the real shim as containerd does, without containerd: bundle, `start`, task RPCs over ttrpc, FIFOs, `delete`.
 * For benchmarks, and for tests that need an RPC which ctr does not send.
 */
import { execFileSync, spawnSync } from 'node:child_process';
import { closeSync, constants, existsSync, mkdirSync, mkdtempSync, openSync, readFileSync, readSync, rmSync, writeFileSync } from 'node:fs';
import { connect, Socket } from 'node:net';
import { join } from 'node:path';
import { serviceFromTsProto, TtrpcClient, type UnaryMethod } from 'ttrpc-ts';
import { TaskDefinition } from '../../gen/containerd/task/v2';
import type { OciSpec } from '../../base/oci-spec';
import { makeBusyboxImage } from '../../hack/busybox-image';
import { ROOT, unpackDebian } from '../../hack/private-containerd';

const service = serviceFromTsProto(TaskDefinition);
type Methods = (typeof service)['methods'];
type MethodName = keyof Methods;
type RequestOf<M> = M extends UnaryMethod<infer Req, unknown> ? Req : never;
type ResponseOf<M> = M extends UnaryMethod<never, infer Res> ? Res : M extends { readonly response: { decode(bytes: Uint8Array): infer Res } } ? Res : never;

/** One connection to a shim. */
export class TaskClient {
  private constructor(private readonly client: TtrpcClient) {}

  static async connect(address: string): Promise<TaskClient> {
    const socket = connect(address.replace('unix://', ''));
    await new Promise<void>((resolve, reject) => {
      socket.once('connect', resolve);
      socket.once('error', reject);
    });
    return new TaskClient(new TtrpcClient(socket));
  }

  /** Fields that are left out have their proto3 zero value. */
  async call<N extends MethodName>(name: N, request: Partial<RequestOf<Methods[N]>>, timeoutMs = 120_000): Promise<ResponseOf<Methods[N]>> {
    const definition = Object.values(TaskDefinition.methods).find((method) => method.name === name);
    if (definition === undefined) {
      throw new Error(`no method ${name}`);
    }
    const codecs = service.methods[name] as unknown as UnaryMethod<unknown, ResponseOf<Methods[N]>>;
    const message: unknown = definition.requestType.fromPartial(request);
    return this.client.call(service.name, name, codecs, message, { timeoutMs });
  }

  close(): void {
    this.client.close();
  }
}

/** A busybox root file system in a folder (made once per process, below build/). */
export function busyboxRootfs(target: string): void {
  const image = join(ROOT, 'build/busybox.tar');
  makeBusyboxImage(image);
  mkdirSync(target, { recursive: true });
  const layers = execFileSync('sh', ['-c', `tar -xOf ${image} ./index.json`]).toString();
  const digestOf = (json: string, key: string): string => new RegExp(`"${key}"[^]*?"digest":"sha256:([0-9a-f]+)"`).exec(json)?.[1] ?? '';
  const manifest = execFileSync('sh', ['-c', `tar -xOf ${image} ./blobs/sha256/${digestOf(layers, 'manifests')}`]).toString();
  execFileSync('sh', ['-c', `tar -xOf ${image} ./blobs/sha256/${digestOf(manifest, 'layers')} | tar -xf - -C ${target}`]);
}

/** A spec like the one of `ctr run`, from runc's default. */
export function defaultSpec(args: readonly string[], rootfs: string): OciSpec {
  const runc = join(unpackDebian('containerd', ['containerd', 'runc']), 'usr/sbin/runc');
  const folder = mkdtempSync('/tmp/kata-ts-spec-');
  try {
    execFileSync(runc, ['spec', '--bundle', folder]);
    const spec = JSON.parse(execFileSync('cat', [join(folder, 'config.json')]).toString()) as OciSpec;
    return { ...spec, root: { path: rootfs, readonly: false }, process: { ...spec.process, terminal: false, args: [...args] } };
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

export interface DriverOptions {
  readonly config: string;
  readonly namespace?: string;
  readonly shim?: string;
  /** Socket that takes events, as containerd's; without one the shim runs the publish program for each. */
  readonly ttrpcAddress?: string;
}

/** Paths of FIFOs; what is left out is not connected. */
export interface Streams {
  readonly stdin?: string;
  readonly stdout?: string;
  readonly stderr?: string;
  readonly terminal?: boolean;
}

/** A sandbox with one container, driven step by step. */
export class ShimDriver {
  readonly bundle: string;
  address = '';
  private task: TaskClient | undefined;
  private commands = 0;

  constructor(
    readonly id: string,
    folder: string,
    private readonly options: DriverOptions,
  ) {
    this.bundle = join(folder, id);
  }

  private environment(): NodeJS.ProcessEnv {
    const { config, ttrpcAddress } = this.options;
    return { PATH: process.env['PATH'] ?? '/usr/bin:/bin', KATA_CONF_FILE: config, ...(ttrpcAddress === undefined ? {} : { TTRPC_ADDRESS: ttrpcAddress }) };
  }

  /** Runs a verb of the shim in the bundle; returns what it printed. Throws with its output if it fails. */
  verb(action: string, extra: readonly string[] = []): string {
    const shim = this.options.shim ?? join(ROOT, 'build/containerd-shim-kata-v2');
    const args = ['-namespace', this.options.namespace ?? 'driver', '-address', '/run/kata-ts/driver.sock', '-publish-binary', 'true', '-id', this.id, ...extra, action];
    const done = spawnSync(shim, args, { cwd: this.bundle, env: this.environment(), encoding: 'latin1', timeout: 30_000 });
    if (done.status !== 0) {
      throw new Error(`${action} ended with ${String(done.status)}: ${done.stdout}${done.stderr}`);
    }
    return done.stdout;
  }

  /** Writes bundle and FIFOs, runs `start`, connects. A text is written as it is; undefined: no config.json. */
  async start(spec: OciSpec | string | undefined): Promise<void> {
    mkdirSync(join(this.bundle, 'rootfs'), { recursive: true });
    if (spec !== undefined) {
      writeFileSync(join(this.bundle, 'config.json'), typeof spec === 'string' ? spec : JSON.stringify(spec));
    }
    execFileSync('mkfifo', [join(this.bundle, 'log')]);
    this.address = this.verb('start', []).trim();
    this.task = await TaskClient.connect(this.address);
  }

  get client(): TaskClient {
    if (this.task === undefined) {
      throw new Error('not started');
    }
    return this.task;
  }

  /** Makes a FIFO pair for a process; reads everything that comes out. */
  output(name: string): OutputFifo {
    return new OutputFifo(join(this.bundle, `${name}-stdout`));
  }

  /** The shim's process. */
  get pid(): number {
    return Number(readFileSync(join(this.bundle, 'shim.pid'), 'utf8'));
  }

  /** Makes the stdin FIFO of a process, open for writing. */
  input(name: string): InputFifo {
    return new InputFifo(join(this.bundle, `${name}-stdin`));
  }

  /** Create of the first container with these streams. */
  async create(streams: Streams = {}, timeoutMs = 120_000): Promise<number> {
    const created = await this.client.call('Create', { id: this.id, bundle: this.bundle, ...streams }, timeoutMs);
    return created.pid;
  }

  async startTask(execId = ''): Promise<void> {
    await this.client.call('Start', { id: this.id, execId });
  }

  async addExec(execId: string, args: readonly string[], streams: Streams = {}): Promise<void> {
    const spec = { cwd: '/', env: ['PATH=/bin:/sbin:/usr/bin:/usr/sbin'], args, terminal: streams.terminal === true };
    const value = Buffer.from(JSON.stringify(spec));
    await this.client.call('Exec', { id: this.id, execId, ...streams, spec: { typeUrl: 'types.containerd.io/opencontainers/runtime-spec/1/Process', value } });
  }

  /** Runs a command in the container to its end. */
  async run(command: string): Promise<{ code: number; stdout: string }> {
    const execId = `run${(this.commands++).toString(36)}`;
    const out = this.output(execId);
    try {
      await this.addExec(execId, ['sh', '-c', command], { stdout: out.path });
      await this.startTask(execId);
      const { exitStatus } = await this.client.call('Wait', { id: this.id, execId });
      await this.client.call('Delete', { id: this.id, execId });
      await out.ended;
      return { code: exitStatus, stdout: out.text };
    } finally {
      out.close();
    }
  }

  /** Ends what is left: kill, delete, shutdown, the `delete` verb, the bundle. */
  async end(): Promise<void> {
    const ignore = (): undefined => undefined;
    if (this.task !== undefined) {
      await this.task.call('Kill', { id: this.id, signal: 9, all: true }).catch(ignore);
      await this.task.call('Wait', { id: this.id }, 20_000).catch(ignore);
      await this.task.call('Delete', { id: this.id }, 20_000).catch(ignore);
      await this.task.call('Shutdown', { id: this.id }, 20_000).catch(ignore);
      this.task.close();
    }
    if (existsSync(this.bundle)) {
      this.verb('delete', ['-bundle', this.bundle]);
    }
    rmSync(this.bundle, { recursive: true, force: true });
  }
}

/** The reading end of a process's stdout FIFO. */
export class OutputFifo {
  readonly firstByte: Promise<number>;
  readonly ended: Promise<number>;
  private readonly socket: Socket;
  bytes = 0;
  text = '';
  /** `performance.now()` of the first and of the latest byte. */
  firstMs = 0;
  lastMs = 0;

  constructor(readonly path: string) {
    execFileSync('mkfifo', [path]);
    const fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
    this.socket = new Socket({ fd, readable: true, writable: false });
    let first: (at: number) => void = () => undefined;
    this.firstByte = new Promise((resolve) => {
      first = resolve;
    });
    this.ended = new Promise((resolve) => {
      this.socket.on('end', () => resolve(this.bytes));
    });
    this.socket.on('data', (chunk: Buffer) => {
      this.lastMs = performance.now();
      if (this.bytes === 0) {
        this.firstMs = this.lastMs;
        first(this.lastMs);
      }
      this.bytes += chunk.length;
      if (this.text.length < 65536) {
        this.text += chunk.toString('latin1');
      }
    });
  }

  close(): void {
    this.socket.destroy();
    rmSync(this.path, { force: true });
  }
}

/** The writing end of a process's stdin FIFO. */
export class InputFifo {
  private readonly socket: Socket;
  private readonly reader: number;

  constructor(readonly path: string) {
    execFileSync('mkfifo', [path]);
    // A reader must be there for a writer to open without waiting.
    this.reader = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
    this.socket = new Socket({ fd: openSync(path, constants.O_WRONLY | constants.O_NONBLOCK), readable: false, writable: true });
  }

  async write(data: string | Buffer): Promise<void> {
    await new Promise<void>((resolve, reject) => {
      this.socket.write(data, (error) => (error ? reject(error) : resolve()));
    });
  }

  /** Closes this writer. The shim is to have opened its end by then. */
  close(): void {
    closeSync(this.reader);
    this.socket.destroy();
  }
}

/** Reads what a FIFO holds right now without waiting. */
export function drainFifo(path: string): string {
  const fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
  try {
    const buffer = Buffer.alloc(65536);
    return buffer.toString('latin1', 0, readSync(fd, buffer));
  } catch {
    return '';
  } finally {
    closeSync(fd);
  }
}
