import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { existsSync, readdirSync, renameSync } from 'node:fs';
import { createServer, type Socket } from 'node:net';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import type { CallContext } from './call';
import { decodeResponse } from './envelope';
import { TtrpcError } from './errors';
import { encodeFrame, Flag, MAX_MESSAGE_BYTES, type Frame } from './frame';
import { Metadata } from './metadata';
import { TtrpcServer, type ServerOptions } from './server';
import { echoService } from './testing/echo';
import { dial, RawPeer, requestFrame, socketPath, tcpPair } from './testing/raw-peer';

interface Setup {
  readonly server: TtrpcServer;
  readonly path: string;
  readonly peer: RawPeer;
  readonly contexts: CallContext[];
  /** Resolves the parked calls. */
  readonly unpark: () => void;
}

async function start(t: TestContext, options: ServerOptions = {}): Promise<Setup> {
  const contexts: CallContext[] = [];
  let unpark = (): void => undefined;
  const parked = new Promise<void>((resolve) => {
    unpark = resolve;
  });
  const server = new TtrpcServer(options).register(echoService, {
    echo: (request, context) => {
      contexts.push(context);
      return Promise.resolve(request);
    },
    fail: (request) => {
      if (request === 'sync') {
        throw new RangeError('thrown at once');
      }
      return Promise.reject(
        request === 'status' ? new TtrpcError('NotFound', 'no such thing') : Object.assign(new Error(request), { custom: true }),
      );
    },
    park: async (request, context) => {
      contexts.push(context);
      await parked;
      return request;
    },
    bytes: (request) => Buffer.alloc(Number(Buffer.from(request).toString()), 1),
    both: async (stream) => {
      for await (const item of stream) {
        await stream.send(item);
      }
    },
  });
  const path = socketPath(t);
  await server.listen({ path });
  const peer = new RawPeer(await dial(path), 64 << 20);
  t.after(async () => {
    peer.socket.destroy();
    await server.close();
  });
  return { server, path, peer, contexts, unpark };
}

const service = echoService.name;
const call = (id: number, method: string, payload = '', more: { timeoutNano?: bigint; metadata?: Metadata } = {}): Buffer =>
  requestFrame(id, { service, method, payload: Buffer.from(payload), ...more });

function read(frame: Frame): { id: number; code: string; text: string } {
  assert.equal(frame.type, 2);
  assert.equal(frame.flags, 0);
  const { error, payload } = decodeResponse(frame.payload);
  return { id: frame.streamId, code: error?.code ?? 'OK', text: error?.message ?? Buffer.from(payload ?? []).toString() };
}

test('answers each call on its stream, whatever the order of the results', async (t) => {
  const { peer, unpark, server } = await start(t);
  peer.send(call(1, 'Park', 'slow'), call(3, 'Echo', 'fast'));
  assert.deepEqual(read(await peer.next()), { id: 3, code: 'OK', text: 'fast' });
  assert.equal(server.activeCalls, 1);
  unpark();
  assert.deepEqual(read(await peer.next()), { id: 1, code: 'OK', text: 'slow' });
  assert.equal(server.activeCalls, 0);
});

test('takes requests byte by byte', async (t) => {
  const { peer } = await start(t);
  for (const byte of call(1, 'Echo', 'slow typist')) {
    peer.send(Buffer.from([byte]));
    await new Promise(setImmediate);
  }
  assert.equal(read(await peer.next()).text, 'slow typist');
});

test('a bad request is answered on its stream and the connection lives on', async (t) => {
  const { peer, server } = await start(t);
  const cases: [Buffer, RegExp, string, number][] = [
    [requestFrame(1, { service: 'no.Such', method: 'Echo' }), /no\.Such.*Echo/, 'Unimplemented', 1],
    [call(3, 'NoSuch'), /NoSuch.*test\.v1\.Echo/, 'Unimplemented', 3],
    [call(5, 'Sum'), /Sum.*test\.v1\.Echo/, 'Unimplemented', 5],
    [encodeFrame(7, 1, 0, Buffer.from('1aff01', 'hex')), /unmarshal/, 'InvalidArgument', 7],
    [call(9, 'Echo', 'undecodable'), /cannot decode/, 'InvalidArgument', 9],
    [call(2, 'Echo'), /odd/, 'InvalidArgument', 2],
    [call(0, 'Echo'), /odd/, 'InvalidArgument', 0],
    [call(9, 'Echo'), /must increment/, 'InvalidArgument', 9],
    [call(3, 'Echo'), /must increment/, 'InvalidArgument', 3],
    [encodeFrame(101, 3, 0, Buffer.from('x')), /not open/, 'InvalidArgument', 101],
    [call(11, 'Echo', 'unencodable'), /cannot encode/, 'Internal', 11],
    [requestFrame(13, { service: 'x'.repeat(100_000), method: 'y' }), /^.{0,500}$/, 'Unimplemented', 13],
  ];
  for (const [frame, pattern, code, id] of cases) {
    peer.send(frame);
    const answer = read(await peer.next());
    assert.equal(answer.code, code);
    assert.equal(answer.id, id);
    assert.match(answer.text, pattern);
  }
  peer.send(call(201, 'Echo', 'still here'));
  assert.equal(read(await peer.next()).text, 'still here');
  assert.equal(server.activeCalls, 0);
});

