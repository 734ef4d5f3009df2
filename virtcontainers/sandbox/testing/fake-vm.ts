import type { ChildExit } from '../../../base/child';
import { abortError, defer } from '../../../base/deadline';
import { KataError } from '../../../base/errors';
import type { DriverCapabilities, GuestBlockAddress, HypervisorDriver, Vm, VmFacts, VmSpec, VmState } from '../../hypervisor/types';

/** A VM without a process. `hang`: its boot never ends by itself. */
export class FakeVm implements Vm {
  readonly agentUrl = 'unix:///fake';
  readonly pid = process.pid;
  readonly blocks = new Set<string>();
  stops = 0;
  hang = false;
  failCheck: KataError | undefined;
  private ending: ChildExit | undefined;
  private readonly end = defer<ChildExit>();

  constructor(
    readonly spec: VmSpec,
    private readonly onStart: (vm: FakeVm) => void = () => undefined,
  ) {}

  get id(): string {
    return this.spec.id;
  }

  get exited(): Promise<ChildExit> {
    return this.end.promise;
  }

  /** Ends the VM as if somebody had killed it. */
  die(): void {
    this.ending ??= { code: null, signal: 'SIGKILL' };
    this.end.resolve(this.ending);
  }

  async start(options: { timeoutMs: number; signal: AbortSignal; onLaunched: (state: VmState) => void }): Promise<void> {
    options.onLaunched(this.state());
    this.onStart(this);
    const aborted = defer<never>();
    options.signal.addEventListener('abort', () => {
      aborted.reject(abortError(options.signal, 'start'));
    });
    const died = this.end.promise.then(() => {
      throw new KataError('Unavailable', 'start the virtual machine: it ended with signal SIGKILL');
    });
    await Promise.race([this.hang ? defer<never>().promise : Promise.resolve(), aborted.promise, died]);
  }

  stop(): Promise<void> {
    this.stops++;
    this.ending ??= { code: 0, signal: null };
    this.end.resolve(this.ending);
    return Promise.resolve();
  }

  check(): Promise<void> {
    return this.failCheck === undefined ? Promise.resolve() : Promise.reject(this.failCheck);
  }

  facts(): VmFacts {
    return {
      alive: this.ending === undefined, exit: this.ending, program: '/usr/bin/fake-vmm', pid: this.pid, stderrTail: 'fake: bad luck\n',
      consoleTail: 'Kernel panic - not syncing\n', consolePath: undefined, accelerator: 'none', hints: [],
    };
  }

  state(): VmState {
    return { type: 'mock', id: this.id, directory: this.spec.directory, agentUrl: this.agentUrl, processes: [] };
  }

  threads(): Promise<{ processes: number[]; vcpus: number[] }> {
    return Promise.resolve({ processes: [this.pid], vcpus: [] });
  }

  readonly hotplug = {
    addBlock: (device: { id: string }): Promise<GuestBlockAddress> => {
      this.blocks.add(device.id);
      return Promise.resolve({ kind: 'pci', path: '02/01' });
    },
    removeBlock: (id: string): Promise<void> => {
      this.blocks.delete(id);
      return Promise.resolve();
    },
    addNet: (): Promise<string> => Promise.resolve('02/02'),
    removeNet: (): Promise<void> => Promise.resolve(),
  };
}

export class FakeDriver implements HypervisorDriver {
  readonly type = 'mock';
  readonly vms: FakeVm[] = [];
  readonly cleaned: VmState[] = [];

  constructor(
    private readonly onStart: (vm: FakeVm) => void = () => undefined,
    private readonly given: Partial<DriverCapabilities> = {},
  ) {}

  capabilities(): DriverCapabilities {
    return { blockHotplug: true, netHotplug: true, fsShare: true, template: false, resize: false, ...this.given };
  }

  check(): Promise<void> {
    return Promise.resolve();
  }

  createVm(spec: VmSpec): FakeVm {
    const vm = new FakeVm(spec, this.onStart);
    this.vms.push(vm);
    return vm;
  }

  cleanup(state: VmState): Promise<void> {
    this.cleaned.push(state);
    return Promise.resolve();
  }
}
