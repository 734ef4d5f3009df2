/** Files that are no configuration: refused at once, with file and line, and nothing raw in the message. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, realpathSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, test } from 'node:test';
import { describeError, isCode } from '../../base/errors';
import { loadConfig } from './load';

const GOOD = '[hypervisor.mock]\n';
let folder = '';
let main = '';
beforeEach(() => {
  folder = realpathSync(mkdtempSync(join(tmpdir(), 'kata-ts-')));
  main = join(folder, 'configuration.toml');
});
afterEach(() => {
  rmSync(folder, { recursive: true });
});
const load = () => loadConfig({ configPath: main, env: {}, cacheFolder: '', host: { cpus: 1, memoryMiB: 1024, arch: 'x64' } });

const BAD: readonly (readonly [what: string, content: string | Buffer, line: number, said: RegExp])[] = [
  ['a NUL', '[runtime]\n\0', 2, /not a text file: byte 0x00 at 10 is not UTF-8/],
  ['UTF-16', Buffer.from('[runtime]\n', 'utf16le'), 1, /not a text file/],
  ['Latin-1', Buffer.from('[runtime]\n\njaeger_user = "caf\xe9"\n', 'latin1'), 3, /not a text file: byte 0xe9 at 29 is not UTF-8/],
  ['gzip', Buffer.from([0x1f, 0x8b, 8, 0]), 1, /not a text file/],
  ['control characters', '\u0001\u0002', 1, /not valid TOML: .*\\u0001\\u0002/],
  ['an escape sequence', '[runtime]\n\u001b[31m = 1\n', 2, /not valid TOML: .*\\u001b\[31m/],
  ['a half value', '[runtime]\nenable_debug = tru\n', 2, /not valid TOML: .* at column \d+: enable_debug = tru/],
  ['no quotes', '[runtime]\njaeger_user = me\n', 2, /not valid TOML.*strings need quotes/],
  ['an open string', '[runtime]\njaeger_user = "me\n', 2, /not valid TOML/],
  ['a key twice', '[runtime]\nenable_debug = true\nenable_debug = true\n', 3, /not valid TOML.*it is there twice: keep one/],
  ['deep nesting', `[runtime]\nx = ${'['.repeat(99)}${']'.repeat(99)}\n`, 2, /not valid TOML: .*nested/],
  ['a wrong type', '[runtime]\n\nenable_debug = "true"\n', 3, /runtime.enable_debug: found the string "true", wanted true or false .*without quotes/],
  ['an inline table', 'factory = { enable_template = 1 }\n', 1, /factory.enable_template: found the integer 1/],
  ['a dotted key', 'runtime.enable_debg = true\n', 1, /unknown key "enable_debg" in \[runtime\].*did you mean enable_debug/],
  ['lines of Windows', '[runtime]\r\nenable_debug = true\r\nfoo = 1\r\n', 3, /unknown key "foo"/],
  ['what looks like a key in a long string', '[runtime]\njaeger_user = """\n[runtime]\nbar = 1\n"""\nbar = 2\n', 6, /unknown key "bar"/],
  ['a NUL in a string', '[runtime]\nsandbox_bind_mounts = ["a\\u0000"]\n', 2, /wanted a list of strings/],
  ['a section that does not exist', '[runtme]\n', 1, /unknown section \[runtme\] .*did you mean \[runtime\]/],
];

for (const [what, content, line, said] of BAD) {
  test(`${what} is refused with file and line, in the main file and in a drop-in`, () => {
    const dropIn = join(folder, 'config.d/10-x');
    for (const path of [main, dropIn]) {
      writeFileSync(main, GOOD);
      mkdirSync(join(folder, 'config.d'), { recursive: true });
      writeFileSync(path, content);
      assert.throws(load, (error) => {
        const text = describeError(error);
        return (isCode(error, 'InvalidArgument') && text.includes(`${path}:${String(line)}: `) && said.test(text) && !/[\0-\x1f\x7f]/.test(text)) || assert.fail(JSON.stringify(text));
      });
    }
  });
}

test('a folder, FIFO, device or loop of links in place of the file is refused at once', () => {
  const places: readonly (readonly [make: () => void, said: RegExp])[] = [
    [() => { mkdirSync(main); }, /not a regular file \(name a file\)/],
    [() => { execFileSync('mkfifo', [main]); }, /not a regular file/],
    [() => { symlinkSync('/dev/zero', main); }, /\/dev\/zero: not a regular file/],
    [() => { symlinkSync(join(folder, 'gone'), main); }, /does not exist or cannot be reached: ENOENT.*named by the runtime options/],
    [() => { symlinkSync(main, main); }, /does not exist or cannot be reached: ELOOP/],
  ];
  for (const [make, said] of places) {
    rmSync(main, { recursive: true, force: true });
    make();
    assert.throws(load, (error) => said.test(describeError(error)) || assert.fail(describeError(error)));
  }
});

test('config.d that is a file, and a folder or FIFO in it, are refused', () => {
  writeFileSync(main, GOOD);
  const dropIns = join(folder, 'config.d');
  writeFileSync(dropIns, '');
  assert.throws(load, (error) => /config\.d: ENOTDIR: not a directory/.test(describeError(error)) || assert.fail(describeError(error)));
  rmSync(dropIns);
  mkdirSync(join(dropIns, 'sub'), { recursive: true });
  assert.throws(load, (error) => /config.d\/sub: not a regular file .*move the folder elsewhere/.test(describeError(error)));
  rmSync(join(dropIns, 'sub'), { recursive: true });
  execFileSync('mkfifo', [join(dropIns, 'pipe')]);
  assert.throws(load, /config.d\/pipe: not a regular file/);
});

test('a byte order mark and the replacement character are no faults', () => {
  writeFileSync(main, `\ufeff${GOOD}[runtime]\njaeger_user = "a\ufffdb"\n`);
  assert.equal(load().runtime.other['jaeger_user'], 'a\ufffdb');
});

test('a file of 1 MiB full of keys is read in less than a few seconds, and one byte more is refused', () => {
  const lines = `${GOOD}[image]\n`;
  const filler = Array.from({ length: 60_000 }, (_, index) => `k${String(index)} = 1\n`).join('');
  writeFileSync(main, (lines + filler).slice(0, 700_000).replace(/\n[^\n]*$/, '\n'));
  assert.equal(load().warnings.length, 1);
  writeFileSync(main, `${lines}#${'x'.repeat(1024 * 1024 - lines.length)}`);
  assert.throws(load, /1048577 bytes, more than 1048576/);
});
