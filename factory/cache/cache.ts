/** Keeps a number of base VMs in stock, made by another base factory. One that cannot be made is tried again later. */
import { join } from 'node:path';
import { sleep } from '../../base/deadline';
import { describeError, KataError } from '../../base/errors';
import { SHARE_TAG } from '../../agent-client/storage';
import type { SharedFolder, VmSpec } from '../../virtcontainers/hypervisor/types';
import { transferShare } from '../../virtcontainers/hypervisor/vm-folder';
import { dialTimeoutMs } from '../../virtcontainers/vm/time-outs';
import { resumeAndConnect } from '../ready';
import { warmUp } from '../warm-up';
import type { BaseConfig, BaseFactory, BaseVm, FactoryDeps, StockedVm } from '../types';

const FIRST_RETRY_MS = 500;
const MAX_RETRY_MS = 60_000;
/** After a VM was taken its sandbox has the processors for this long, before the next one is made. */
const REFILL_DELAY_MS = 1500;

/** A name for a VM that has no sandbox yet. */
function freshId(): string {
  // eslint-disable-next-line @typescript-eslint/no-require-imports
  const { randomBytes } = require('node:crypto') as typeof import('node:crypto');
  return `cache-${randomBytes(8).toString('hex')}`;
}

export interface CacheOptions {
  readonly count: number;
  /** The VMs will be handed to other processes. */
  readonly transferable?: boolean;
  readonly firstRetryMs?: number;
  readonly refillDelayMs?: number;
}

export class CacheFactory implements BaseFactory {
  readonly kind = 'cache';
  private readonly ready: BaseVm[] = [];
  private readonly closing = new AbortController();
  private readonly workers: Promise<void>[];
  private wake: () => void = () => undefined;
  private lastError: string | undefined;
  private takenAt = -Infinity;

  /** Starts to fill the stock at once. */
  constructor(
    private readonly inner: BaseFactory,
    private readonly deps: FactoryDeps,
    private readonly options: CacheOptions,
  ) {
    // One at a time: VMs that are made at once take each other's time, and the first one is wanted soon.
    this.workers = [this.refill()];
  }

  get config(): BaseConfig {
    return this.inner.config;
  }

  /** One of the stock, at once; ResourceExhausted if it is empty, so that the caller can do something else. */
  async getBaseVm(): Promise<BaseVm> {
    const taken = this.ready.shift();
    this.takenAt = performance.now();
    this.wake();
    if (taken === undefined) {
      const why = this.closing.signal.aborted ? 'cache factory is closed' : `no virtual machine in stock${this.lastError === undefined ? '' : `: ${this.lastError}`}`;
      throw new KataError('ResourceExhausted', `get a virtual machine from the cache: ${why}`);
    }
    return Promise.resolve(taken);
  }

  stock(): readonly StockedVm[] {
    return this.ready.map(({ vm, vcpus, memoryMiB, source }) => ({ id: vm.id, pid: vm.pid, vcpus, memoryMiB, source }));
  }

  /** What the last attempt to make a VM failed with; undefined after a success. */
  get failure(): string | undefined {
    return this.lastError;
  }

  async close(): Promise<void> {
    this.closing.abort(new KataError('Canceled', 'the cache is closed'));
    this.wake();
    await Promise.all(this.workers);
    await Promise.all(this.ready.splice(0).map(({ vm }) => vm.stop()));
    await this.inner.close();
  }

  private async refill(): Promise<void> {
    const { signal } = this.closing;
    let delayMs = this.options.firstRetryMs ?? FIRST_RETRY_MS;
    while (!signal.aborted) {
      if (this.ready.length >= this.options.count) {
        await new Promise<void>((resolve) => {
          this.wake = resolve;
        });
        continue;
      }
      const waitMs = this.takenAt + (this.options.refillDelayMs ?? REFILL_DELAY_MS) - performance.now();
      if (waitMs > 0 && this.ready.length > 0) {
        await sleep(waitMs, signal).catch(() => undefined);
        continue;
      }
      try {
        this.keep(await this.make(signal));
        this.lastError = undefined;
        delayMs = this.options.firstRetryMs ?? FIRST_RETRY_MS;
      } catch (reason) {
        this.lastError = describeError(reason);
        if (!this.closing.signal.aborted) {
          this.deps.logger.warn('a virtual machine for the cache could not be made', { error: this.lastError, retryMs: delayMs });
        }
        await sleep(delayMs, signal).catch(() => undefined);
        delayMs = Math.min(2 * delayMs, MAX_RETRY_MS);
      }
    }
  }

  /**
   * A clone has never run: what it does first is slow, under emulation above all. It does it here, where nobody waits,
   * and is paused again.
   */
  private async make(signal: AbortSignal): Promise<BaseVm> {
    const made = await this.inner.getBaseVm(this.spec(), signal);
    const { vm } = made;
    if (made.source === 'direct') {
      return made;
    }
    try {
      const agent = await resumeAndConnect(vm, this.deps, { sandboxId: vm.id, timeoutMs: dialTimeoutMs(vm), signal });
      try {
        await warmUp(agent, this.deps.now(), this.deps.logger, signal);
      } finally {
        agent.close();
      }
      await vm.pause?.pause();
      return made;
    } catch (reason) {
      await vm.stop();
      throw reason;
    }
  }

  /** One that dies in stock is replaced. */
  private keep(made: BaseVm): void {
    this.ready.push(made);
    void made.vm.exited.then(() => {
      const at = this.ready.indexOf(made);
      if (at >= 0) {
        this.ready.splice(at, 1);
        this.deps.logger.warn('a virtual machine in stock ended', { vm: made.vm.id });
        void made.vm.stop();
        this.wake();
      }
    });
  }

  /** The owner's mounts come to it later (`FactoryVm.share`). Another kind of share is attached by the owner. */
  private shareOf(directory: string): SharedFolder | undefined {
    return this.config.hypervisor.sharedFs === 'virtio-9p' ? { kind: 'virtio-9p', tag: SHARE_TAG, source: transferShare(directory) } : undefined;
  }

  private spec(): VmSpec {
    const id = freshId();
    const { config, deps } = this;
    return {
      id, directory: join(deps.vmRoot, id), config: config.hypervisor, vcpus: config.vcpus, memoryMiB: config.memoryMiB,
      kernelParams: config.kernelParams, share: this.shareOf(join(deps.vmRoot, id)), devices: [], netns: { kind: 'own' }, template: undefined,
      debug: config.hypervisor.enableDebug, logger: deps.logger.with({ vm: id }),
      ...(this.options.transferable === true ? { transferable: true } : {}),
    };
  }
}
