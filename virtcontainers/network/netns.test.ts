import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { UndoStack } from '../../base/undo';
import { openNetns } from './netns';

const spec = (path?: string): { linux: { namespaces: { type: string; path?: string }[] } } => ({
  linux: { namespaces: [{ type: 'network', ...(path === undefined ? {} : { path }) }] },
});

test('no path: the VMM gets a namespace of its own; switched off: the host one', () => {
  assert.deepEqual(openNetns(new UndoStack(), spec(), false), { path: '', forVm: { kind: 'own' } });
  assert.deepEqual(openNetns(new UndoStack(), {}, true), { path: '', forVm: { kind: 'host' } });
});

test("the host's own namespace is refused, named or not", async () => {
  const undo = new UndoStack();
  assert.throws(() => openNetns(undo, {}, false), /host networking is not supported/);
  assert.throws(() => openNetns(undo, spec('/proc/self/ns/net'), false), /host networking is not supported/);
  await undo.unwind();
});

test('what is no namespace, or not there, is refused by name', async () => {
  const undo = new UndoStack();
  const folder = mkdtempSync(join(tmpdir(), 'kata-netns-'));
  writeFileSync(join(folder, 'file'), '');
  assert.throws(() => openNetns(undo, spec(join(folder, 'file')), false), /not a network namespace/);
  assert.throws(() => openNetns(undo, spec(join(folder, 'none')), false), /no such file or directory/);
  await undo.unwind();
  rmSync(folder, { recursive: true });
});