test('frames of other types are ignored, late data of an answered call too', async (t) => {
  const { peer } = await start(t);
  peer.send(encodeFrame(1, 0, 0, Buffer.from('?')), encodeFrame(1, 2, 0, Buffer.from('?')), encodeFrame(2, 200, 255, Buffer.alloc(5)));
  peer.send(call(1, 'Echo', 'a'));
  assert.equal(read(await peer.next()).text, 'a');
  peer.send(encodeFrame(1, 3, Flag.NoData | Flag.RemoteClosed, Buffer.alloc(0)), call(3, 'Echo', 'b'));
  assert.equal(read(await peer.next()).text, 'b');
});

test('an id that is in use is refused and the call that has it goes on', async (t) => {
  const { peer, unpark } = await start(t);
  peer.send(call(1, 'Park', 'mine'), call(1, 'Echo', 'thief'));
  assert.equal(read(await peer.next()).code, 'InvalidArgument');
  unpark();
  assert.deepEqual(read(await peer.next()), { id: 1, code: 'OK', text: 'mine' });
});

test('an oversize request is skipped and answered, an oversize result becomes an error', async (t) => {
  const { peer } = await start(t);
  peer.send(encodeFrame(1, 1, 0, Buffer.alloc(MAX_MESSAGE_BYTES + 1)), call(3, 'Echo', 'after'));
  const answers = [read(await peer.next()), read(await peer.next())];
  assert.deepEqual(answers.map((a) => [a.id, a.code]), [[1, 'ResourceExhausted'], [3, 'OK']]);
  peer.send(call(5, 'Bytes', String(MAX_MESSAGE_BYTES)), call(7, 'Bytes', String(MAX_MESSAGE_BYTES - 5)));
  assert.equal(read(await peer.next()).code, 'ResourceExhausted');
  const largest = await peer.next();
  assert.equal(largest.payload.length, MAX_MESSAGE_BYTES);
});

test('errors of handlers reach the peer: a status as it is, others as Unknown or as mapError says', async (t) => {
  const plain = await start(t);
  plain.peer.send(call(1, 'Fail', 'status'), call(3, 'Fail', 'boom'), call(5, 'Fail', 'sync'));
  const answers = [read(await plain.peer.next()), read(await plain.peer.next()), read(await plain.peer.next())];
  assert.deepEqual(answers.sort((a, b) => a.id - b.id).map((a) => [a.code, a.text]), [
    ['NotFound', 'no such thing'],
    ['Unknown', 'boom'],
    ['Unknown', 'thrown at once'],
  ]);
  const mapped = await start(t, {
    mapError: (error) => {
      if (error instanceof RangeError) {
        throw new Error('mapper broke');
      }
      return { code: 'FailedPrecondition', message: `mapped ${String(error)}` };
    },
  });
  mapped.peer.send(call(1, 'Fail', 'boom'));
  assert.deepEqual(read(await mapped.peer.next()), { id: 1, code: 'FailedPrecondition', text: 'mapped Error: boom' });
  mapped.peer.send(call(3, 'Fail', 'sync'));
  assert.equal(read(await mapped.peer.next()).code, 'Internal');
});

test('metadata reaches the handler: keys unknown, repeated, case kept; or none at all', async (t) => {
  const { peer, contexts } = await start(t);
  const metadata = new Metadata().append('Some-Key', '1').append('Some-Key', '2').append('some-key', '3');
  peer.send(call(1, 'Echo', '', { metadata }), call(3, 'Echo'));
  await peer.next();
  await peer.next();
  assert.deepEqual([...(contexts[0]?.metadata.entries() ?? [])], [['Some-Key', ['1', '2']], ['some-key', ['3']]]);
  assert.equal(contexts[1]?.metadata.size, 0);
  assert.equal(contexts[1].deadlineMs, undefined);
});

