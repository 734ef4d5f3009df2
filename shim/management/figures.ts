import type { Phase, SandboxObserver } from '../../virtcontainers/sandbox/types';

/** Upper bounds in milliseconds; the last bucket of a histogram has none. */
const BUCKETS_MS: readonly number[] = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512];

/** One histogram of durations per action, in the buckets of upstream's metrics. */
export class DurationHistograms {
  private readonly byAction = new Map<string, { counts: number[]; sum: number }>();

  observe(action: string, durationMs: number): void {
    let entry = this.byAction.get(action);
    if (entry === undefined) {
      entry = { counts: new Array<number>(BUCKETS_MS.length + 1).fill(0), sum: 0 };
      this.byAction.set(action, entry);
    }
    const at = BUCKETS_MS.findIndex((bound) => durationMs <= bound);
    const bucket = at < 0 ? BUCKETS_MS.length : at;
    entry.counts[bucket] = (entry.counts[bucket] ?? 0) + 1;
    entry.sum += durationMs;
  }

  /** Sample lines of the Prometheus text format, cumulative as it wants them. */
  lines(family: string): string[] {
    const lines: string[] = [];
    for (const [action, { counts, sum }] of this.byAction) {
      let total = 0;
      for (const [index, count] of counts.entries()) {
        total += count;
        lines.push(`${family}_bucket{action="${action}",le="${String(BUCKETS_MS[index] ?? '+Inf')}"} ${String(total)}`);
      }
      lines.push(`${family}_sum{action="${action}"} ${String(sum)}`, `${family}_count{action="${action}"} ${String(total)}`);
    }
    return lines;
  }
}

/** What the shim counts about itself. */
export class ShimFigures {
  readonly rpcs = new DurationHistograms();
  readonly agentCalls = new DurationHistograms();
  readonly phases = new Map<string, number>();

  rpc(method: string, durationMs: number): void {
    this.rpcs.observe(method.replace(/IO$/, 'Io').replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`), durationMs);
  }

  /** To be told by a sandbox. */
  observer(): Omit<SandboxObserver, 'onOom'> {
    return {
      onAgentCall: (request, durationMs) => {
        this.agentCalls.observe(request.startsWith('grpc.') ? request : `grpc.${request}`, durationMs);
      },
      onPhase: (phase: Phase) => {
        this.phases.set(phase.name, phase.durationMs);
      },
    };
  }
}
