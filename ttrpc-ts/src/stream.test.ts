import assert from 'node:assert/strict';
import { test, type TestContext } from 'node:test';
import type { ServerStream } from './call';
import { TtrpcClient, type CallOptions } from './client';
import type { ClientStream } from './client-stream';
import { decodeResponse, encodeErrorFrame } from './envelope';
import { TtrpcError } from './errors';
import { encodeFrame, Flag, MAX_MESSAGE_BYTES } from './frame';
import { TtrpcServer } from './server';
import { echoService } from './testing/echo';
import { dial, RawPeer, requestFrame, socketPair, socketPath } from './testing/raw-peer';

const { name: service, methods } = echoService;
type Both = (stream: ServerStream<string, string>, signal: AbortSignal) => Promise<void>;

async function echoAll(stream: ServerStream<string, string>): Promise<void> {
  for await (const item of stream) {
    await stream.send(`re: ${item}`);
  }
}

async function serve(t: TestContext, both: Both = echoAll): Promise<{ path: string; server: TtrpcServer }> {
  const server = new TtrpcServer().register(echoService, {
    echo: (request) => request,
    both: (stream, context) => both(stream, context.signal),
    sum: async (stream) => {
      let sum = 0;
      for await (const item of stream) {
        sum += Number(item);
      }
      if (sum >= 0) {
        await stream.send(String(sum));
      }
    },
    list: async (stream) => {
      const count = Number(await stream.receive());
      assert.equal(await stream.receive(), undefined);
      for (let i = 0; i < count; i++) {
        await stream.send(String(i));
      }
      if (count < 0) {
        throw new TtrpcError('OutOfRange', 'negative');
      }
    },
  });
  const path = socketPath(t);
  await server.listen({ path });
  t.after(() => server.close());
  return { path, server };
}

async function connect(t: TestContext, path: string): Promise<TtrpcClient> {
  const client = new TtrpcClient(await dial(path));
  t.after(() => client.close());
  return client;
}

const openBoth = (client: TtrpcClient, options: CallOptions = {}): ClientStream<string, string> =>
  client.stream(service, 'Both', methods.Both, undefined, options);

async function collect(stream: AsyncIterable<string>): Promise<string[]> {
  const items: string[] = [];
  for await (const item of stream) {
    items.push(item);
  }
  return items;
}

/** Waits for what the other side of a socket does in a moment; the test's own time-out is the limit. */
async function until(isDone: () => boolean): Promise<void> {
  while (!isDone()) {
    await new Promise(setImmediate);
  }
}

test('both sides stream; each closes its half on its own', async (t) => {
  const { path, server } = await serve(t, async (stream) => {
    await echoAll(stream);
    await stream.send('after your half was closed');
  });
  const client = await connect(t, path);
  const stream = openBoth(client);
  await stream.send('a');
  assert.equal(await stream.receive(), 're: a');
  await stream.send('');
  assert.equal(await stream.receive(), 're: ');
  await stream.closeSend();
  await assert.rejects(stream.send('b'), { code: 'FailedPrecondition' });
  assert.deepEqual(await collect(stream), ['after your half was closed']);
  assert.equal(await stream.receive(), undefined);
  assert.equal(client.activeCalls, 0);
  assert.equal(server.activeCalls, 0);
});

test('a streaming client gets one answer, a streaming server many', async (t) => {
  const { path } = await serve(t);
  const client = await connect(t, path);
  const sum = client.stream(service, 'Sum', methods.Sum, undefined);
  for (let i = 1; i <= 1000; i++) {
    await sum.send(String(i));
  }
  await sum.closeSend();
  assert.deepEqual(await collect(sum), ['500500']);
  const list = client.stream(service, 'List', methods.List, '1000');
  assert.equal((await collect(list)).length, 1000);
  assert.deepEqual(await collect(client.stream(service, 'List', methods.List, '0')), []);
});

test('a streaming client may send nothing at all', async (t) => {
  const { path } = await serve(t);
  const sum = (await connect(t, path)).stream(service, 'Sum', methods.Sum, undefined);
  await sum.closeSend();
  assert.deepEqual(await collect(sum), ['0']);
});

