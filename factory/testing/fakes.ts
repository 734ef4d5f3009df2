/** VMs without a VMM, whose agents are real ones over real sockets; a folder that goes after the test. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { connectAgent } from '../../agent-client/connect';
import { startFakeAgent, type AgentHandlers } from '../../agent-client/testing/fake-agent';
import type { ChildExit } from '../../base/child';
import { defer } from '../../base/deadline';
import { KataError } from '../../base/errors';
import { Logger } from '../../base/log';
import type { HypervisorConfig } from '../../virtcontainers/config/types';
import type { HypervisorDriver, Vm, VmFacts, VmSpec, VmState } from '../../virtcontainers/hypervisor/types';
import type { TemplateMounts } from '../template/tmpfs';
import type { BaseConfig, FactoryDeps } from '../types';

type Fault = 'start' | 'load' | 'save' | 'resume';

export class FakeVm implements Vm {
  readonly calls: string[] = [];
  stopped = false;
  taken = false;
  agentUrl = '';
  private exitCode: number | undefined;
  private closeAgent: () => Promise<void> = () => Promise.resolve();
  private readonly end = defer<ChildExit>();

  constructor(
    readonly spec: VmSpec,
    private readonly world: FactoryWorld,
    readonly pid: number,
  ) {}

  get id(): string {
    return this.spec.id;
  }

  get exited(): Promise<ChildExit> {
    return this.end.promise;
  }

  async start(options: Parameters<Vm['start']>[0]): Promise<void> {
    this.calls.push(this.spec.template?.use ?? 'boot');
    options.onLaunched(this.state());
    await this.world.beforeStart(this);
    if (this.world.faults.delete('start')) {
      throw new KataError('DeadlineExceeded', 'start: not up within 10 ms');
    }
    if (this.spec.template?.use === 'clone' && (this.world.faults.delete('load') || readFileSync(this.spec.template.statePath, 'utf8') !== 'state')) {
      this.exitCode = 1;
      throw new KataError('FailedPrecondition', 'QEMU ended with exit code 1');
    }
    const agent = await startFakeAgent(this.handlers(), { check: () => ({ status: 1 }) });
    this.agentUrl = this.world.vsock === undefined ? agent.url : this.world.vsock.listen(agent.url);
    this.closeAgent = agent.close;
  }

  async stop(): Promise<void> {
    this.stopped = true;
    await this.closeAgent();
    this.end.resolve({ code: 0, signal: null });
  }

  /** Ends as if somebody had killed it. */
  die(): void {
    this.end.resolve({ code: null, signal: 'SIGKILL' });
  }

  check(): Promise<void> {
    return Promise.resolve();
  }

  facts(): VmFacts {
    const exit = this.exitCode === undefined ? undefined : { code: this.exitCode, signal: null };
    return { alive: !this.stopped, exit, program: 'fake', pid: this.pid, stderrTail: '', consoleTail: '', consolePath: undefined, accelerator: 'none', hints: [] };
  }

  state(): VmState {
    return { type: 'mock', id: this.id, directory: this.spec.directory, agentUrl: this.agentUrl, processes: [{ name: 'fake', pid: this.pid, startTime: '1' }] };
  }

  threads(): Promise<{ processes: number[]; vcpus: number[] }> {
    return Promise.resolve({ processes: [this.pid], vcpus: [] });
  }

  readonly pause = {
    pause: (): Promise<void> => this.note('pause'),
    resume: (): Promise<void> => (this.world.faults.delete('resume') ? Promise.reject(new KataError('Unavailable', 'resume refused')) : this.note('resume')),
  };

  readonly snapshot = {
    save: async (): Promise<void> => {
      const { template } = this.spec;
      if (template === undefined || this.world.faults.delete('save')) {
        throw new KataError('ResourceExhausted', 'save: no space left on device');
      }
      await this.note('save');
      writeFileSync(template.memoryPath, 'memory');
      writeFileSync(template.statePath, 'state');
    },
  };

  readonly resize = {
    setVcpus: async (count: number): Promise<number> => {
      await this.note(`vcpus ${String(count)}`);
      return count;
    },
    setMemory: async (memoryMiB: number, blockMiB: number): Promise<number> => {
      await this.note(`memory ${String(memoryMiB)} by ${String(blockMiB)}`);
      return memoryMiB;
    },
  };

  readonly transfer = {
    handOver: (): Promise<VmState> => Promise.resolve(this.state()),
    release: async (timeoutMs: number): Promise<boolean> => {
      const end = performance.now() + timeoutMs;
      while (!this.taken && performance.now() < end) {
        await new Promise((resolve) => setTimeout(resolve, 2));
      }
      if (!this.taken) {
        await this.stop();
      }
      return this.taken;
    },
  };

  private note(call: string): Promise<void> {
    this.calls.push(call);
    return Promise.resolve();
  }

  private handlers(): AgentHandlers {
    const note = (call: string) => (): Record<string, never> => {
      this.calls.push(call);
      return {};
    };
    return {
      reseedRandomDev: ({ data }) => {
        this.world.seeds.push(Buffer.from(data).toString('hex'));
        return note('reseed')();
      },
      setGuestDateTime: ({ sec, usec }) => {
        this.world.clocks.push(Number(sec) * 1000 + Number(usec) / 1000);
        this.world.now += this.world.clockCallsTake.shift() ?? 0;
        return note('clock')();
      },
      getGuestDetails: () => ({ memBlockSizeBytes: 134217728n, agentDetails: undefined, supportMemHotplugProbe: false }),
      onlineCPUMem: ({ nbCpus }) => note(`online ${String(nbCpus)}`)(),
      updateRoutes: () => ({ routes: [] }),
    };
  }
}

