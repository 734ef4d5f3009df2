import { KataError } from './errors';

/** A lifecycle as data: for each state the triggers that it allows and the state that each leads to. */
export type TransitionTable<State extends string, Trigger extends string> = Readonly<
  Record<State, Readonly<Partial<Record<Trigger, State>>>>
>;

export type Transition<State extends string, Trigger extends string> = (from: State, to: State, trigger: Trigger) => void;

/** Walks a transition table. Who owns a lifecycle owns one machine and asks it before acting. */
export class StateMachine<State extends string, Trigger extends string> {
  /**
   * @param who names the object in errors, e.g. `sandbox "ab12"`
   * @param onMove told of each move after it was made
   */
  constructor(
    private readonly who: string,
    private readonly table: TransitionTable<State, Trigger>,
    private current: State,
    private readonly onMove?: Transition<State, Trigger>,
  ) {}

  get state(): State {
    return this.current;
  }

  /** True if the trigger is allowed now. */
  can(trigger: Trigger): boolean {
    return this.table[this.current][trigger] !== undefined;
  }

  /** Throws FailedPrecondition, naming who, state and trigger, unless the trigger is allowed now. */
  require(trigger: Trigger): void {
    if (!this.can(trigger)) {
      throw new KataError('FailedPrecondition', `${trigger} ${this.who}: not possible in state "${this.current}"`);
    }
  }

  /** Makes the move; FailedPrecondition if it is not allowed. Returns the new state. */
  move(trigger: Trigger): State {
    this.require(trigger);
    this.tryMove(trigger);
    return this.current;
  }

  /** Makes the move if it is allowed. For late callbacks; the loser frees what it holds. */
  tryMove(trigger: Trigger): boolean {
    const next = this.table[this.current][trigger];
    if (next === undefined) {
      return false;
    }
    const from = this.current;
    this.current = next;
    this.onMove?.(from, next, trigger);
    return true;
  }
}
