import assert from 'node:assert/strict';
import { test } from 'node:test';
import { errorText, shorten } from './test-run';

test('an error is told with its message and our own frames, relative to the root', () => {
  let cause: unknown;
  try {
    assert.equal(1, 2);
  } catch (reason) {
    cause = reason;
  }
  const text = errorText(process.cwd(), { failureType: 'testCodeFailure', cause });
  assert.match(text, /^Expected values to be strictly equal:\n\n1 !== 2\n\n? +at .*hack\/test-run\.test\.ts:\d+:\d+\)?/);
  assert.doesNotMatch(text, /node:/);
  assert.equal(errorText('/', { failureType: 'testTimeoutFailure', cause: 'test timed out after 50ms' }), '(testTimeoutFailure)\ntest timed out after 50ms');
});

test('a long error keeps its beginning and its end', () => {
  const lines = shorten(Array.from({ length: 500 }, (_, n) => `line ${String(n)}`).join('\n')).split('\n');
  assert.equal(lines.length, 41);
  assert.deepEqual([lines[0], lines[20], lines[40]], ['line 0', '... (460 lines)', 'line 499']);
});
