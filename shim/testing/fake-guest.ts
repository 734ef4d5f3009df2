/* eslint-disable @typescript-eslint/require-await -- a fake answers at once */
/** A guest in memory: processes whose streams and ends a test commands; sandbox and containers around them. */
import type { AgentClient, ContainerStats, ProcessRef } from '../../agent-client/types';
import { defer, type Deferred } from '../../base/deadline';
import { KataError } from '../../base/errors';
import { Logger } from '../../base/log';
import type { OciProcess, OciResources, OciSpec } from '../../base/oci-spec';
import type { RuntimeConfig } from '../../virtcontainers/config/types';
import type { Container, ContainerRequest, ContainerState } from '../../virtcontainers/container/types';
import { GuestProcess } from '../../virtcontainers/process/process';
import type { ProcessExit, ProcessIo } from '../../virtcontainers/process/types';
import type { Sandbox, SandboxEnd, SandboxRequest } from '../../virtcontainers/sandbox/types';

/** Bytes on their way out of the guest. */
class OutPipe {
  private readonly chunks: Uint8Array[] = [];
  private isEnded = false;
  private wake: (() => void) | undefined;

  push(bytes: Uint8Array | string): void {
    this.chunks.push(typeof bytes === 'string' ? Buffer.from(bytes) : bytes);
    this.wake?.();
  }

  end(): void {
    this.isEnded = true;
    this.wake?.();
  }

  async read(): Promise<Uint8Array> {
    while (this.chunks.length === 0 && !this.isEnded) {
      await new Promise<void>((resolve) => {
        this.wake = resolve;
      });
    }
    return this.chunks.shift() ?? new Uint8Array(0);
  }
}

/** One process of the guest. */
export class FakeProcess {
  readonly stdout = new OutPipe();
  readonly stderr = new OutPipe();
  readonly ended: Deferred<number> = defer<number>();
  readonly stdinClosed = defer<undefined>();
  readonly signals: number[] = [];
  readonly sizes: string[] = [];
  stdin = '';

  /** Ends the process, its streams first. */
  exit(status: number): void {
    this.stdout.end();
    this.stderr.end();
    this.ended.resolve(status);
  }
}

export class FakeGuest {
  readonly processes = new Map<string, FakeProcess>();
  readonly calls: string[] = [];
  /** Thrown by the next start of this process. */
  readonly startErrors = new Map<string, KataError>();

  process(execId: string): FakeProcess {
    let process = this.processes.get(execId);
    if (process === undefined) {
      process = new FakeProcess();
      this.processes.set(execId, process);
    }
    return process;
  }

  agent(): AgentClient {
    const one = (ref: ProcessRef): FakeProcess => this.process(ref.execId);
    const agent: Partial<AgentClient> = {
      url: 'unix:///fake',
      getMetrics: async () => 'go_threads 23\nkata_guest_load{item="load1"} 1\nnot a metric line!\n',
      readStdout: async (ref) => one(ref).stdout.read(),
      readStderr: async (ref) => one(ref).stderr.read(),
      waitProcess: async (ref, signal) =>
        Promise.race([
          one(ref).ended.promise,
          new Promise<number>((_resolve, reject) => {
            const onAbort = (): void => {
              reject(new KataError('Unavailable', 'the agent is gone'));
            };
            if (signal?.aborted === true) {
              onAbort();
            }
            signal?.addEventListener('abort', onAbort);
          }),
        ]),
      writeStdin: async (ref, data) => {
        one(ref).stdin += Buffer.from(data).toString();
        return data.length;
      },
      closeStdin: async (ref) => {
        one(ref).stdinClosed.resolve(undefined);
      },
      ttyWinResize: async (ref, rows, columns) => {
        one(ref).sizes.push(`${String(rows)}x${String(columns)}`);
      },
      signalProcess: async (containerId, execId, signal) => {
        const process = this.process(execId ?? containerId);
        process.signals.push(signal);
        this.calls.push(`signal ${execId ?? `${containerId} all`} ${String(signal)}`);
        if (signal === 9 || signal === 15) {
          process.exit(128 + signal);
        }
      },
    };
    return agent as AgentClient;
  }

  newProcess(containerId: string, execId: string, terminal: boolean, io: ProcessIo, onExit: (exit: ProcessExit) => void): GuestProcess {
    return new GuestProcess({
      ref: { containerId, execId },
      name: `process "${execId}"`,
      terminal,
      io,
      agent: this.agent(),
      logger: Logger.none(),
      launch: async () => {
        const error = this.startErrors.get(execId);
        if (error !== undefined) {
          throw error;
        }
        this.calls.push(`start ${execId}`);
        this.process(execId);
        await Promise.resolve();
      },
      onExit,
    });
  }
}

export class FakeContainer implements Container {
  readonly id: string;
  readonly bundle: string;
  readonly spec: OciSpec;
  readonly init: GuestProcess;
  readonly execs = new Map<string, GuestProcess>();
  state: ContainerState = 'created';
  updated: OciResources | undefined;

