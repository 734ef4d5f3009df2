import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { encodeFrame, serviceFromTsProto, TtrpcServer } from 'ttrpc-ts';
import { defer } from '../base/deadline';
import { isCode, KataError } from '../base/errors';
import { encodePreamble, PreambleScanner } from '../base/serial-preamble';
import { HealthDefinition } from '../gen/agent/health';
import { connectAgent } from './connect';
import { startRawPeer } from './testing/fake-agent';

function healthServer(t: TestContext): TtrpcServer {
  const server = new TtrpcServer().register(serviceFromTsProto(HealthDefinition), { check: () => ({ status: 1 }) });
  t.after(async () => server.close());
  return server;
}

const options = { sandboxId: 'sb', timeoutMs: 5_000 };

test('an agent that comes late is found', async (t) => {
  const folder = await mkdtemp(join(tmpdir(), 'late-'));
  t.after(async () => rm(folder, { recursive: true, force: true }));
  const path = join(folder, 'a.sock');
  const connecting = connectAgent(`unix://${path}`, options);
  setImmediate(() => void healthServer(t).listen({ path }));
  const client = await connecting;
  await client.check();
  client.close();
});

test('nobody there: DeadlineExceeded with address, time, key and last failure; back-off, no spin', async () => {
  const before = process.cpuUsage();
  await assert.rejects(connectAgent('unix:///nonexistent/a.sock', { ...options, timeoutMs: 300 }), (error) => {
    assert.ok(isCode(error, 'DeadlineExceeded'));
    assert.match(String(error), /sandbox "sb" at unix:\/\/\/nonexistent\/a\.sock: no connection within 300 ms \(dial_timeout\); last: .*ENOENT/);
    return true;
  });
  const { user, system } = process.cpuUsage(before);
  assert.ok(user + system < 250_000, `${user + system} us of CPU in 300 ms`);
});

test('the signal ends the attempts with its reason', async () => {
  const controller = new AbortController();
  const connecting = connectAgent('unix:///nonexistent/a.sock', { ...options, signal: controller.signal });
  controller.abort(new KataError('Unavailable', 'qemu ended with status 1'));
  await assert.rejects(connecting, (error) => isCode(error, 'Unavailable') && String(error).includes('qemu ended with status 1'));
  await assert.rejects(connectAgent('unix:///x', { ...options, signal: controller.signal }), (error) => isCode(error, 'Unavailable'));
});

test('what is no URL fails at once', async () => {
  await assert.rejects(connectAgent('nonsense', options), (error) => isCode(error, 'InvalidArgument'));
});

test('a path that is no socket is an error that says so', async () => {
  await assert.rejects(connectAgent('unix:///dev/null', { ...options, timeoutMs: 100 }), (error) => error instanceof KataError && String(error).includes('/dev/null'));
});

function hybrid(onLine: (line: string, socket: Socket, attempt: number) => void): (socket: Socket) => void {
  let attempt = 0;
  return (socket) => {
    attempt++;
    const mine = attempt;
    socket.once('data', (data) => onLine(data.toString(), socket, mine));
  };
}

test('hybrid vsock: CONNECT is retried until the guest listens, then ttrpc runs', async (t) => {
  const server = healthServer(t);
  const lines: string[] = [];
  const peer = await startRawPeer(
    hybrid((line, socket, attempt) => {
      lines.push(line);
      if (attempt < 3) {
        socket.destroy();
      } else {
        socket.write('OK 107');
        setImmediate(() => {
          socket.write('3741824\n');
          server.handleConnection(socket);
        });
      }
    }),
  );
  t.after(peer.close);
  const client = await connectAgent(`hvsock://${peer.path}:1024`, options);
  await client.check();
  client.close();
  assert.deepEqual(lines, ['CONNECT 1024\n', 'CONNECT 1024\n', 'CONNECT 1024\n']);
});

test('hybrid vsock: a refusal and an endless line are told as the last failure', async (t) => {
  for (const [answer, text] of [['ERR no\n', /was answered with "ERR no"/], ['x'.repeat(500), /longer than 128 bytes/]] as const) {
    const peer = await startRawPeer(hybrid((_, socket) => socket.write(answer)));
    t.after(peer.close);
    await assert.rejects(connectAgent(`hvsock://${peer.path}:1`, { ...options, timeoutMs: 100 }), (error) => isCode(error, 'DeadlineExceeded') && text.test(String(error)));
  }
});

