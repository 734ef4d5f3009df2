import assert from 'node:assert/strict';
import { createServer, type Socket } from 'node:net';
import { PassThrough } from 'node:stream';
import { mkdirSync, rmSync } from 'node:fs';
import { test } from 'node:test';
import { CONSOLE_ATTACH, CONSOLE_END, CONSOLE_HELLO, ConsoleInput, type WindowSize } from '../../base/debug-console';
import { Session } from '../session';
import { withHost, type FakeHost } from '../testing/fake-host';
import { parsePort, runExec } from './command';
import { consoleEndpoint } from './console-address';

test('the console is where the agent is, at another port or socket', () => {
  assert.deepEqual(consoleEndpoint('vsock://4138340623:1024', 1026), { kind: 'vsock', cid: 4138340623, port: 1026 });
  assert.deepEqual(consoleEndpoint('hvsock:///run/vc/firecracker/x/root/kata.hvsock:1024', 7), { kind: 'hvsock', path: '/run/vc/firecracker/x/root/kata.hvsock', port: 7 });
  assert.deepEqual(consoleEndpoint('serial:///run/vc/vm/x/agent.sock', 1026), { kind: 'unix', path: '/run/vc/vm/x/debug-console.sock' });
  for (const url of ['', 'vsock://x:1', 'tcp://1:2', 'hvsock://relative:1', 'vsock://1:2:3']) {
    assert.throws(() => consoleEndpoint(url, 1), /parse agent URL/, url);
  }
});

test('port 0 and none mean 1026', () => {
  assert.deepEqual([parsePort(undefined), parsePort('0'), parsePort(''), parsePort('99')], [1026, 1026, 1026, 99]);
  assert.throws(() => parsePort('-1'), /kata-debug-port/);
  assert.throws(() => parsePort('4294967296'), /kata-debug-port/);
});

function sessionOf(fake: FakeHost): Session {
  return new Session(fake.host, { log: '/dev/null', logFormat: 'text', rootless: '' }, 'exec');
}

async function serveConsole(fake: FakeHost, id: string, onConnection: (socket: Socket) => void, hybrid = false): Promise<() => void> {
  mkdirSync(fake.path('vm/x'), { recursive: true });
  const path = fake.path(hybrid ? 'vm/x/hv.sock' : 'vm/x/debug-console.sock');
  const server = createServer(onConnection);
  await new Promise<void>((resolve) => server.listen(path, resolve));
  await fake.monitor(id, (_, response) => response.end(hybrid ? `hvsock://${path}:1024\n` : `serial://${fake.path('vm/x/agent.sock')}`));
  return () => server.close();
}

test('what is typed goes in, what is said comes out, and the end of the console ends it', () =>
  withHost(async (fake) => {
    const stop = await serveConsole(fake, 'serial1', (socket) => {
      socket.on('data', (bytes: Buffer) => {
        if (bytes.toString().includes('exit\n')) {
          socket.write(`you said ${bytes.toString()}bye${CONSOLE_END}`);
        }
      });
    });
    const [input, output] = [new PassThrough(), new PassThrough()];
    input.write('exit\n');
    await runExec(sessionOf(fake), 'serial1', undefined, { input, output });
    assert.equal(String(output.read()), 'you said exit\nbye');
    stop();
  }));

test('hybrid vsock: CONNECT with the port, then the bytes behind OK are the console\'s', () =>
  withHost(async (fake) => {
    const stop = await serveConsole(
      fake,
      'hybrid1',
      (socket) => {
        socket.once('data', (bytes: Buffer) => {
          socket.end(bytes.toString() === 'CONNECT 77\n' ? 'OK 1\nwelcome' : 'NO\n');
        });
      },
      true,
    );
    const [input, output] = [new PassThrough(), new PassThrough()];
    await runExec(sessionOf(fake), 'hybrid1', '77', { input, output });
    assert.equal(String(output.read()), 'welcome');
    stop();
  }));

