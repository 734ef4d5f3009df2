import assert from 'node:assert/strict';
import { test } from 'node:test';
import { cpioOf, withParents, type Entry } from './cpio';

interface Read {
  readonly name: string;
  readonly mode: number;
  readonly data: string;
  readonly device: string;
}

/** Reads an archive the way the kernel does: header, name, data, each padded to four bytes. */
function read(archive: Buffer): Read[] {
  const files: Read[] = [];
  for (let at = 0; ; ) {
    assert.equal(archive.toString('latin1', at, at + 6), '070701');
    const field = (n: number): number => parseInt(archive.toString('latin1', at + 6 + n * 8, at + 14 + n * 8), 16);
    const [mode, bytes, nameBytes] = [field(1), field(6), field(11)];
    const name = archive.toString('utf8', at + 110, at + 110 + nameBytes - 1);
    const start = (at + 110 + nameBytes + 3) & ~3;
    if (name === 'TRAILER!!!') {
      return files;
    }
    assert.equal(field(5), 0, 'no time');
    files.push({ name, mode, data: archive.toString('utf8', start, start + bytes), device: `${String(field(9))}:${String(field(10))}` });
    at = (start + bytes + 3) & ~3;
  }
}

const entries: Entry[] = [
  { kind: 'symlink', path: 'init', target: 'usr/lib/init' },
  { kind: 'file', path: 'usr/lib/init', mode: 0o755, data: Buffer.from('hello') },
  { kind: 'character-device', path: 'dev/console', mode: 0o600, major: 5, minor: 1 },
];

test('every entry is there with type, mode, data and device, its folders before it', () => {
  assert.deepEqual(read(Buffer.concat(cpioOf(entries))), [
    { name: 'dev', mode: 0o040755, data: '', device: '0:0' },
    { name: 'dev/console', mode: 0o020600, data: '', device: '5:1' },
    { name: 'init', mode: 0o120777, data: 'usr/lib/init', device: '0:0' },
    { name: 'usr', mode: 0o040755, data: '', device: '0:0' },
    { name: 'usr/lib', mode: 0o040755, data: '', device: '0:0' },
    { name: 'usr/lib/init', mode: 0o100755, data: 'hello', device: '0:0' },
  ]);
});

test('the order in which entries come does not change the bytes', () => {
  assert.deepEqual(Buffer.concat(cpioOf(entries)), Buffer.concat(cpioOf([...entries].reverse())));
});

test('a folder that is given keeps its mode', () => {
  const folders = withParents([{ kind: 'directory', path: 'tmp', mode: 0o1777 }, { kind: 'file', path: 'tmp/x', mode: 0o644, data: Buffer.alloc(0) }]);
  assert.deepEqual(folders[0], { kind: 'directory', path: 'tmp', mode: 0o1777 });
  assert.equal(folders.length, 2);
});

test('a path that leaves the root and a path given twice are refused', () => {
  for (const path of ['../x', '/x', 'a//b', '', 'a/./b']) {
    assert.throws(() => cpioOf([{ kind: 'directory', path, mode: 0o755 }]), /bad path/);
  }
  const twice: Entry = { kind: 'directory', path: 'a', mode: 0o755 };
  assert.throws(() => cpioOf([twice, twice]), /two entries have one path/);
});