/** Guests at vsock addresses, on a host that has none: each address stands for the socket at which its guest really listens. */
export class FakeVsock {
  /** In the order in which they were given out. */
  readonly cids: number[] = [];
  /** Addresses that somebody dialled. */
  readonly dialled: number[] = [];
  private readonly guests = new Map<number, string>();

  listen(url: string): string {
    const cid = 3 + 1000 * (this.cids.length + 1);
    this.cids.push(cid);
    this.guests.set(cid, url);
    return `vsock://${String(cid)}:1024`;
  }

  readonly connect: FactoryDeps['connectAgent'] = (url, options) => {
    const cid = Number(/^vsock:\/\/(\d+):1024$/.exec(url)?.[1]);
    this.dialled.push(cid);
    const guest = this.guests.get(cid);
    return guest === undefined ? Promise.reject(new KataError('Unavailable', `no guest at ${url}`)) : connectAgent(guest, options);
  };
}

/** Everything a factory needs. */
export class FactoryWorld {
  readonly root = mkdtempSync(join(tmpdir(), 'kata-factory-'));
  readonly vms: FakeVm[] = [];
  readonly faults = new Set<Fault>();
  readonly seeds: string[] = [];
  readonly clocks: number[] = [];
  readonly log: string[] = [];
  readonly logger = Logger.to((line) => this.log.push(line), 'debug');
  readonly templatePath = join(this.root, 'template');
  /** Set before the first VM: agents are at vsock addresses. */
  vsock: FakeVsock | undefined;
  beforeStart: (vm: FakeVm) => Promise<void> = () => Promise.resolve();
  now = 1_700_000_000_123;
  /** By how many milliseconds `now` moves while each of the next calls that set the clock is under way. */
  readonly clockCallsTake: number[] = [];

  readonly driver: HypervisorDriver = {
    type: 'mock',
    capabilities: () => ({ blockHotplug: true, netHotplug: true, fsShare: true, template: true, resize: true }),
    check: () => Promise.resolve(),
    createVm: (spec) => {
      const vm = new FakeVm(spec, this, 1000 + this.vms.length);
      this.vms.push(vm);
      return vm;
    },
    adoptVm: (_spec, state) => {
      const vm = this.vms.find(({ id, stopped }) => id === state.id && !stopped);
      if (vm === undefined) {
        return Promise.reject(new KataError('NotFound', `take VM "${state.id}" over: it has ended`));
      }
      vm.taken = true;
      return Promise.resolve(vm);
    },
    cleanup: () => Promise.resolve(),
  };

  get deps(): FactoryDeps {
    return { driverFor: () => Promise.resolve(this.driver), connectAgent: this.vsock?.connect ?? connectAgent, vmRoot: join(this.root, 'vm'), now: () => this.now, logger: this.logger };
  }

  base(over: Partial<BaseConfig> = {}): BaseConfig {
    const hypervisor = {
      type: 'mock', path: process.execPath, kernel: '', initrd: '', image: '', firmware: '', firmwareVolume: '', pflashes: [], sharedFs: 'virtio-9p',
      defaultVcpus: 1, defaultMemory: 256, bootTimeout: 5, enableDebug: false, enableAnnotations: [],
    } as unknown as HypervisorConfig;
    return { hypervisor, vcpus: 1, memoryMiB: 256, kernelParams: ['agent.log=debug'], ...over };
  }

  spec(id: string, over: Partial<VmSpec> = {}): VmSpec {
    const { hypervisor, vcpus, memoryMiB, kernelParams } = this.base();
    return {
      id, directory: join(this.root, 'vm', id), config: hypervisor, vcpus, memoryMiB, kernelParams, share: undefined, devices: [],
      netns: { kind: 'own' }, template: undefined, debug: false, logger: this.logger, ...over,
    };
  }

  async dispose(): Promise<void> {
    await Promise.all(this.vms.map((vm) => vm.stop()));
    rmSync(this.root, { recursive: true, force: true });
  }
}

/** Template files in plain folders. */
export const NO_MOUNTS: TemplateMounts = {
  mount: () => Promise.resolve(false),
  unmount: () => Promise.resolve(),
  isMounted: () => false,
};

/** Runs a test in a world of its own. */
export function inWorld(work: (world: FactoryWorld) => Promise<void>): () => Promise<void> {
  return async () => {
    const world = new FactoryWorld();
    try {
      await work(world);
    } finally {
      await world.dispose();
    }
  };
}
