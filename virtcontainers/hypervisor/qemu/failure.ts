/** The text of a VM that did not start: one line of facts. (The sandbox's report adds the rest.) */
import { describeExit } from '../../../base/child';
import { KataError, codeOf } from '../../../base/errors';
import { dyingLine, spokenLines } from '../console-text';
import type { VmFacts } from '../types';

/** The last line that says something. */
export function lastLine(text: string): string {
  return (spokenLines(text).at(-1) ?? '').trim().slice(0, 300);
}

export interface StartFailure {
  readonly id: string;
  readonly facts: VmFacts;
  readonly cause: unknown;
  /** Why the guest ended, as QEMU told it (`guest-reset`, `guest-shutdown`), if it did. */
  readonly shutdownReason: string | undefined;
  readonly timedOut: boolean;
  readonly waitedMs: number;
  readonly configKey: string;
}

/** Composes the error of a failed start. */
export function startFailure(failure: StartFailure): KataError {
  const { facts } = failure;
  const parts: string[] = [];
  if (facts.exit !== undefined && !failure.timedOut) {
    const why = failure.shutdownReason === undefined ? '' : ` because the guest ended (${failure.shutdownReason})`;
    parts.push(`${facts.program} ended with ${describeExit(facts.exit)}${why}`);
    if (lastLine(facts.stderrTail) !== '') {
      parts.push(lastLine(facts.stderrTail));
    }
  } else if (failure.timedOut) {
    parts.push(`guest not up within ${(failure.waitedMs / 1000).toFixed(1)} s (${failure.configKey}), accelerator ${facts.accelerator}`);
  } else {
    // The message alone: what lies under it, and the hint, come with the cause.
    parts.push(failure.cause instanceof Error ? failure.cause.message : String(failure.cause));
  }
  const spoken = (dyingLine(spokenLines(facts.consoleTail)) ?? lastLine(facts.consoleTail)).replace(/^\[ *[\d.]+\] /, '').slice(0, 300);
  if (spoken !== '') {
    parts.push(`last on the guest console: ${spoken}`);
  } else if (failure.timedOut) {
    parts.push('nothing on the guest console');
  }
  const hint = failure.cause instanceof KataError ? failure.cause.hint : undefined;
  const code = failure.timedOut ? 'DeadlineExceeded' : facts.exit !== undefined ? 'FailedPrecondition' : codeOf(failure.cause);
  return new KataError(code, `start VM "${failure.id}": ${parts.join('; ')}`, { cause: failure.cause, ...(hint === undefined ? {} : { hint }) });
}