test('errors end a stream with their status', async (t) => {
  const { path } = await serve(t);
  const client = await connect(t, path);
  await assert.rejects(collect(client.stream(service, 'List', methods.List, '-1')), { code: 'OutOfRange' });
  await assert.rejects(collect(client.stream(service, 'Nope', methods.List, '1')), { code: 'Unimplemented' });
  const sum = client.stream(service, 'Sum', methods.Sum, undefined);
  await sum.send('-5');
  await sum.closeSend();
  await assert.rejects(sum.receive(), { code: 'Internal' });
  await assert.rejects(sum.send('1'), { code: 'Internal' });
  const bad = openBoth(client);
  await bad.send('undecodable');
  await assert.rejects(bad.receive(), { code: 'InvalidArgument' });
  assert.equal(await client.call(service, 'Echo', methods.Echo, 'alive'), 'alive');
  assert.equal(client.activeCalls, 0);
});

test('messages over the limit are refused before sending', async (t) => {
  const { path } = await serve(t);
  const stream = openBoth(await connect(t, path));
  await assert.rejects(stream.send('x'.repeat(MAX_MESSAGE_BYTES + 1)), { code: 'ResourceExhausted' });
  await stream.send('y'.repeat(MAX_MESSAGE_BYTES - 4));
  assert.equal((await stream.receive())?.length, MAX_MESSAGE_BYTES);
  stream.cancel();
});

test('a deadline or an abort ends a stream on both sides', async (t) => {
  const aborts: unknown[] = [];
  const { path, server } = await serve(t, async (_stream, signal) => {
    await new Promise((resolve) => signal.addEventListener('abort', resolve));
    aborts.push(signal.reason);
  });
  const client = await connect(t, path);
  const stream = openBoth(client, { timeoutMs: 20 });
  await assert.rejects(stream.receive(), { code: 'DeadlineExceeded' });
  while (aborts.length === 0) {
    await new Promise(setImmediate);
  }
  assert.equal((aborts[0] as TtrpcError).code, 'DeadlineExceeded');
  const controller = new AbortController();
  const second = openBoth(client, { signal: controller.signal });
  controller.abort();
  await assert.rejects(second.receive(), { code: 'Canceled' });
  assert.equal(client.activeCalls, 0);
  await client.call(service, 'Echo', methods.Echo, 'behind the stream');
  assert.equal(server.activeCalls, 1);
  client.close();
  await until(() => server.activeCalls === 0);
});

test('canceling, or leaving the loop, closes our half so that the server can end', async (t) => {
  const { path, server } = await serve(t);
  const client = await connect(t, path);
  const stream = openBoth(client);
  await stream.send('a');
  for await (const item of stream) {
    assert.equal(item, 're: a');
    break;
  }
  await assert.rejects(stream.send('b'), { code: 'Canceled' });
  assert.equal(client.activeCalls, 0);
  while (server.activeCalls > 0) {
    await new Promise(setImmediate);
  }
});

test('the end of the connection fails a stream on both sides', async (t) => {
  let ended: unknown;
  const { path } = await serve(t, async (stream) => {
    await stream.receive().catch((error: unknown) => {
      ended = error;
    });
  });
  const client = await connect(t, path);
  const stream = openBoth(client);
  await stream.send('');
  const waiting = stream.receive();
  await waiting.catch(() => undefined);
  const second = openBoth(client);
  const pending = second.receive();
  await new Promise(setImmediate);
  client.close();
  await assert.rejects(pending, { code: 'Unavailable' });
  while (ended === undefined) {
    await new Promise(setImmediate);
  }
  assert.equal((ended as TtrpcError).code, 'Unavailable');
});

test('a burst larger than the window arrives whole at a reader that keeps up', async (t) => {
  const { path } = await serve(t, async (stream) => {
    for (let i = 0; i < 5000; i++) {
      void stream.send(String(i));
    }
    await Promise.resolve();
  });
  const items = await collect(openBoth(await connect(t, path)));
  assert.equal(items.length, 5000);
  assert.equal(items[4999], '4999');
});

for (const [what, count, bytes] of [['many messages', 100, 1], ['few that are large', 6, 1 << 20]] as const) {
  test(`a stream that nobody reads, of ${what}, fails after a second and the connection goes on`, async (t) => {
    const [left, right] = await socketPair(t);
    const client = new TtrpcClient(left);
    t.after(() => client.close());
    const peer = new RawPeer(right);
    const stream = client.stream(service, 'List', methods.List, 'many');
    await peer.next();
    peer.send(...Array.from({ length: count }, () => encodeFrame(1, 3, 0, Buffer.alloc(bytes, 'x'))));
    const call = client.call(service, 'Echo', methods.Echo, 'x');
    assert.equal((await peer.next()).streamId, 3);
    peer.send(encodeFrame(3, 2, 0, Buffer.alloc(0)));
    assert.equal(await call, '');
    await assert.rejects(stream.receive(), { code: 'ResourceExhausted' });
    assert.equal(client.activeCalls, 0);
  });
}