test('a deadline answers DeadlineExceeded and aborts the handler, an expired one never calls it', async (t) => {
  const { peer, contexts, server, unpark } = await start(t);
  peer.send(call(1, 'Park', '', { timeoutNano: 20_000_000n }));
  assert.equal(read(await peer.next()).code, 'DeadlineExceeded');
  assert.equal(contexts[0]?.signal.aborted, true);
  assert.ok((contexts[0].deadlineMs ?? 0) > 1e12);
  assert.equal(server.activeCalls, 0);
  peer.send(call(3, 'Park', '', { timeoutNano: -1n }));
  assert.equal(read(await peer.next()).code, 'DeadlineExceeded');
  assert.equal(contexts.length, 1);
  // The late result is not sent.
  unpark();
  peer.send(call(5, 'Echo', 'next'), call(7, 'Park', 'long', { timeoutNano: (1n << 63n) - 1n }));
  assert.deepEqual([read(await peer.next()).text, read(await peer.next()).text].sort(), ['long', 'next']);
});

test('the end of the connection aborts its calls, in the middle of a frame too', async (t) => {
  const { peer, contexts, server } = await start(t);
  const parked = call(1, 'Park');
  peer.send(parked, parked.subarray(0, 7));
  peer.send(call(3, 'Park').subarray(0, 3));
  while (contexts.length === 0) {
    await new Promise(setImmediate);
  }
  const signal = contexts[0]?.signal;
  assert.ok(signal);
  const aborted = new Promise((resolve) => signal.addEventListener('abort', resolve));
  peer.socket.end();
  await aborted;
  assert.equal((signal.reason as TtrpcError).code, 'Unavailable');
  assert.match((signal.reason as TtrpcError).message, /ttrpc: closed$/);
  assert.equal(server.connections, 0);
  assert.equal(server.activeCalls, 0);
});

test('a peer that does not read is not read from, and its memory is bounded', async (t) => {
  const { peer, server, path } = await start(t, { maxQueuedBytes: 1 << 20 });
  peer.socket.pause();
  // A megabyte each: without back-pressure they would pile up to 200 MiB.
  const requests = Array.from({ length: 200 }, (_, i) => call(i * 2 + 1, 'Bytes', String(1 << 20)));
  const before = process.memoryUsage().external + process.memoryUsage().arrayBuffers;
  let started = 0;
  for (const request of requests) {
    peer.send(request);
    await new Promise(setImmediate);
    started = Math.max(started, process.memoryUsage().external + process.memoryUsage().arrayBuffers - before);
  }
  assert.ok(started < 40 << 20, `${started} bytes`);
  const other = new RawPeer(await dial(path));
  other.send(call(1, 'Echo', 'unaffected'));
  assert.equal(read(await other.next()).text, 'unaffected');
  other.socket.destroy();
  peer.socket.resume();
  for (let i = 0; i < requests.length; i++) {
    assert.equal((await peer.next()).payload.length, (1 << 20) + 4);
  }
  assert.equal(server.activeCalls, 0);
});

test('thousands of parked calls cost nothing and are all answered', async (t) => {
  const { peer, server, unpark } = await start(t);
  const count = 5000;
  peer.send(...Array.from({ length: count }, (_, i) => call(i * 2 + 1, 'Park', String(i))));
  peer.send(call(count * 2 + 1, 'Echo', 'not behind them'));
  assert.equal(read(await peer.next()).text, 'not behind them');
  assert.equal(server.activeCalls, count);
  unpark();
  const ids = new Set<number>();
  for (let i = 0; i < count; i++) {
    const { id, text } = read(await peer.next());
    assert.equal(text, String((id - 1) / 2));
    ids.add(id);
  }
  assert.equal(ids.size, count);
});

async function dialTcp(server: TtrpcServer): Promise<Socket> {
  const [client, served] = await tcpPair();
  server.handleConnection(served);
  return client;
}

