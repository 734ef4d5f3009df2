/** Factories over the mock hypervisor: its VMs are host processes with our real agent. What a VMM adds is made of signals and files. */
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { connectAgent } from '../../../agent-client/connect';
import { isProcessAlive } from '../../../base/child';
import { KataError } from '../../../base/errors';
import { Logger } from '../../../base/log';
import { UndoStack } from '../../../base/undo';
import { newFactory } from '../../../factory/create';
import type { Factory } from '../../../factory/factory';
import { CacheFactory } from '../../../factory/cache/cache';
import { DirectFactory } from '../../../factory/direct/direct';
import { CacheServer } from '../../../factory/grpc-cache/server';
import { NO_MOUNTS } from '../../../factory/testing/fakes';
import type { BaseConfig, BaseKind, FactoryDeps } from '../../../factory/types';
import { mockDriver } from '../../../virtcontainers/hypervisor/mock/driver';
import type { HypervisorDriver, Vm, VmSpec, VmState } from '../../../virtcontainers/hypervisor/types';
import { bootVm, type BootedVm } from '../../../virtcontainers/sandbox/boot';
import { DEFAULT_DEPS } from '../../../virtcontainers/sandbox/deps';
import { GuestLink } from '../../../virtcontainers/sandbox/link';
import { Phases } from '../../../virtcontainers/sandbox/phases';
import type { SandboxRequest } from '../../../virtcontainers/sandbox/types';
import { hypervisorConfig } from '../hypervisor/hypervisor.contract';

export type Fault = 'start' | 'load' | 'resume';

function familyOf(pid: number): number[] {
  try {
    const children = readFileSync(`/proc/${String(pid)}/task/${String(pid)}/children`, 'latin1').split(' ').filter((word) => word.trim() !== '').map(Number);
    return [pid, ...children.flatMap(familyOf)];
  } catch {
    return [];
  }
}

function signalAll(vm: Vm, signal: 'SIGSTOP' | 'SIGCONT'): void {
  for (const pid of familyOf(vm.pid)) {
    process.kill(pid, signal);
  }
}

export function isPaused(vm: Vm): boolean {
  return familyOf(vm.pid).every((pid) => /^State:\s+T/m.test(readFileSync(`/proc/${String(pid)}/status`, 'latin1')));
}

export class MockWorld {
  readonly root = mkdtempSync(join(tmpdir(), 'fc-'));
  readonly vms: Vm[] = [];
  readonly states: VmState[] = [];
  readonly faults = new Set<Fault>();
  readonly log: string[] = [];
  readonly base: BaseConfig;
  private readonly logger = Logger.to((line) => this.log.push(line), 'info');
  private readonly undo = new UndoStack();
  private readonly handed = new Map<string, { vm: Vm; taken: boolean }>();

  constructor() {
    mkdirSync(join(this.root, 'share'));
    const hypervisor = hypervisorConfig('mock', { path: process.execPath, sharedFs: 'none', bootTimeout: 20 });
    this.base = { hypervisor, vcpus: 1, memoryMiB: 256, kernelParams: ['agent.log=debug'] };
  }

  get templatePath(): string {
    return join(this.root, 'template');
  }

  get deps(): FactoryDeps {
    return { driverFor: () => Promise.resolve(this.driver), connectAgent, vmRoot: join(this.root, 'vm'), now: () => Date.now(), logger: this.logger };
  }

  spec(id: string, changes: Partial<VmSpec> = {}): VmSpec {
    const { hypervisor, vcpus, memoryMiB, kernelParams } = this.base;
    return {
      id, directory: join(this.root, 'vm', id), config: hypervisor, vcpus, memoryMiB, kernelParams, share: undefined, devices: [], netns: { kind: 'own' }, template: undefined,
      debug: false, logger: this.logger, ...changes,
    };
  }

  /** As the constructor chooses it for such a configuration; for the client of a cache server, one is started. */
  async factory(kind: BaseKind): Promise<Factory> {
    const endpoint = join(this.root, 'cache.sock');
    if (kind === 'grpc-cache') {
      const cache = new CacheFactory(new DirectFactory(this.base, this.deps), this.deps, { count: 1, transferable: true, refillDelayMs: 0 });
      const server = await CacheServer.start({ endpoint, cache, logger: this.logger, quitDelayMs: 1, takeTimeoutMs: 5000 });
      this.undo.push('the cache server', () => server.stop());
      await this.until(() => cache.stock().length === 1);
    }
    const factory = newFactory({
      base: this.base, template: kind === 'template', templatePath: this.templatePath, vmCache: kind === 'grpc-cache' || kind === 'cache', cacheCount: kind === 'cache' ? 1 : 0,
      cacheEndpoint: endpoint, fetchOnly: false, deps: this.deps, mounts: NO_MOUNTS, cacheOptions: { refillDelayMs: 0 },
    });
    this.undo.push('the factory', () => factory.close());
    if (kind === 'cache') {
      await this.until(() => factory.status().stock.length === 1);
    }
    return factory;
  }

