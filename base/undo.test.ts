import assert from 'node:assert/strict';
import { test } from 'node:test';
import { KataError } from './errors';
import { UndoStack } from './undo';

test('unwinds newest first, and a failing step does not stop the others', async () => {
  const seen: string[] = [];
  const undo = new UndoStack();
  undo.push('a', () => void seen.push('a'));
  undo.push('b', () => {
    throw new KataError('Internal', 'b is stuck');
  });
  undo.push('c', async () => {
    await Promise.resolve();
    seen.push('c');
  });
  const errors = await undo.unwind();
  assert.deepEqual(seen, ['c', 'a']);
  assert.deepEqual(errors.map((error) => error.message), ['undo b: b is stuck']);
  assert.equal(undo.isEmpty, true);
  assert.deepEqual(await undo.unwind(), []);
});

test('guard gives everything back before the error goes on, and nothing on success', async () => {
  const seen: string[] = [];
  await assert.rejects(
    UndoStack.guard(async (undo) => {
      undo.push('x', () => void seen.push('x'));
      await Promise.resolve();
      throw new KataError('NotFound', 'gone');
    }),
    /gone/,
  );
  assert.deepEqual(seen, ['x']);
  assert.equal(await UndoStack.guard((undo) => (undo.push('y', () => void seen.push('y')), Promise.resolve(1))), 1);
  assert.deepEqual(seen, ['x']);
});

test('moved duties belong to the other stack', async () => {
  const seen: string[] = [];
  const inner = new UndoStack();
  const outer = new UndoStack();
  outer.push('first', () => void seen.push('first'));
  inner.push('second', () => void seen.push('second'));
  inner.moveTo(outer);
  await inner.unwind();
  assert.deepEqual(seen, []);
  await outer.unwind();
  assert.deepEqual(seen, ['second', 'first']);
});
