/** Names and times the steps of a start; they may overlap. */
import type { Logger } from '../../base/log';
import type { Phase, SandboxObserver } from './types';

export class Phases {
  private readonly began = performance.now();
  private readonly list: Phase[] = [];

  constructor(
    private readonly observer: SandboxObserver,
    private readonly logger: Logger,
  ) {}

  get all(): readonly Phase[] {
    return this.list;
  }

  /** Starts a phase; call the result once, when it is over. */
  begin(name: string): () => void {
    const from = performance.now();
    return () => {
      const phase: Phase = { name, startMs: from - this.began, durationMs: performance.now() - from };
      this.list.push(phase);
      this.logger.debug('phase', { phase: name, startMs: Math.round(phase.startMs), durationMs: Math.round(phase.durationMs * 10) / 10 });
      this.observer.onPhase?.(phase);
    };
  }

  /** Times a piece of work, also one that fails. */
  async time<T>(name: string, work: () => Promise<T> | T): Promise<T> {
    const end = this.begin(name);
    try {
      return await work();
    } finally {
      end();
    }
  }
}
