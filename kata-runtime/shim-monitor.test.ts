import assert from 'node:assert/strict';
import { createServer } from 'node:net';
import { mkdirSync } from 'node:fs';
import { test } from 'node:test';
import { isCode } from '../base/errors';
import { askMonitor, askMonitorOk } from './shim-monitor';
import { withHost } from './testing/fake-host';

test('ids that are none never become part of a path', () =>
  withHost(async (fake) => {
    for (const id of ['', 'a', '..', 'a/b', 'a/../b', '../etc', 'x'.repeat(300), 'a b', '-x', 'ä1']) {
      await assert.rejects(askMonitor(fake.host.roots.monitor, id, { method: 'GET', path: '/metrics' }), (reason) => isCode(reason, 'InvalidArgument'), id);
    }
  }));

test('no socket: both places are named', () =>
  withHost(async (fake) => {
    assert.equal(await fake.run('metrics', 'nobody'), 1);
    assert.ok(fake.stderr.includes(fake.path('sbs/nobody')) && fake.stderr.includes(fake.path('kata/nobody')), fake.stderr);
    assert.match(fake.stderr, /kata-runtime ps/);
  }));

test('a socket that nobody serves is told apart from none', () =>
  withHost(async (fake) => {
    mkdirSync(fake.path('sbs/dead1'), { recursive: true });
    const server = createServer();
    await new Promise<void>((resolve) => server.listen(fake.path('other.sock'), resolve));
    const { renameSync } = await import('node:fs');
    renameSync(fake.path('other.sock'), fake.path('sbs/dead1/shim-monitor.sock'));
    await new Promise((resolve) => server.close(resolve));
    assert.equal(await fake.run('metrics', 'dead1'), 1);
    assert.match(fake.stderr, /nobody serves .*gc removes/);
  }));

test('a shim that hangs is given up in time, whether it is silent or stops in the middle', () =>
  withHost(async (fake) => {
    await fake.monitor('silent1', () => undefined);
    await fake.monitor('half1', (_, response) => {
      response.writeHead(200, { 'content-length': 100 });
      response.write('half');
    });
    for (const id of ['silent1', 'half1']) {
      const started = performance.now();
      await assert.rejects(askMonitor(fake.host.roots.monitor, id, { method: 'GET', path: '/metrics', timeoutMs: 100 }), (reason) => isCode(reason, 'DeadlineExceeded'), id);
      assert.ok(performance.now() - started < 5_000);
    }
  }));

test('an answer without end is cut off', () =>
  withHost(async (fake) => {
    await fake.monitor('flood1', (_, response) => {
      const chunk = Buffer.alloc(1024 * 1024);
      const more = (): void => {
        while (!response.destroyed && response.write(chunk)) {
          // until the pipe is full
        }
        if (!response.destroyed) {
          response.once('drain', more);
        }
      };
      more();
    });
    await assert.rejects(askMonitor(fake.host.roots.monitor, 'flood1', { method: 'GET', path: '/' }), (reason) => isCode(reason, 'ResourceExhausted'));
  }));

test('a status other than 200 is an error with what the shim said, and exit code 1', () =>
  withHost(async (fake) => {
    await fake.monitor('gone1', (_, response) => {
      response.writeHead(503);
      response.end('the guest is gone\n');
    });
    await assert.rejects(askMonitorOk(fake.host.roots.monitor, 'gone1', { method: 'GET', path: '/metrics' }), (reason) => isCode(reason, 'Unavailable'));
    for (const args of [['metrics', 'gone1'], ['iptables', 'get', '--sandbox-id', 'gone1'], ['exec', 'gone1']]) {
      assert.equal(await fake.run(...args), 1);
      assert.match(fake.stderr, /answered 503: the guest is gone/);
      assert.equal(fake.stdout, '');
    }
  }));

test('a long id is reached although its socket path is longer than an address', () =>
  withHost(async (fake) => {
    // As the shim does it: bound by a path relative to the folder.
    const id = 'l'.repeat(128);
    mkdirSync(fake.path(`sbs/${id}`), { recursive: true });
    const { createServer: createHttp } = await import('node:http');
    const home = process.cwd();
    const server = createHttp((_, response) => response.end('hello'));
    process.chdir(fake.path(`sbs/${id}`));
    await new Promise<void>((resolve) => server.listen('shim-monitor.sock', resolve));
    process.chdir(home);
    assert.equal((await askMonitor(fake.host.roots.monitor, id, { method: 'GET', path: '/' })).body.toString(), 'hello');
    server.close();
    server.closeAllConnections();
  }));

test('iptables: requests go to the right path with the file\'s bytes', () =>
  withHost(async (fake) => {
    const seen: string[] = [];
    await fake.monitor('rules1', (request, response) => {
      const parts: Buffer[] = [];
      request.on('data', (part: Buffer) => parts.push(part));
      request.on('end', () => {
        seen.push(`${request.method ?? ''} ${request.url ?? ''} ${request.headers['content-type'] ?? ''} ${Buffer.concat(parts).toString()}`);
        response.end(request.method === 'GET' ? '*filter' : '');
      });
    });
    const file = fake.write('rules', 'COMMIT\n');
    assert.equal(await fake.run('iptables', 'set', '--sandbox-id', 'rules1', '--v6', file), 0, fake.stderr);
    assert.equal(await fake.run('iptables', 'get', '--sandbox-id', 'rules1'), 0);
    assert.equal(fake.stdout, '*filter\n');
    assert.deepEqual(seen, ['PUT /ip6tables application/octet-stream COMMIT\n', 'GET /iptables  ']);
    assert.equal(await fake.run('iptables', 'set', '--sandbox-id', 'rules1'), 1);
    assert.match(fake.stderr, /iptables file not provided/);
    assert.equal(await fake.run('iptables', 'set', '--sandbox-id', 'rules1', '/nonexistent'), 1);
    assert.match(fake.stderr, /iptables file does not exist: \/nonexistent/);
    assert.equal(await fake.run('iptables', 'set', '--sandbox-id', 'rules1', fake.folder), 1);
  }));

test('iptables: a file without end is read no further than the limit, what cannot be read is named', () =>
  withHost(async (fake) => {
    for (const [file, said] of [['/dev/zero', /more than the 4194304 bytes/], [fake.folder, /EISDIR/], ['', /not provided/], [fake.path('none'), /does not exist/]] as const) {
      assert.equal(await fake.run('iptables', 'set', '--sandbox-id', 'box1', file), 1, file);
      assert.match(fake.stderr, said);
      assert.match(fake.stderr, /^kata-runtime: [^\n]*\([^\n]*\)\n$/, 'one line with the remedy');
    }
  }));
