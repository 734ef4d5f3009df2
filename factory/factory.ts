/**
 * The factory that a sandbox asks for its VM: takes a base VM of the first base that has one, and makes it fit. What
 * cannot be served is counted and logged with its reason, and the sandbox boots its own VM.
 */
import { abortError } from '../base/deadline';
import { describeError, isCode, KataError } from '../base/errors';
import type { Logger } from '../base/log';
import { UndoStack } from '../base/undo';
import type { VmSpec } from '../virtcontainers/hypervisor/types';
import type { FactoryFallback, FactoryVm, VmFactory } from '../virtcontainers/sandbox/types';
import { checkVmConfig, mismatch } from './compare';
import type { Counters, Counts, FallbackReason } from './counters';
import { makeReady, type OnAgentCall } from './ready';
import type { BaseConfig, BaseFactory, BaseKind, BaseVm, FactoryDeps, StockedVm } from './types';

export interface FactoryStatus {
  readonly kinds: readonly BaseKind[];
  readonly stock: readonly StockedVm[];
  readonly counts: Counts;
}

const CONSOLE_CHARS = 600;

const FALLBACK_OF: Readonly<Record<BaseKind, FallbackReason>> = {
  direct: 'prepare-failed',
  template: 'template-failed',
  cache: 'cache-failed',
  'grpc-cache': 'cache-unreachable',
};

function isCache({ kind }: BaseFactory): boolean {
  return kind === 'cache' || kind === 'grpc-cache';
}

export class Factory implements VmFactory {
  /**
   * @param bases in the order in which they are asked; all have the same configuration
   * @param signal ends what is under way when the factory is closed
   */
  constructor(
    private readonly bases: readonly [BaseFactory, ...BaseFactory[]],
    private readonly deps: FactoryDeps,
    private readonly counters: Counters,
  ) {}

  get bringsShare(): boolean {
    return this.bases.some(isCache) && this.config.hypervisor.sharedFs === 'virtio-9p';
  }

  get config(): BaseConfig {
    return this.bases[0].config;
  }

  /** A fallback: boot directly; counted and logged. Rejects with the signal's reason, or InvalidArgument where no VM can be made from the configuration. Nothing is left then. */
  async getVm(spec: VmSpec, signal: AbortSignal, onAgentCall?: OnAgentCall): Promise<FactoryVm | FactoryFallback> {
    const began = performance.now();
    const logger = spec.logger.with({ source: 'virtcontainers', subsystem: 'factory' });
    checkVmConfig(spec.config);
    const why = mismatch(this.config, spec);
    if (why !== undefined) {
      return this.fallBack(logger, 'config-mismatch', why);
    }
    for (const [at, base] of this.bases.entries()) {
      try {
        const found = await UndoStack.guard((undo) => this.from(undo, base, spec, signal, onAgentCall));
        if (found.source !== 'direct') {
          this.counters.hit(found.source);
        }
        logger.info('virtual machine from the factory', { vmSource: found.source, vm: found.vm.id, ms: Math.round(performance.now() - began) });
        return found;
      } catch (reason) {
        if (signal.aborted) {
          throw abortError(signal, `get a virtual machine for "${spec.id}"`);
        }
        const fallback = this.miss(logger, base, reason, at === this.bases.length - 1);
        if (fallback !== undefined) {
          return fallback;
        }
      }
    }
    throw new KataError('Internal', 'a factory without a base');
  }

  /** A paused VM, for who keeps a stock. */
  async getBaseVm(spec: VmSpec, signal: AbortSignal): Promise<BaseVm> {
    return this.bases[0].getBaseVm(spec, signal);
  }

  status(): FactoryStatus {
    return { kinds: this.bases.map(({ kind }) => kind), stock: this.bases.flatMap((base) => base.stock()), counts: this.counters.read() };
  }

  async close(): Promise<void> {
    await Promise.all(this.bases.map((base) => base.close()));
  }

  private async from(undo: UndoStack, base: BaseFactory, spec: VmSpec, signal: AbortSignal, onAgentCall?: OnAgentCall): Promise<FactoryVm> {
    const made = await base.getBaseVm(spec, signal);
    undo.push(`virtual machine "${made.vm.id}"`, () => made.vm.stop());
    const agent = await makeReady(undo, made, spec, this.deps, signal, onAgentCall).catch((reason: unknown) => {
      if (!signal.aborted) {
        // Gone with the VM otherwise, and the error alone seldom tells why a guest is silent.
        const { alive, consoleTail } = made.vm.facts();
        spec.logger.warn('a virtual machine of the factory does not get ready', { subsystem: 'factory', vm: made.vm.id, alive, console: consoleTail.slice(-CONSOLE_CHARS) });
      }
      throw reason;
    });
    return { vm: made.vm, agent, source: isCache(base) ? 'cache' : made.source, ...(made.share === undefined ? {} : { share: made.share }) };
  }

  /** Counts and logs; undefined while there is another base to ask. */
  private miss(logger: Logger, base: BaseFactory, reason: unknown, last: boolean): FactoryFallback | undefined {
    const cached = isCache(base);
    const error = reason instanceof KataError ? reason : KataError.from(reason, describeError(reason));
    if (cached) {
      this.counters.miss();
    }
    if (last) {
      const empty = cached && isCode(reason, 'ResourceExhausted');
      const other = cached && isCode(reason, 'FailedPrecondition') ? 'config-mismatch' : FALLBACK_OF[base.kind];
      return this.fallBack(logger, empty ? 'cache-empty' : other, describeError(error));
    }
    logger.info('the factory goes on to its next base', { base: base.kind, reason: describeError(error) });
    return undefined;
  }

  private fallBack(logger: Logger, reason: FallbackReason, why: string): FactoryFallback {
    this.counters.fallback(reason);
    logger.warn('fallback to direct factory vm', { vmSource: 'direct', fallback: reason, reason: why });
    return { vm: undefined, fallback: reason };
  }
}
