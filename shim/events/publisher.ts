/** Carries events to the host in order: one queue, one call at a time, retries, and a word in the log for what is lost. */
import { defer, sleep, withTimeout } from '../../base/deadline';
import { describeError, KataError } from '../../base/errors';
import type { Logger } from '../../base/log';
import type { TaskEvent } from './event';

/** An event with the time at which it happened. */
export interface DatedEvent extends TaskEvent {
  readonly at: Date;
}

/** One way to the host. Rejects if the event did not arrive. */
export interface EventTransport {
  send(event: DatedEvent, timeoutMs: number): Promise<void>;
  close(): void;
}

export interface PublisherOptions {
  readonly transport: EventTransport;
  readonly logger: Logger;
  /** Of one call. */
  readonly timeoutMs?: number;
  /** How long to wait before the first retry; the n-th waits n times as long. */
  readonly retryDelayMs?: number;
}

const MAX_QUEUED = 2048;
const MAX_RETRIES = 5;

export class EventPublisher {
  private readonly queue: DatedEvent[] = [];
  private isSending = false;
  private idle = defer<undefined>();
  private readonly stop = new AbortController();

  constructor(private readonly options: PublisherOptions) {
    this.idle.resolve(undefined);
  }

  /** Queues it; never blocks and never fails. */
  publish(event: TaskEvent): void {
    if (this.queue.length >= MAX_QUEUED) {
      this.options.logger.error('event dropped: the queue is full', { topic: event.topic });
      return;
    }
    this.queue.push({ ...event, at: new Date() });
    if (!this.isSending) {
      this.isSending = true;
      this.idle = defer<undefined>();
      void this.drain();
    }
  }

  /** Resolves when everything is out, or after `timeoutMs`. */
  async flush(timeoutMs: number): Promise<void> {
    await withTimeout(this.idle.promise, timeoutMs, () => new KataError('DeadlineExceeded', 'flush events')).catch(() => undefined);
  }

  /** Gives up what is queued. */
  close(): void {
    this.stop.abort();
    this.queue.length = 0;
    this.options.transport.close();
  }

  private async drain(): Promise<void> {
    for (let event = this.queue[0]; event !== undefined; event = this.queue[0]) {
      await this.sendWithRetries(event);
      this.queue.shift();
    }
    this.isSending = false;
    this.idle.resolve(undefined);
  }

  private async sendWithRetries(event: DatedEvent): Promise<void> {
    const { transport, logger, timeoutMs = 5_000, retryDelayMs = 1_000 } = this.options;
    for (let retry = 0; !this.stop.signal.aborted; retry++) {
      try {
        await transport.send(event, timeoutMs);
        return;
      } catch (reason) {
        if (retry >= MAX_RETRIES) {
          logger.error('event lost', { topic: event.topic, retries: retry, error: describeError(reason) });
          return;
        }
        logger.debug('event not delivered yet', { topic: event.topic, retry, error: describeError(reason) });
        await sleep(retryDelayMs * (retry + 1), this.stop.signal).catch(() => undefined);
      }
    }
  }
}
