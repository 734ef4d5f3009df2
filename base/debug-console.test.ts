import assert from 'node:assert/strict';
import { test } from 'node:test';
import { CONSOLE_ATTACH, CONSOLE_END, CONSOLE_HELLO, ConsoleInput, ConsoleOutput, escapeInput, windowMessage } from './debug-console';

test('hello and end of a console are found at every cut, and never shown', () => {
  const whole = Buffer.from(`old${CONSOLE_HELLO}out\u001b[1m\u001b]kata put${CONSOLE_END}rest`);
  for (let cut = 0; cut <= whole.length; cut++) {
    const console_ = new ConsoleOutput();
    const first = console_.push(whole.subarray(0, cut));
    const second = first.ended ? { output: Buffer.alloc(0), greeted: false, ended: true } : console_.push(whole.subarray(cut));
    assert.equal(Buffer.concat([first.output, second.output]).toString(), 'oldout\u001b[1m\u001b]kata put', String(cut));
    assert.notEqual(first.greeted, second.greeted, String(cut));
    assert.ok(second.ended);
  }
});

test('what only begins like a mark is passed on with the next piece', () => {
  const console_ = new ConsoleOutput();
  assert.equal(console_.push(Buffer.from('a\u001b]ka')).output.toString(), 'a');
  assert.equal(console_.push(Buffer.from('x')).output.toString(), '\u001b]kax');
});

test('a client that does not attach speaks to the shell byte by byte, FF and ESC included', () => {
  const console_ = new ConsoleInput();
  const seen = [Buffer.from('ls\u001b'), Buffer.from([0x61, 0xff, 0x57, 0, 24, 0, 80]), Buffer.from('\n')].map((bytes) => console_.push(bytes));
  assert.deepEqual(Buffer.concat(seen.map(({ input }) => input)), Buffer.concat([Buffer.from('ls\u001ba'), Buffer.from([0xff, 0x57, 0, 24, 0, 80, 0x0a])]));
  assert.ok(seen.every(({ window }) => window === undefined));
  assert.equal(seen[0]?.input.toString(), 'ls\u001b', 'a lone escape is not held back');
});

test('an attached client: its bytes and the sizes of its window come out as they went in, at every cut', () => {
  const typed = Buffer.from([0x65, 0xff, 0x57, 0xff, 0xff, 0x1b, 0x0a]);
  const size = { rows: 0xff57, columns: 0x0aff };
  const whole = Buffer.concat([Buffer.from('x'), CONSOLE_ATTACH, windowMessage({ rows: 1, columns: 2 }), escapeInput(typed), windowMessage(size), escapeInput(typed)]);
  for (let cut = 0; cut <= whole.length; cut++) {
    const console_ = new ConsoleInput();
    const parts = [console_.push(whole.subarray(0, cut)), console_.push(whole.subarray(cut))];
    assert.deepEqual(Buffer.concat(parts.map(({ input }) => input)), Buffer.concat([Buffer.from('x'), typed, typed]), String(cut));
    assert.deepEqual(parts.map(({ window }) => window).filter((window) => window !== undefined).at(-1), size, String(cut));
  }
});
