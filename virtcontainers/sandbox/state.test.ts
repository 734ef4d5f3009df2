import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { StateMachine, type TransitionTable } from '../../base/state-machine';
import { CONTAINER_TRANSITIONS } from '../container/state';
import { PROCESS_TRANSITIONS } from '../process/state';
import { SANDBOX_TRANSITIONS } from './state';

/** Walks every state with every trigger; every state must be reachable from the first. */
function walk<S extends string, T extends string>(name: string, table: TransitionTable<S, T>, first: S, final: readonly S[]): void {
  const states = Object.keys(table) as S[];
  const triggers = [...new Set(states.flatMap((state) => Object.keys(table[state])))] as T[];
  describe(name, () => {
    for (const state of states) {
      for (const trigger of triggers) {
        test(`${state} + ${trigger}`, () => {
          const machine = new StateMachine<S, T>(name, table, state);
          const next = table[state][trigger];
          if (next === undefined) {
            assert.throws(() => machine.move(trigger), { code: 'FailedPrecondition' });
            assert.equal(machine.tryMove(trigger), false);
            assert.equal(machine.state, state);
          } else {
            assert.equal(machine.move(trigger), next);
          }
        });
      }
    }

    test('every state can be reached, and only the final ones cannot be left', () => {
      const reached = new Set<S>([first]);
      for (const state of reached) {
        Object.values<S | undefined>(table[state]).forEach((next) => {
          if (next !== undefined) {
            reached.add(next);
          }
        });
      }
      assert.deepEqual([...reached].sort(), [...states].sort());
      assert.deepEqual(states.filter((state) => Object.keys(table[state]).length === 0).sort(), [...final].sort());
    });
  });
}

walk('sandbox', SANDBOX_TRANSITIONS, 'creating', ['stopped']);
walk('container', CONTAINER_TRANSITIONS, 'creating', ['invalid', 'stopped']);
walk('process', PROCESS_TRANSITIONS, 'created', ['stopped']);
