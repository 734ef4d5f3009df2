import assert from 'node:assert/strict';
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { writeFileAtomic } from './atomic-file';
import { isCode } from './errors';
import { checkAbsolute, checkId, joinBelow } from './ids';
import { Logger, logfmtValue } from './log';

test('an atomic write replaces the whole file with the asked mode and leaves nothing beside it', () => {
  const folder = mkdtempSync(join(tmpdir(), 'kata-ts-'));
  try {
    const path = join(folder, 'state.json');
    writeFileSync(path, 'old and longer');
    writeFileAtomic(path, 'new');
    assert.equal(readFileSync(path, 'utf8'), 'new');
    assert.equal(statSync(path).mode & 0o777, 0o600);
    assert.deepEqual(readdirSync(folder), ['state.json']);
    assert.throws(() => writeFileAtomic(join(folder, 'no/such/file'), 'x'), (error) => isCode(error, 'NotFound'));
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test('ids from outside: what upstream refuses is refused', () => {
  for (const id of ['', ' ', '.', '-1', '_a', 'a', 'a/b', 'foo/../bar', '..', 'a b', 'a\n', 'x'.repeat(129)]) {
    assert.throws(() => checkId(id, 'container'), (error) => isCode(error, 'InvalidArgument'), JSON.stringify(id));
  }
  for (const id of ['aa', 'a.', 'a..', 'hello..world', 'A_b-c.d', 'x'.repeat(128)]) {
    assert.equal(checkId(id, 'container'), id);
  }
});

test('a path from outside cannot leave its root', () => {
  assert.equal(joinBelow('/run/kata', 'a/b', 'copy'), '/run/kata/a/b');
  assert.equal(joinBelow('/run/kata', '/a/../b', 'copy'), '/run/kata/b');
  for (const path of ['../x', 'a/../../x', '/../../etc/passwd']) {
    assert.throws(() => joinBelow('/run/kata', path, 'copy'), (error) => isCode(error, 'InvalidArgument'), path);
  }
  assert.throws(() => joinBelow('/run/kata', '../kata-evil', 'copy'));
  assert.throws(() => checkAbsolute('relative', 'x'));
  assert.throws(() => checkAbsolute('/a/../b', 'x'));
  assert.equal(checkAbsolute('/a//b/', 'x'), '/a/b/');
});

test('log lines are logfmt: levels filter, fields add up, odd values are quoted', () => {
  const lines: string[] = [];
  const log = Logger.to((line) => lines.push(line), 'info', { sandbox: 'ab' });
  log.debug('not seen');
  log.with({ pid: 7 }).warn('it is "so"', { path: '/a b', gone: undefined });
  assert.equal(lines.length, 1);
  assert.match(lines[0] ?? '', /^time="[^"]+" level=warning msg="it is \\"so\\"" sandbox=ab pid=7 path="\/a b"\n$/);
  assert.equal(logfmtValue('a\nb'), '"a\\nb"');
});
