/** Is the guest still there? One place learns of every way to lose it and tells everybody at once. */
import { describeExit } from '../../base/child';
import { sleep } from '../../base/deadline';
import { describeError, KataError } from '../../base/errors';
import type { AgentClient } from '../../agent-client/types';
import type { Vm } from '../hypervisor/types';

const VM_END_GRACE_MS = 300;

export class GuestLink {
  private readonly controller = new AbortController();
  private client: AgentClient | undefined;
  private vm: Vm | undefined;
  private ending = false;
  /** The loss whose reason is being found out. */
  private losing: Promise<void> = Promise.resolve();

  /** @param parent the caller's wish to cancel counts as loss; undefined afterwards through `detach` */
  constructor(private parent: AbortSignal | undefined) {
    if (parent?.aborted === true) {
      this.onCancel();
    } else {
      parent?.addEventListener('abort', this.onCancel, { once: true });
    }
  }

  /** Fires with the reason (a KataError) when the guest is lost. */
  get signal(): AbortSignal {
    return this.controller.signal;
  }

  get alive(): boolean {
    return !this.controller.signal.aborted;
  }

  /** Watches a started VM. */
  watchVm(vm: Vm): void {
    this.vm = vm;
    void vm.exited.then((exit) => {
      this.lose(new KataError('Unavailable', `the virtual machine ended (${describeExit(exit)})`));
    });
  }

  /** Watches the connection to the agent, and cuts it when the guest is lost otherwise. */
  watchAgent(agent: AgentClient): void {
    this.client = agent;
    if (!this.alive) {
      agent.markDead(this.reason());
    }
    void agent.closed.then((reason) => {
      this.losing = this.vmEnd().then(() => {
        this.lose(KataError.from(reason, `the connection to the agent ended: ${describeError(reason)}`));
      });
    });
  }

  /**
   * A VM that dies takes the connection with it, a moment before its end is known: that end is the better reason. Waits
   * for it, not long; at once where there is no VM.
   */
  async vmEnd(): Promise<void> {
    await Promise.race([this.vm?.exited, sleep(VM_END_GRACE_MS)]);
  }

  /**
   * Resolves when a loss that has begun has its reason, soon: whoever sees processes end by it may want the sandbox
   * stopped before that, and the reason would not be told.
   */
  async settled(): Promise<void> {
    await this.losing;
  }

  /** Marks the guest as lost; the first reason stays. */
  lose(reason: KataError): void {
    if (this.ending || !this.alive) {
      return;
    }
    this.controller.abort(reason);
    this.client?.markDead(reason);
  }

  /** From now on the caller's signal means nothing: the sandbox exists. */
  detach(): void {
    this.parent?.removeEventListener('abort', this.onCancel);
    this.parent = undefined;
  }

  /** What happens from now on is wanted: an orderly end is no loss. */
  expectEnd(): void {
    this.ending = true;
  }

  reason(): KataError {
    const reason: unknown = this.controller.signal.reason;
    return reason instanceof KataError ? reason : new KataError('Canceled', 'canceled', { cause: reason });
  }

  private readonly onCancel = (): void => {
    this.lose(new KataError('Canceled', 'create the sandbox: canceled by the caller', { cause: this.parent?.reason }));
  };
}