test('without a console the key to set is named', () =>
  withHost(async (fake) => {
    await fake.monitor('off1', (_, response) => response.end(`serial://${fake.path('vm/x/agent.sock')}`));
    assert.equal(await fake.run('exec', 'off1'), 1);
    assert.match(fake.stderr, /connect to the debug console.*debug_console_enabled = true/);
  }));

/** A terminal of 27 rows by 90 columns whose window can be made larger. */
function fakeTerminal(): { input: PassThrough & { isTTY: boolean; setRawMode(raw: boolean): void }; output: PassThrough & { isTTY: boolean; rows: number; columns: number }; modes: boolean[] } {
  const modes: boolean[] = [];
  const input = Object.assign(new PassThrough(), { isTTY: true, setRawMode: (raw: boolean) => void modes.push(raw) });
  return { input, output: Object.assign(new PassThrough(), { isTTY: true, rows: 27, columns: 90 }), modes };
}

test('a console that can be told the window is told it at once and whenever it changes; what is typed stays as it is', () =>
  withHost(async (fake) => {
    const { input, output, modes } = fakeTerminal();
    const [sizes, typed]: [WindowSize[], Buffer[]] = [[], []];
    const stop = await serveConsole(fake, 'window1', (socket) => {
      const decoder = new ConsoleInput();
      socket.write(`${CONSOLE_HELLO}$ `);
      socket.on('data', (bytes: Buffer) => {
        const { input: bytesTyped, window } = decoder.push(bytes);
        typed.push(bytesTyped);
        if (window !== undefined) {
          sizes.push(window);
        }
        if (sizes.length === 1 && window !== undefined) {
          Object.assign(output, { rows: 50, columns: 200 });
          output.emit('resize');
        } else if (sizes.length === 2 && window !== undefined) {
          input.write(Buffer.from([0x1b, 0xff, 0x0a]));
        } else if (bytesTyped.includes(0x0a)) {
          socket.write(CONSOLE_END);
        }
      });
    });
    await runExec(sessionOf(fake), 'window1', undefined, { input, output }).finally(stop);
    assert.deepEqual(sizes, [{ rows: 27, columns: 90 }, { rows: 50, columns: 200 }]);
    assert.deepEqual(Buffer.concat(typed), Buffer.from([0x1b, 0xff, 0x0a]));
    assert.equal(String(output.read()), '$ ');
    assert.deepEqual(modes, [true, false]);
    assert.equal(output.listenerCount('resize'), 0);
  }));

test('a console of another agent gets nothing but what is typed', () =>
  withHost(async (fake) => {
    const { input, output } = fakeTerminal();
    const got: Buffer[] = [];
    const stop = await serveConsole(fake, 'plain1', (socket) => {
      socket.write('# ');
      socket.on('data', (bytes: Buffer) => {
        got.push(bytes);
        socket.end('bye');
      });
    });
    input.write(Buffer.from([0x61, 0xff]));
    await runExec(sessionOf(fake), 'plain1', undefined, { input, output }).finally(stop);
    assert.deepEqual(Buffer.concat(got), Buffer.from([0x61, 0xff]));
    assert.ok(!Buffer.concat(got).includes(CONSOLE_ATTACH));
  }));

test('a console that breaks off is an error, whichever way it ends; the terminal is as before', () =>
  withHost(async (fake) => {
    for (const [id, breakOff] of [['broken1', (socket: Socket): void => void socket.end()], ['broken2', (socket: Socket): void => void socket.destroy()], ['broken3', (): void => void process.emit('SIGTERM', 'SIGTERM')]] as const) {
      const { input, output, modes } = fakeTerminal();
      const stop = await serveConsole(fake, id, (socket) => {
        socket.on('error', () => undefined);
        socket.write(`${CONSOLE_HELLO}$ `);
        socket.once('data', () => breakOff(socket));
      });
      await assert.rejects(runExec(sessionOf(fake), id, undefined, { input, output }), /the connection broke/).finally(stop);
      assert.deepEqual(modes, [true, false], id);
      rmSync(fake.path('vm/x/debug-console.sock'), { force: true });
    }
  }));
