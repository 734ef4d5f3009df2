/** Learns from the agent of containers that ran out of memory. */
import type { AgentClient } from '../../agent-client/types';
import { sleep, withTimeout, defer, type Deferred } from '../../base/deadline';
import { describeError, isCode, KataError } from '../../base/errors';
import type { Logger } from '../../base/log';

const SETTLE_MS = 100;
const RETRY_MS = 1000;

export class OomWatch {
  private readonly controller = new AbortController();
  private readonly seen = new Set<string>();
  private readonly waiting = new Map<string, Deferred<undefined>>();
  private working = true;

  constructor(
    private readonly agent: AgentClient,
    private readonly logger: Logger,
    private readonly onOom: (containerId: string) => void,
  ) {}

  /** Asks until `stop`, the end of the connection, or an agent that does not know the call. Never rejects. */
  async run(): Promise<void> {
    const { signal } = this.controller;
    const stopped = (): boolean => signal.aborted;
    while (!stopped()) {
      try {
        const containerId = await this.agent.getOomEvent(signal);
        this.seen.add(containerId);
        this.onOom(containerId);
        this.waiting.get(containerId)?.resolve(undefined);
      } catch (reason) {
        if (stopped() || isCode(reason, 'Unavailable') || isCode(reason, 'Unimplemented') || isCode(reason, 'Canceled')) {
          break;
        }
        this.logger.warn('waiting for out-of-memory events failed', { error: describeError(reason) });
        await sleep(RETRY_MS, signal).catch(() => undefined);
      }
    }
    this.working = false;
  }

  /** Resolves when the container's event was handed on, or after 100 ms without one. */
  async settled(containerId: string): Promise<void> {
    if (this.seen.has(containerId) || !this.working) {
      return;
    }
    const pending = this.waiting.get(containerId) ?? defer<undefined>();
    this.waiting.set(containerId, pending);
    await withTimeout(pending.promise, SETTLE_MS, () => new KataError('DeadlineExceeded', 'no event')).catch(() => undefined);
    this.waiting.delete(containerId);
  }

  stop(): void {
    this.controller.abort(new KataError('Canceled', 'the sandbox ends'));
  }
}
