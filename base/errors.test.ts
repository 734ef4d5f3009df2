import assert from 'node:assert/strict';
import { test } from 'node:test';
import { codeOf, describeError, errnoOf, KataError } from './errors';

const enoent = (): Error => Object.assign(new Error('ENOENT: no such file or directory'), { code: 'ENOENT' });

test('an errno anywhere in the cause chain decides the code', () => {
  const wrapped = new Error('outer', { cause: enoent() });
  assert.equal(errnoOf(wrapped), 'ENOENT');
  assert.equal(codeOf(wrapped), 'NotFound');
  assert.equal(KataError.from(wrapped, 'open the kernel').code, 'NotFound');
});

test('a KataError keeps its own code whatever lies under it', () => {
  assert.equal(codeOf(new KataError('Internal', 'x', { cause: enoent() })), 'Internal');
});

test('a subclass knows its own errors only, KataError all', () => {
  class Special extends KataError {}
  assert.deepEqual([new Special('Internal', 'x') instanceof Special, new KataError('Internal', 'x') instanceof Special, new Special('Internal', 'x') instanceof KataError], [true, false, true]);
});

test('a thrown value that is no error is Unknown', () => {
  assert.equal(codeOf('text'), 'Unknown');
  assert.equal(codeOf(Object.assign(new Error('x'), { code: 'ERR_INVALID_ARG' })), 'Unknown');
});

test('the description holds the chain once, hints at the end', () => {
  const error = new KataError('NotFound', 'start VM "a": kernel missing', { hint: 'set kernel', cause: enoent() });
  const outer = KataError.from(error, `create sandbox "a": ${error.message}`, { hint: 'see the log' });
  assert.equal(
    describeError(outer),
    'create sandbox "a": start VM "a": kernel missing: ENOENT: no such file or directory (see the log; set kernel)',
  );
});

test('a chain that leads to itself ends', () => {
  const error = new Error('loop');
  error.cause = error;
  assert.equal(describeError(error), 'loop');
});
