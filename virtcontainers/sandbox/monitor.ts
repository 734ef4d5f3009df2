/** Asks VMM and agent from time to time whether they are well (virtcontainers-behaviour A). */
import type { AgentClient } from '../../agent-client/types';
import { describeError, isCode, KataError } from '../../base/errors';
import type { Vm } from '../hypervisor/types';

const PERIOD_MS = 5_000;
/** An overloaded host makes a healthy agent late once. */
const AGENT_FAILURES = 2;

export class Monitor {
  private timer: NodeJS.Timeout | undefined;
  private failures = 0;
  private stopped = false;

  constructor(
    private readonly vm: Vm,
    private readonly agent: AgentClient,
    private readonly onFailure: (reason: KataError) => void,
    private readonly periodMs = PERIOD_MS,
  ) {}

  start(): void {
    this.timer = setTimeout(() => {
      void this.tick();
    }, this.periodMs);
    this.timer.unref();
  }

  stop(): void {
    this.stopped = true;
    clearTimeout(this.timer);
  }

  private async tick(): Promise<void> {
    try {
      await this.vm.check();
    } catch (reason) {
      this.report(KataError.from(reason, `failed to ping hypervisor process: ${describeError(reason)}`));
      return;
    }
    try {
      await this.agent.check();
      this.failures = 0;
    } catch (reason) {
      if (!isCode(reason, 'Unimplemented') && ++this.failures >= AGENT_FAILURES) {
        this.report(KataError.from(reason, `failed to ping agent: ${describeError(reason)}`));
        return;
      }
    }
    if (!this.stopped) {
      this.start();
    }
  }

  private report(reason: KataError): void {
    if (!this.stopped) {
      this.stopped = true;
      this.onFailure(reason);
    }
  }
}
