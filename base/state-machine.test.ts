import assert from 'node:assert/strict';
import { test } from 'node:test';
import { isCode } from './errors';
import { StateMachine, type TransitionTable } from './state-machine';

type State = 'off' | 'on' | 'broken';
type Trigger = 'press' | 'hit';
const table: TransitionTable<State, Trigger> = { off: { press: 'on', hit: 'broken' }, on: { press: 'off' }, broken: {} };

test('walks every pair of state and trigger as the table says', () => {
  for (const from of Object.keys(table) as State[]) {
    for (const trigger of ['press', 'hit'] as const) {
      const machine = new StateMachine<State, Trigger>('lamp "a"', table, from);
      const next = table[from][trigger];
      assert.equal(machine.can(trigger), next !== undefined);
      assert.equal(machine.tryMove(trigger), next !== undefined);
      assert.equal(machine.state, next ?? from);
    }
  }
});

test('a wrong move names who, trigger and state', () => {
  const machine = new StateMachine<State, Trigger>('lamp "a"', table, 'broken');
  assert.throws(() => machine.move('press'), (error) => isCode(error, 'FailedPrecondition') && /press lamp "a": not possible in state "broken"/.test(String(error)));
});

test('tells of each move after it was made', () => {
  const seen: string[] = [];
  const machine = new StateMachine<State, Trigger>('lamp', table, 'off', (from, to, trigger) => seen.push(`${from} ${trigger} ${to}`));
  machine.move('press');
  machine.tryMove('hit');
  assert.deepEqual(seen, ['off press on']);
});