  /** As a sandbox gets its VM: from the factory, else by booting one. What it has is undone with the world. */
  async boot(factory: Factory, spec: VmSpec): Promise<BootedVm> {
    const request = {
      id: spec.id, config: { hypervisor: spec.config, agent: { dialTimeout: 20 } }, factory, logger: this.logger, observer: {}, signal: new AbortController().signal,
    } as unknown as SandboxRequest;
    return bootVm(this.undo, {
      request, deps: { ...DEFAULT_DEPS, driverFor: () => Promise.resolve(this.driver), connectAgent }, spec, link: new GuestLink(request.signal),
      phases: new Phases({}, this.logger), onLaunched: () => undefined, onVm: () => undefined,
    });
  }

  async until(holds: () => boolean, timeoutMs = 30_000): Promise<void> {
    const end = Date.now() + timeoutMs;
    while (!holds()) {
      if (Date.now() > end) {
        throw new Error(`not within ${String(timeoutMs)} ms:\n${this.log.join('')}`);
      }
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
  }

  /** Processes and folders of VMs, but for those that are meant to live. */
  left(living: readonly Vm[] = []): string[] {
    return this.states
      .filter(({ id }) => !living.some((vm) => vm.id === id))
      .flatMap(({ id, directory, processes }) => [
        ...processes.filter(({ pid, startTime }) => isProcessAlive(pid, startTime)).map(({ pid }) => `process ${String(pid)} of ${id}`),
        ...(existsSync(directory) ? [directory] : []),
      ]);
  }

  async dispose(): Promise<void> {
    await this.undo.unwind();
    await Promise.all(this.vms.map((vm) => vm.stop()));
    rmSync(this.root, { recursive: true, force: true });
  }

  private readonly driver: HypervisorDriver = {
    ...mockDriver,
    createVm: (spec) => this.capable(mockDriver.createVm(spec), spec),
    adoptVm: (_spec, state) => {
      const found = this.handed.get(state.id);
      if (found === undefined) {
        return Promise.reject(new KataError('NotFound', `take "${state.id}" over: it has ended`));
      }
      found.taken = true;
      return Promise.resolve(found.vm);
    },
  };

  /** A mock VM with what factories ask of one. A clone is a fresh agent that is paused, if the saved files are whole. */
  private capable(vm: Vm, spec: VmSpec): Vm {
    const start = vm.start.bind(vm);
    this.vms.push(vm);
    return Object.assign(vm, {
      start: async (options: Parameters<Vm['start']>[0]) => {
        const onLaunched = (state: VmState): void => {
          this.states.push(state);
          options.onLaunched(state);
        };
        if (this.faults.delete('start')) {
          throw new KataError('DeadlineExceeded', 'start: not up in time');
        }
        await start({ ...options, onLaunched });
        if (spec.template?.use === 'clone') {
          if (this.faults.delete('load') || readFileSync(spec.template.statePath, 'latin1') !== 'state') {
            await vm.stop();
            throw new KataError('FailedPrecondition', 'the state does not load');
          }
          signalAll(vm, 'SIGSTOP');
        }
      },
      pause: {
        pause: () => {
          signalAll(vm, 'SIGSTOP');
          return Promise.resolve();
        },
        resume: () => {
          if (this.faults.delete('resume')) {
            return Promise.reject(new KataError('Unavailable', 'resume refused'));
          }
          signalAll(vm, 'SIGCONT');
          return Promise.resolve();
        },
      },
      snapshot: {
        save: () => {
          writeFileSync(spec.template?.memoryPath ?? '', 'memory');
          writeFileSync(spec.template?.statePath ?? '', 'state');
          return Promise.resolve();
        },
      },
      transfer: {
        handOver: () => {
          this.handed.set(vm.id, { vm, taken: false });
          return Promise.resolve(vm.state());
        },
        release: async () => {
          await this.until(() => this.handed.get(vm.id)?.taken === true);
          return true;
        },
      },
    });
  }
}