  constructor(
    request: ContainerRequest,
    private readonly guest: FakeGuest,
  ) {
    this.id = request.id;
    this.bundle = request.bundle;
    this.spec = request.spec;
    this.init = guest.newProcess(this.id, this.id, request.terminal, request.io, () => {
      this.state = 'stopped';
    });
  }

  async start(): Promise<void> {
    if (this.state !== 'created') {
      throw new KataError('FailedPrecondition', `start container "${this.id}": it is ${this.state}`);
    }
    this.state = 'running';
    await this.init.start();
  }

  addExec(execId: string, _spec: OciProcess, terminal: boolean, io: ProcessIo): GuestProcess {
    if (this.state !== 'running') {
      throw new KataError('FailedPrecondition', `exec in container "${this.id}": it is ${this.state}`);
    }
    const process = this.guest.newProcess(this.id, execId, terminal, io, () => undefined);
    this.execs.set(execId, process);
    return process;
  }

  async removeExec(execId: string): Promise<void> {
    const exec = this.execs.get(execId);
    this.execs.delete(execId);
    exec?.end({ status: 255, at: new Date() });
    await Promise.resolve();
  }

  async kill(signal: number, all: boolean): Promise<void> {
    if (this.state === 'created') {
      this.init.end({ status: 128 + signal, at: new Date() });
      return;
    }
    await (all ? this.init.signalAll(signal) : this.init.signal(signal));
  }

  async pause(): Promise<void> {
    if (this.state !== 'running') {
      throw new KataError('FailedPrecondition', `pause container "${this.id}": it is ${this.state}`);
    }
    this.state = 'paused';
    await Promise.resolve();
  }

  async resume(): Promise<void> {
    this.state = 'running';
    await Promise.resolve();
  }

  async update(resources: OciResources): Promise<void> {
    this.updated = resources;
    await Promise.resolve();
  }

  async stats(): Promise<ContainerStats> {
    if (this.state === 'stopped') {
      throw new KataError('NotFound', `stats of container "${this.id}": it has stopped`);
    }
    await Promise.resolve();
    return fakeStats({ total_inactive_file: 5n, inactive_file: 4n, total_rss: 7n });
  }
}

export function fakeStats(memory: Readonly<Record<string, bigint>>): ContainerStats {
  const none = { usage: 0n, maxUsage: 0n, failcnt: 0n, limit: 0n };
  return {
    cpu: { totalNs: 9_000n, perCpuNs: [9_000n], kernelNs: 2_000n, userNs: 7_000n, periods: 1n, throttledPeriods: 2n, throttledNs: 3_000n },
    memory: { cache: 0n, usage: { ...none, usage: 100n, limit: 200n }, swap: none, kernel: none, useHierarchy: true, stats: new Map(Object.entries(memory)) },
    pids: { current: 3n, limit: 10n },
    blkio: {
      serviceBytes: [
        { major: 8n, minor: 0n, op: 'Read', value: 1n },
        { major: 8n, minor: 0n, op: 'Write', value: 2n },
        { major: 8n, minor: 16n, op: 'Read', value: 3n },
      ],
      serviced: [], queued: [], serviceTime: [], waitTime: [], merged: [], time: [], sectors: [],
    },
    hugetlb: new Map(),
    network: [],
  };
}

export class FakeSandbox implements Sandbox {
  readonly id: string;
  readonly pid = 4242;
  readonly vmSource = 'direct';
  vmFallback: string | undefined;
  readonly phases = [];
  readonly config: RuntimeConfig;
  readonly agent: AgentClient;
  readonly containers = new Map<string, FakeContainer>();
  state: Sandbox['state'] = 'ready';
  /** Until resolved, `stop` does not finish. */
  stopGate: Promise<unknown> = Promise.resolve();
  private readonly end = defer<SandboxEnd>();

  constructor(
    readonly request: Omit<SandboxRequest, 'factory'>,
    private readonly guest: FakeGuest,
  ) {
    this.id = request.id;
    this.config = request.config;
    this.agent = guest.agent();
    this.containers.set(request.container.id, new FakeContainer(request.container, guest));
  }

  get ended(): Promise<SandboxEnd> {
    return this.end.promise;
  }

  async createContainer(request: ContainerRequest): Promise<FakeContainer> {
    const container = new FakeContainer(request, this.guest);
    this.containers.set(request.id, container);
    return Promise.resolve(container);
  }

  async deleteContainer(id: string): Promise<void> {
    const container = this.containers.get(id);
    if (container === undefined) {
      throw new KataError('NotFound', `container "${id}"`);
    }
    container.init.end({ status: 255, at: new Date() });
    this.containers.delete(id);
    await Promise.resolve();
  }

  async stop(): Promise<void> {
    await this.stopGate;
    this.state = 'stopped';
    this.end.resolve({ kind: 'stopped', report: '' });
  }

  /** The VM died. */
  fail(report: string): void {
    this.state = 'invalid';
    this.end.resolve({ kind: 'failed', report });
    for (const container of this.containers.values()) {
      container.execs.forEach((exec) => {
        exec.lose();
      });
      container.init.lose();
    }
  }
}
