/** An agent in memory: records what it is asked, answers as it is told. */
import { defer, type Deferred } from '../../../base/deadline';
import { KataError } from '../../../base/errors';
import type { AgentClient, ContainerStats, CreateContainerRequest, CreateSandboxRequest, GuestDetails, ProcessRef } from '../../../agent-client/types';

interface FakeProcess {
  readonly exit: Deferred<number>;
  readonly output: Deferred<undefined>;
}

const DETAILS: GuestDetails = {
  memoryBlockSizeBytes: 134217728n, supportsMemoryHotplugProbe: false, agentVersion: '3.0.0', initDaemon: true,
  deviceHandlers: [], storageHandlers: [], supportsSeccomp: true, extraFeatures: [],
};

export class FakeAgent implements AgentClient {
  readonly url = 'unix:///fake';
  /** Names of the calls, in order. */
  readonly calls: string[] = [];
  readonly sandboxes: CreateSandboxRequest[] = [];
  readonly containers: CreateContainerRequest[] = [];
  /** Makes a call fail, or hang for ever with `'hang'`. */
  readonly faults = new Map<string, KataError | 'hang'>();
  /** Runs at the start of a call. */
  onCall: (name: string) => void = () => undefined;
  private readonly ended = defer<KataError>();
  private readonly dead = defer<never>();
  private readonly processes = new Map<string, FakeProcess>();
  private readonly oom: Deferred<string>[] = [];

  get closed(): Promise<KataError> {
    return this.ended.promise;
  }

  /** Ends a process in the guest. */
  exit(execId: string, status: number): void {
    const process = this.process(execId);
    process.output.resolve(undefined);
    process.exit.resolve(status);
  }

  /** Reports that a container is out of memory. */
  reportOom(containerId: string): void {
    this.oom.shift()?.resolve(containerId);
  }

  markDead(reason: KataError): void {
    this.ended.resolve(reason);
    this.dead.reject(reason);
  }

  close(): void {
    this.markDead(new KataError('Unavailable', 'closed'));
  }

  private process(execId: string): FakeProcess {
    const process = this.processes.get(execId) ?? { exit: defer<number>(), output: defer<undefined>() };
    this.processes.set(execId, process);
    return process;
  }

  private async call<T>(name: string, value: T | Promise<T>, signal?: AbortSignal): Promise<T> {
    this.calls.push(name);
    this.onCall(name);
    const fault = this.faults.get(name);
    if (fault !== undefined && fault !== 'hang') {
      throw fault;
    }
    const aborted = defer<never>();
    const onAbort = (): void => {
      aborted.reject(new KataError('Canceled', `${name}: canceled`));
    };
    signal?.addEventListener('abort', onAbort);
    if (signal?.aborted === true) {
      onAbort();
    }
    return Promise.race([fault === 'hang' ? defer<T>().promise : Promise.resolve(value), this.dead.promise, aborted.promise]);
  }

  check = (): Promise<void> => this.call('check', undefined);
  version = (): Promise<{ grpcVersion: string; agentVersion: string }> => this.call('version', { grpcVersion: '', agentVersion: '' });
  createSandbox = (request: CreateSandboxRequest): Promise<void> => {
    this.sandboxes.push(request);
    return this.call('createSandbox', undefined);
  };
  destroySandbox = (): Promise<void> => this.call('destroySandbox', undefined);
  getGuestDetails = (): Promise<GuestDetails> => this.call('getGuestDetails', DETAILS);
  setGuestDateTime = (): Promise<void> => this.call('setGuestDateTime', undefined);
  reseedRandom = (): Promise<void> => this.call('reseedRandom', undefined);
  onlineCpuMem = (): Promise<void> => this.call('onlineCpuMem', undefined);
  memHotplugByProbe = (): Promise<void> => this.call('memHotplugByProbe', undefined);
  copyFile = (hostPath: string): Promise<void> => this.call(`copyFile ${hostPath}`, undefined);
  getOomEvent = (signal: AbortSignal): Promise<string> => {
    const event = defer<string>();
    this.oom.push(event);
    return this.call('getOomEvent', event.promise, signal);
  };
  getMetrics = (): Promise<string> => this.call('getMetrics', '');
  setPolicy = (): Promise<void> => this.call('setPolicy', undefined);
  createContainer = (request: CreateContainerRequest): Promise<void> => {
    this.containers.push(request);
    return this.call('createContainer', undefined);
  };
  startContainer = (containerId: string): Promise<void> => {
    this.process(containerId);
    return this.call('startContainer', undefined);
  };
  removeContainer = (): Promise<void> => this.call('removeContainer', undefined);
  updateContainer = (): Promise<void> => this.call('updateContainer', undefined);
  statsContainer = (): Promise<ContainerStats> => this.call('statsContainer', {} as ContainerStats);
  pauseContainer = (): Promise<void> => this.call('pauseContainer', undefined);
  resumeContainer = (): Promise<void> => this.call('resumeContainer', undefined);
  execProcess = (ref: ProcessRef): Promise<void> => {
    this.process(ref.execId);
    return this.call('execProcess', undefined);
  };
  signalProcess = async (containerId: string, execId: string | undefined, signal: number): Promise<void> => {
    await this.call(`signalProcess ${signal}`, undefined);
    if (signal === 9) {
      this.exit(execId ?? containerId, 137);
    }
  };
  waitProcess = (ref: ProcessRef, signal?: AbortSignal): Promise<number> => this.call('waitProcess', this.process(ref.execId).exit.promise, signal);
  writeStdin = (_ref: ProcessRef, data: Uint8Array): Promise<number> => this.call('writeStdin', data.length);
  closeStdin = (): Promise<void> => this.call('closeStdin', undefined);
  readStdout = async (ref: ProcessRef, _max: number, signal?: AbortSignal): Promise<Uint8Array> => {
    await this.call('readStdout', this.process(ref.execId).output.promise, signal);
    return new Uint8Array();
  };
  readStderr = this.readStdout;
  ttyWinResize = (): Promise<void> => this.call('ttyWinResize', undefined);
  updateInterface = (): Promise<void> => this.call('updateInterface', undefined);
  updateRoutes = (): Promise<void> => this.call('updateRoutes', undefined);
  listInterfaces = (): Promise<[]> => this.call('listInterfaces', []);
  listRoutes = (): Promise<[]> => this.call('listRoutes', []);
  addArpNeighbors = (): Promise<void> => this.call('addArpNeighbors', undefined);
  getIpTables = (): Promise<Uint8Array> => this.call('getIpTables', new Uint8Array());
  setIpTables = (): Promise<Uint8Array> => this.call('setIpTables', new Uint8Array());
  addSwap = (): Promise<void> => this.call('addSwap', undefined);
  getVolumeStats = (): Promise<{ usage: []; condition: undefined }> => this.call('getVolumeStats', { usage: [], condition: undefined });
  resizeVolume = (): Promise<void> => this.call('resizeVolume', undefined);
}