test('a server stream that the handler does not read is refused after a second', async (t) => {
  const { path, server } = await serve(t, () => new Promise(() => undefined));
  const peer = new RawPeer(await dial(path));
  t.after(() => peer.socket.destroy());
  peer.send(requestFrame(1, { service, method: 'Both' }, Flag.RemoteOpen));
  peer.send(...Array.from({ length: 100 }, () => encodeFrame(1, 3, 0, Buffer.from('x'))));
  peer.send(requestFrame(3, { service, method: 'Echo' }));
  const answers = [await peer.next(), await peer.next()];
  assert.equal(decodeResponse(answers.find((f) => f.streamId === 1)?.payload ?? Buffer.alloc(0)).error?.code, 'ResourceExhausted');
  assert.equal(answers.some((f) => f.streamId === 3), true);
  assert.equal(server.activeCalls, 0);
});

test('the wire: data frames of type 3, an end of data, a status only for an error', async (t) => {
  const { path } = await serve(t);
  const peer = new RawPeer(await dial(path));
  t.after(() => peer.socket.destroy());
  peer.send(requestFrame(1, { service, method: 'List', payload: Buffer.from('1') }, Flag.RemoteClosed));
  const frames = [await peer.next(), await peer.next()];
  assert.deepEqual(frames.map((f) => [f.type, f.flags, Buffer.from(f.payload).toString()]), [[3, 0, '0'], [3, 5, '']]);
  peer.send(requestFrame(3, { service, method: 'Both' }, Flag.RemoteOpen));
  peer.send(encodeFrame(3, 3, Flag.RemoteClosed, Buffer.from('with the last message')));
  assert.equal(Buffer.from((await peer.next()).payload).toString(), 're: with the last message');
  assert.equal((await peer.next()).flags, 5);
  peer.send(requestFrame(5, { service, method: 'Both' }, Flag.RemoteOpen));
  peer.send(encodeFrame(5, 3, 5, Buffer.alloc(0)), encodeFrame(5, 3, 0, Buffer.from('after the end')));
  assert.equal(decodeResponse((await peer.next()).payload).error?.code, 'InvalidArgument');
  peer.send(requestFrame(7, { service, method: 'Both' }, Flag.RemoteOpen));
  peer.send(encodeFrame(7, 3, 0, Buffer.alloc(MAX_MESSAGE_BYTES + 1)));
  const oversize = await peer.next();
  assert.equal(oversize.streamId, 7);
  assert.equal(decodeResponse(oversize.payload).error?.code, 'ResourceExhausted');
});

test('a client takes an end with the last data, as a response, and as a status', async (t) => {
  const [left, right] = await socketPair(t);
  const client = new TtrpcClient(left);
  t.after(() => client.close());
  const peer = new RawPeer(right);
  const open = (): ClientStream<string, string> => client.stream(service, 'List', methods.List, 'x');
  const streams = [open(), open(), open(), client.stream(service, 'Sum', methods.Sum, undefined)] as const;
  assert.deepEqual([(await peer.next()).flags, (await peer.next()).flags, (await peer.next()).flags], [1, 1, 1]);
  assert.equal((await peer.next()).flags, 2);
  peer.send(
    encodeFrame(1, 3, Flag.RemoteClosed, Buffer.from('last')),
    encodeFrame(3, 2, 0, Buffer.alloc(0)),
    encodeFrame(5, 3, 0, Buffer.from('dropped by the error')),
    encodeErrorFrame(5, new TtrpcError('Aborted', 'stop'), MAX_MESSAGE_BYTES),
    encodeFrame(7, 3, 0, Buffer.from('not allowed')),
  );
  assert.deepEqual(await collect(streams[0]), ['last']);
  assert.deepEqual(await collect(streams[1]), []);
  await assert.rejects(collect(streams[2]), { code: 'Aborted' });
  await assert.rejects(collect(streams[3]), { code: 'Internal' });
  assert.equal(client.activeCalls, 0);
});
