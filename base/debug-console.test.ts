import assert from 'node:assert/strict';
import { test } from 'node:test';
import { CONSOLE_END, ConsoleEndFinder } from './debug-console';

test('the end of a console is found at every cut, and never shown', () => {
  const whole = Buffer.from(`out\u001b[1m\u001b]kata put${CONSOLE_END}rest`);
  for (let cut = 0; cut <= whole.length; cut++) {
    const finder = new ConsoleEndFinder();
    const first = finder.push(whole.subarray(0, cut));
    const second = first.ended ? { output: Buffer.alloc(0), ended: true } : finder.push(whole.subarray(cut));
    assert.equal(Buffer.concat([first.output, second.output]).toString(), 'out\u001b[1m\u001b]kata put', String(cut));
    assert.ok(second.ended);
  }
});

test('what only begins like the end is passed on with the next piece', () => {
  const finder = new ConsoleEndFinder();
  assert.equal(finder.push(Buffer.from('a\u001b]ka')).output.toString(), 'a');
  assert.equal(finder.push(Buffer.from('x')).output.toString(), '\u001b]kax');
});
