import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { spawnSync } from 'node:child_process';
import { test } from 'node:test';
import { normalizeDashes } from './program';
import { jsonLine, parseRootless } from './session';
import { withHost } from './testing/fake-host';

test('without arguments, and for a group of commands, the help is printed and the exit code is 0', () =>
  withHost(async (fake) => {
    assert.equal(await fake.run(), 0);
    assert.match(fake.stdout, /^Usage: kata-runtime/);
    for (const args of [['iptables'], ['direct-volume'], ['--help'], ['check', '-h'], ['help', 'exec']]) {
      assert.equal(await fake.run(...args), 0, args.join(' '));
      assert.match(fake.stdout, /^Usage: kata-runtime/);
      assert.equal(fake.stderr, '');
    }
  }));

test('a mistyped word is answered with a suggestion and exit code 1', () =>
  withHost(async (fake) => {
    assert.equal(await fake.run('chek'), 1);
    assert.match(fake.stderr, /^kata-runtime: unknown command 'chek' \(Did you mean check\?\)/);
    assert.equal(await fake.run('iptables', 'gte'), 1);
    assert.match(fake.stderr, /Did you mean get/);
    assert.equal(await fake.run('check', '--vebose'), 1);
    assert.match(fake.stderr, /Did you mean --verbose/);
  }));

test('whatever is wrong with a command line is one line with the remedy', () =>
  withHost(async (fake) => {
    const wrong: [string[], string][] = [[['exec'], 'exec'], [['exec', 'a', 'b'], 'exec'], [['iptables', 'get'], 'iptables get'], [['kata-env', '--zzzzzz'], 'env'], [['zzzzzz'], ''], [['--config'], ''], [['direct-volume', 'resize', '--volume-path', '/x'], 'direct-volume resize']];
    for (const [args, command] of wrong) {
      assert.equal(await fake.run(...args), 1, args.join(' '));
      assert.equal(fake.stdout, '');
      assert.match(fake.stderr, /^kata-runtime: [^\n]*\n$/, args.join(' '));
      assert.ok(fake.stderr.endsWith(`(see kata-runtime${command === '' ? '' : ` ${command}`} --help)\n`), fake.stderr);
    }
    assert.equal(await fake.run('chek'), 1);
    assert.equal(fake.stderr, "kata-runtime: unknown command 'chek' (Did you mean check?)\n");
  }));

test('version has upstream\'s three lines, by command and by flag, with one dash or two', () =>
  withHost(async (fake) => {
    for (const args of [['version'], ['--version'], ['-version'], ['-v']]) {
      assert.equal(await fake.run(...args), 0);
      assert.match(fake.stdout, /^kata-runtime {2}: \S+\n {3}commit {3}: \S+\n {3}OCI specs: \S+\n$/);
    }
  }));

test('--show-default-config-paths prints paths and needs no configuration', () =>
  withHost(async (fake) => {
    for (const flag of ['--show-default-config-paths', '--kata-show-default-config-paths', '-show-default-config-paths']) {
      assert.equal(await fake.run(flag), 0);
      assert.equal(fake.stdout.split('\n')[0], '/etc/kata-containers/configuration.toml');
      assert.ok(fake.stdout.includes('/opt/kata/share/defaults/kata-containers/configuration.toml\n'));
    }
  }));

test('wrong global options are refused with the remedy', () =>
  withHost(async (fake) => {
    assert.equal(await fake.run('--log-format', 'xml', 'ps'), 1);
    assert.match(fake.stderr, /unknown log-format "xml".*json/);
    assert.equal(await fake.run('--rootless', 'maybe', 'ps'), 1);
    assert.equal(await fake.run('--log', '/nonexistent/folder/log', 'ps'), 1);
    assert.equal(await fake.run('--config', '/nonexistent.toml', 'env'), 1);
    assert.match(fake.stderr, /nonexistent\.toml does not exist.*--config/);
  }));

test('the log has one line per event, as text or as JSON', () =>
  withHost(async (fake) => {
    const config = fake.config();
    assert.equal(await fake.run('--config', config, '--log', fake.path('log'), '--log-format', 'json', 'env'), 0);
    const lines = readFileSync(fake.path('log'), 'utf8').trim().split('\n').map((line) => JSON.parse(line) as Record<string, string>);
    assert.ok(lines.every((line) => line['command'] === 'env' && line['source'] === 'runtime'));
    assert.ok(lines.some((line) => line['msg'] === 'loaded configuration' && line['file'] === config));
  }));

test('a broken configuration does not keep a command from working that needs none', () =>
  withHost(async (fake) => {
    const config = fake.write('broken.toml', 'this is [not toml');
    assert.equal(await fake.run('--config', config, 'direct-volume', 'remove', '--volume-path', '/some/volume'), 0);
    assert.equal(await fake.run('--config', config, 'ps'), 0);
    assert.equal(await fake.run('--config', config, 'env'), 1);
    assert.match(fake.stderr, /broken\.toml:1/);
  }));

test('completion scripts know every command, and bash takes its own', () =>
  withHost(async (fake) => {
    for (const shell of ['bash', 'zsh', 'fish']) {
      assert.equal(await fake.run('completion', shell), 0);
      for (const word of ['direct-volume', 'kata-check', 'iptables', 'volume-path']) {
        assert.ok(fake.stdout.includes(word), `${shell}: ${word}`);
      }
    }
    assert.equal(await fake.run('completion', 'bash'), 0);
    const script = `${fake.stdout}\nCOMP_WORDS=(kata-runtime ipt); COMP_CWORD=1; _kata_runtime; echo "\${COMPREPLY[@]}"\nCOMP_WORDS=(kata-runtime iptables s); COMP_CWORD=2; _kata_runtime; echo "\${COMPREPLY[@]}"`;
    const done = spawnSync('bash', ['-c', script], { encoding: 'utf8' });
    assert.equal(done.stdout, 'iptables\nset\n', done.stderr);
    assert.equal(await fake.run('completion', 'tcsh'), 1);
  }));

test('one dash is two for long flags, and not behind --', () => {
  assert.deepEqual(normalizeDashes(['-config', 'x', '-n', '-log-format=json', '--', '-verbose']), ['--config', 'x', '-n', '--log-format=json', '--', '-verbose']);
});

test('rootless: auto goes by user, Go\'s words for booleans are taken', () => {
  assert.deepEqual([parseRootless('', 0), parseRootless('auto', 1000), parseRootless('T', 0), parseRootless('0', 1000)], [false, true, true, false]);
  assert.throws(() => parseRootless('yes', 0), /neither true, false nor auto/);
});

test('a logfmt line becomes JSON with its escapes undone', () => {
  assert.equal(jsonLine('time="2026" level=info msg="a \\"b\\" c" n=1\n'), '{"time":"2026","level":"info","msg":"a \\"b\\" c","n":"1"}\n');
});