test('a thousand abrupt resets leave no call, connection or descriptor', async (t) => {
  const { server, path, peer, contexts } = await start(t);
  const descriptors = (): number => readdirSync('/proc/self/fd').length;
  const before = descriptors();
  const half = call(3, 'Echo', 'x'.repeat(100));
  for (let round = 0; round < 1000; round++) {
    // A real reset needs TCP; a unix socket gives one when it is closed with unread bytes.
    const socket = await (round % 2 === 0 ? dialTcp(server) : dial(path));
    socket.on('error', () => undefined);
    socket.pause();
    const park = call(1, 'Park', '', { timeoutNano: 60_000_000_000n });
    await new Promise((resolve) => socket.write(Buffer.concat([park, half.subarray(0, round % half.length)]), resolve));
    const closed = new Promise((resolve) => socket.once('close', resolve));
    if (round % 2 === 0) {
      socket.resetAndDestroy();
    } else {
      socket.destroy();
    }
    await closed;
  }
  peer.send(call(1, 'Echo', 'alive'));
  assert.equal(read(await peer.next()).text, 'alive');
  while (server.connections > 1) {
    await new Promise(setImmediate);
  }
  assert.equal(server.activeCalls, 0);
  // All but the one call that was answered.
  assert.equal(contexts.filter((context) => !context.signal.aborted).length, 1);
  assert.ok(descriptors() <= before + 1, `${descriptors()} against ${before}`);
});

test('close removes the socket, aborts calls and ends connections, answers that are queued included', async (t) => {
  const { server, path, peer, contexts } = await start(t);
  peer.send(call(1, 'Park'), call(3, 'Echo', 'last words'));
  assert.equal(read(await peer.next()).text, 'last words');
  await server.close();
  assert.equal(existsSync(path), false);
  assert.equal(server.connections, 0);
  assert.equal(contexts[0]?.signal.aborted, true);
  await assert.rejects(peer.next(), /connection ended/);
});

test('close does not wait for ever for a peer that does not read', async (t) => {
  const { server, peer } = await start(t);
  peer.socket.pause();
  peer.send(call(1, 'Bytes', String(4_000_000)));
  while (server.activeCalls === 0 && peer.socket.bytesWritten === 0) {
    await new Promise(setImmediate);
  }
  await new Promise(setImmediate);
  await server.close();
  assert.equal(server.connections, 0);
});

test('connections that accept refuses are ended', async (t) => {
  const { peer, server } = await start(t, { accept: () => false });
  peer.send(call(1, 'Echo'));
  await assert.rejects(peer.next(), /connection ended/);
  assert.equal(server.connections, 0);
});

test('listen rejects with the error of the system', async () => {
  await assert.rejects(new TtrpcServer().listen({ path: '/no/such/folder/s' }), { code: /^(ENOENT|EACCES)$/ });
});

test('a handler for a method that does not exist, and a service twice, are refused', () => {
  const server = new TtrpcServer();
  const handlers = { nope: () => 'x' };
  assert.throws(() => server.register(echoService, handlers as object), { code: 'InvalidArgument' });
  server.register(echoService, {});
  assert.throws(() => server.register(echoService, {}), { code: 'AlreadyExists' });
});

test('handlers may be an object of a class, and keep their this', async (t) => {
  class Service {
    private readonly prefix = 'said ';
    echo(request: string): string {
      return this.prefix + request;
    }
  }
  const server = new TtrpcServer().register(echoService, new Service());
  const path = socketPath(t);
  await server.listen({ path });
  t.after(() => server.close());
  const peer = new RawPeer(await dial(path));
  peer.send(call(1, 'Echo', 'hi'));
  assert.equal(read(await peer.next()).text, 'said hi');
});

test('serves on a descriptor that is bound already, as a shim inherits one', async (t) => {
  const path = socketPath(t);
  const listener = createServer().listen(path);
  const handle: unknown = Reflect.get(listener, '_handle');
  const fd: unknown = typeof handle === 'object' && handle !== null ? Reflect.get(handle, 'fd') : undefined;
  assert.equal(typeof fd, 'number');
  const program = join(__dirname, 'testing', 'serve-fd.ts');
  const child = spawn(process.execPath, ['--import', 'tsx', program], { stdio: ['ignore', 'pipe', 'inherit', Number(fd)] });
  const exited = new Promise((resolve) => child.once('exit', resolve));
  t.after(async () => {
    child.kill();
    await exited;
  });
  await new Promise((resolve) => child.stdout?.once('data', resolve));
  // Closing removes the path that was bound; the child goes on listening under the other name.
  renameSync(path, `${path}2`);
  await new Promise((resolve) => listener.close(resolve));
  const peer = new RawPeer(await dial(`${path}2`));
  t.after(() => peer.socket.destroy());
  peer.send(call(1, 'Echo', 'inherited'));
  assert.equal(read(await peer.next()).text, 'inherited');
});