test('hybrid vsock: bytes of the guest that come in one piece with the answer to CONNECT are not lost', async (t) => {
  const server = healthServer(t);
  // Were the first part of the frame lost, what follows would be read as a header.
  const peer = await startRawPeer((socket) => {
    socket.once('data', (head) => {
      const [line = '', rest = ''] = head.toString('latin1').split('\n');
      assert.equal(`${line}|${rest}`, 'CONNECT 7|');
      const early = encodeFrame(99, 2, 0, Buffer.from('of a stream that nobody has'));
      socket.write(Buffer.concat([Buffer.from('OK 1\n'), early.subarray(0, 5)]));
      setImmediate(() => {
        socket.write(early.subarray(5));
        server.handleConnection(socket);
      });
    });
  });
  t.after(peer.close);
  const client = await connectAgent(`hvsock://${peer.path}:7`, options);
  await client.check();
  client.close();
});

/** The guest's side of the serial channel: bytes of old connections are there, the first preamble may get lost. */
function serialGuest(server: TtrpcServer, stale: Buffer, lost: number): (socket: Socket) => void {
  return (socket) => {
    const scanner = new PreambleScanner('host');
    let seen = 0;
    socket.write(stale);
    const onData = (chunk: Buffer): void => {
      for (const event of scanner.push(chunk)) {
        if (event.kind === 'preamble' && ++seen > lost) {
          socket.off('data', onData);
          const echo = encodePreamble('guest', event.nonce);
          socket.write(echo.subarray(0, 7));
          setImmediate(() => {
            socket.write(echo.subarray(7));
            server.handleConnection(socket);
          });
          return;
        }
      }
    };
    socket.on('data', onData);
  };
}

test('serial: stale bytes and the echo of an old preamble are dropped, then ttrpc runs', async (t) => {
  const stale = Buffer.concat([Buffer.from('rest of a frame'), encodePreamble('guest', Buffer.alloc(16, 7)), Buffer.from('more')]);
  const peer = await startRawPeer(serialGuest(healthServer(t), stale, 0));
  t.after(peer.close);
  const client = await connectAgent(`serial://${peer.path}`, options);
  await client.check();
  await client.check();
  client.close();
});

test('serial: a preamble that got lost is sent again, on the same connection', async (t) => {
  let connections = 0;
  const guest = serialGuest(healthServer(t), Buffer.alloc(0), 2);
  const peer = await startRawPeer((socket) => {
    connections++;
    guest(socket);
  });
  t.after(peer.close);
  const client = await connectAgent(`serial://${peer.path}`, options);
  await client.check();
  client.close();
  assert.equal(connections, 1);
});

for (const [what, url] of [['hybrid vsock: a VMM that says nothing to CONNECT', (path: string) => `hvsock://${path}:1`], ['serial: a guest that never answers', (path: string) => `serial://${path}`]] as const) {
  test(`${what} is DeadlineExceeded, and the connection is given up`, async (t) => {
    const closed = defer<undefined>();
    const peer = await startRawPeer((socket) => {
      socket.resume();
      socket.once('close', () => {
        closed.resolve(undefined);
      });
    });
    t.after(peer.close);
    await assert.rejects(connectAgent(url(peer.path), { ...options, timeoutMs: 150 }), (error) => isCode(error, 'DeadlineExceeded') && /dial_timeout/.test(String(error)));
    await closed.promise;
  });
}

test('no connection is left after failed attempts', async (t) => {
  const server = createServer((socket) => socket.destroy());
  const folder = await mkdtemp(join(tmpdir(), 'refuse-'));
  const path = join(folder, 'r.sock');
  await new Promise<void>((resolve) => server.listen(path, resolve));
  t.after(async () => {
    server.close();
    await rm(folder, { recursive: true, force: true });
  });
  await assert.rejects(connectAgent(`hvsock://${path}:1`, { ...options, timeoutMs: 300 }));
  await new Promise((resolve) => setImmediate(resolve));
  const connections = await new Promise<number>((resolve, reject) => server.getConnections((error, n) => (error === null ? resolve(n) : reject(error))));
  assert.equal(connections, 0);
});
