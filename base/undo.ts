import { describeError, KataError } from './errors';

interface Step {
  readonly what: string;
  readonly undo: () => Promise<void> | void;
}

/**
 * What was acquired, in order, with the way to give it back. Whatever is acquired is pushed at once; on failure
 * `unwind` gives everything back in reverse order; on success `take` hands the duty to a longer-lived stack.
 */
export class UndoStack {
  private steps: Step[] = [];

  /** Registers how to give something back. `what` names it in the log and in errors. */
  push(what: string, undo: () => Promise<void> | void): void {
    this.steps.push({ what, undo });
  }

  /** Moves all duties to `other`, below which they were acquired later. This stack is empty afterwards. */
  moveTo(other: UndoStack): void {
    other.steps.push(...this.steps);
    this.steps = [];
  }

  /** Forgets all duties: what was acquired now belongs to somebody else. */
  release(): void {
    this.steps = [];
  }

  /** True if nothing is left to give back. */
  get isEmpty(): boolean {
    return this.steps.length === 0;
  }

  /**
   * Gives everything back, newest first. A failing step never stops the others; the failures are returned (and
   * handed to `onError`), never thrown. A second call does only what is still left.
   */
  async unwind(onError?: (error: KataError) => void): Promise<KataError[]> {
    const errors: KataError[] = [];
    for (let step = this.steps.pop(); step !== undefined; step = this.steps.pop()) {
      try {
        await step.undo();
      } catch (reason) {
        const error = KataError.from(reason, `undo ${step.what}: ${describeError(reason)}`);
        errors.push(error);
        onError?.(error);
      }
    }
    return errors;
  }

  /** Runs `work` with a fresh stack; if it throws, everything it pushed is given back before the error goes on. */
  static async guard<T>(work: (undo: UndoStack) => Promise<T>, onError?: (error: KataError) => void): Promise<T> {
    const undo = new UndoStack();
    try {
      return await work(undo);
    } catch (reason) {
      await undo.unwind(onError);
      throw reason;
    }
  }
}
