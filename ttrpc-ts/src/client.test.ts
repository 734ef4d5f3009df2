import assert from 'node:assert/strict';
import { connect } from 'node:net';
import { Duplex } from 'node:stream';
import { test, type TestContext } from 'node:test';
import { TtrpcClient, type CallOptions, type ClientOptions } from './client';
import { decodeRequest, encodeErrorFrame, encodeResultFrame } from './envelope';
import { TtrpcError } from './errors';
import { encodeFrame, MAX_MESSAGE_BYTES } from './frame';
import { echoService, raw } from './testing/echo';
import { RawPeer, socketPair, tcpPair } from './testing/raw-peer';

const { name: service, methods } = echoService;

interface Setup {
  readonly client: TtrpcClient;
  readonly peer: RawPeer;
  readonly echo: (request: string, options?: CallOptions) => Promise<string>;
}

async function start(t: TestContext, options: ClientOptions = {}): Promise<Setup> {
  const [left, right] = await socketPair(t);
  const client = new TtrpcClient(left, options);
  t.after(() => client.close());
  const echo = (request: string, more: CallOptions = {}): Promise<string> =>
    client.call(service, 'Echo', methods.Echo, request, more);
  return { client, peer: new RawPeer(right), echo };
}

const ok = (id: number, text: string): Buffer => encodeResultFrame(id, Buffer.from(text), MAX_MESSAGE_BYTES);

test('ids are odd and increasing, flags 0, and answers find their calls in any order', async (t) => {
  const { client, peer, echo } = await start(t);
  const results = [echo('a'), echo('b'), echo('c')];
  for (const id of [1, 3, 5]) {
    const frame = await peer.next();
    assert.deepEqual([frame.streamId, frame.type, frame.flags], [id, 1, 0]);
  }
  peer.send(ok(5, 'C'), ok(1, 'A'), ok(3, 'B'));
  assert.deepEqual(await Promise.all(results), ['A', 'B', 'C']);
  assert.equal(client.activeCalls, 0);
});

test('time-out and metadata go to the server', async (t) => {
  const { peer, echo } = await start(t);
  const result = echo('x', { timeoutMs: 60_000, metadata: { Key: ['1', '2'], other: 'v' } });
  const request = decodeRequest((await peer.next()).payload);
  assert.equal(request.timeoutNano, 60_000_000_000n);
  assert.deepEqual([...(request.metadata?.entries() ?? [])], [['Key', ['1', '2']], ['other', ['v']]]);
  peer.send(ok(1, 'y'));
  assert.equal(await result, 'y');
});

test('time-outs of any length are told and kept', async (t) => {
  const { peer, echo, client } = await start(t);
  const results = [echo('x', { timeoutMs: 1e300 }), echo('x', { timeoutMs: Infinity }), echo('x', { timeoutMs: 1e-9 })];
  const tooLate = assert.rejects(results[2] ?? Promise.resolve(), { code: 'DeadlineExceeded' });
  const nanos = [];
  for (let i = 0; i < 3; i++) {
    nanos.push(decodeRequest((await peer.next()).payload).timeoutNano);
  }
  assert.deepEqual(nanos, [(1n << 63n) - 1n, (1n << 63n) - 1n, 1n]);
  await tooLate;
  assert.equal(client.activeCalls, 2);
  peer.send(ok(1, ''), ok(3, ''));
  await Promise.all(results.slice(0, 2));
});

test('a silent server costs the time-out; its late answer is dropped', async (t) => {
  const { client, peer, echo } = await start(t);
  await assert.rejects(echo('x', { timeoutMs: 15 }), { code: 'DeadlineExceeded' });
  assert.equal(client.activeCalls, 0);
  peer.send(ok(1, 'late'));
  const next = echo('y');
  await peer.next();
  assert.equal((await peer.next()).streamId, 3);
  peer.send(ok(3, 'in time'));
  assert.equal(await next, 'in time');
});

test('what is over before it began is not sent', async (t) => {
  const { peer, echo } = await start(t);
  for (const timeoutMs of [0, -5, Number.NaN]) {
    await assert.rejects(echo('x', { timeoutMs }), { code: 'DeadlineExceeded' });
  }
  await assert.rejects(echo('x', { signal: AbortSignal.abort() }), { code: 'Canceled' });
  await assert.rejects(echo('unencodable'), { code: 'InvalidArgument' });
  const real = echo('y');
  assert.equal((await peer.next()).streamId, 1);
  peer.send(ok(1, 'z'));
  assert.equal(await real, 'z');
});

test('an abort gives up one call with the reason', async (t) => {
  const { client, peer, echo } = await start(t);
  const first = new AbortController();
  const second = new AbortController();
  const results = [echo('a', { signal: first.signal }), echo('b', { signal: second.signal })];
  first.abort();
  second.abort(new TtrpcError('Aborted', 'changed my mind'));
  await assert.rejects(results[0] ?? Promise.resolve(), { code: 'Canceled' });
  await assert.rejects(results[1] ?? Promise.resolve(), { code: 'Aborted', message: 'changed my mind' });
  assert.equal(client.activeCalls, 0);
  assert.equal(peer.isEnded, false);
});

test('a status rejects with its code and text; garbage and wrong frames with Internal', async (t) => {
  const { peer, echo } = await start(t);
  const results = [echo('1'), echo('2'), echo('3'), echo('4')];
  for (const result of results) {
    result.catch(() => undefined);
  }
  peer.send(
    encodeErrorFrame(1, new TtrpcError('AlreadyExists', 'twice'), MAX_MESSAGE_BYTES),
    encodeFrame(3, 2, 0, Buffer.from('12ff01', 'hex')),
    encodeFrame(5, 3, 0, Buffer.from('data')),
    ok(7, 'undecodable'),
    encodeFrame(99, 2, 0, Buffer.from('nobody')),
  );
  await assert.rejects(results[0] ?? Promise.resolve(), { code: 'AlreadyExists', message: 'twice' });
  for (const result of results.slice(1)) {
    await assert.rejects(result, { code: 'Internal' });
  }
  assert.equal(peer.isEnded, false);
});

test('a request over the limit is refused before sending, an answer over it fails its call only', async (t) => {
  const { client, peer, echo } = await start(t);
  const codecs = { request: raw, response: raw };
  await assert.rejects(client.call(service, 'Bytes', codecs, Buffer.alloc(MAX_MESSAGE_BYTES)), { code: 'ResourceExhausted' });
  const results = [echo('a'), echo('b')];
  assert.equal((await peer.next()).streamId, 1);
  peer.send(encodeFrame(1, 2, 0, Buffer.alloc(MAX_MESSAGE_BYTES + 1)), ok(3, 'fine'));
  await assert.rejects(results[0] ?? Promise.resolve(), { code: 'ResourceExhausted' });
  assert.equal(await results[1], 'fine');
});

test('the end of the connection fails what is pending and what comes after', async (t) => {
  let closes = 0;
  const { client, peer, echo } = await start(t, { onClose: () => closes++ });
  const pending = [echo('a', { timeoutMs: 60_000 }), echo('b')];
  await peer.next();
  peer.socket.end();
  for (const result of pending) {
    await assert.rejects(result, (error: TtrpcError) => error.code === 'Unavailable' && /ttrpc: closed$/.test(error.message));
  }
  assert.equal(await client.closed, undefined);
  await assert.rejects(echo('late'), { code: 'Unavailable', message: 'ttrpc: closed' });
  assert.equal(client.activeCalls, 0);
  assert.equal(closes, 1);
});

test('a message that is cut off by the end is an error of the connection', async (t) => {
  const { client, peer, echo } = await start(t);
  const pending = echo('a');
  peer.socket.end(ok(1, 'abc').subarray(0, 12));
  await assert.rejects(pending, { code: 'Unavailable', message: /middle of a message: ttrpc: closed$/ });
  assert.match((await client.closed)?.message ?? '', /middle of a message/);
});

test('an error of the transport is told with its text', async () => {
  const duplex = new Duplex({ read: () => undefined, write: (_chunk, _encoding, done) => done() });
  const client = new TtrpcClient(duplex);
  const pending = client.call(service, 'Echo', methods.Echo, 'x');
  duplex.destroy(new Error('read ECONNRESET'));
  await assert.rejects(pending, { code: 'Unavailable', message: 'read ECONNRESET: ttrpc: closed' });
  assert.equal((await client.closed)?.message, 'read ECONNRESET');
});

test('a duplex that is dead already closes the client', async () => {
  const duplex = new Duplex({ read: () => undefined });
  duplex.destroy();
  const client = new TtrpcClient(duplex);
  await assert.rejects(client.call(service, 'Echo', methods.Echo, 'x', { timeoutMs: 1000 }), { code: 'Unavailable' });
  assert.equal(await client.closed, undefined);
});

test('close sends what is queued before it ends the connection', async (t) => {
  const { client, peer, echo } = await start(t);
  const pending = assert.rejects(echo('last words'), { code: 'Unavailable' });
  client.close();
  assert.equal(Buffer.from(decodeRequest((await peer.next()).payload).payload).toString(), 'last words');
  await pending;
  await client.closed;
});

test('close does not wait for ever for a peer that does not read', async (t) => {
  const { client, peer, echo } = await start(t);
  peer.socket.pause();
  const pending = [...Array(40).keys()].map(() => assert.rejects(echo('x'.repeat(100_000)), { code: 'Unavailable' }));
  await new Promise((resolve) => setImmediate(resolve));
  const began = performance.now();
  client.close();
  await client.closed;
  await Promise.all(pending);
  assert.ok(performance.now() - began < 10_000);
});

test('a connection whose ids are used up says so, and what is under way goes on', async (t) => {
  const { client, peer, echo } = await start(t);
  Object.assign(client, { nextStreamId: 0xffff_ffff });
  const last = echo('last');
  assert.equal((await peer.next()).streamId, 0xffff_ffff);
  await assert.rejects(echo('one more'), { code: 'Unavailable', message: /used up/ });
  peer.send(ok(0xffff_ffff, 'done'));
  assert.equal(await last, 'done');
});

test('frames of one tick leave in one write, each in one buffer', async () => {
  const batches: number[] = [];
  const duplex = new Duplex({
    read: () => undefined,
    writev: (chunks, done) => {
      batches.push(chunks.length);
      done();
    },
  });
  const client = new TtrpcClient(duplex);
  const calls = [1, 2, 3].map(() => client.call(service, 'Echo', methods.Echo, 'x'));
  await new Promise(setImmediate);
  assert.deepEqual(batches, [3]);
  client.close();
  await Promise.allSettled(calls);
});

test('calls wait, in order, while the peer does not read, and can still be given up', async (t) => {
  const { client, peer } = await start(t, { maxQueuedBytes: 1 << 20 });
  peer.socket.pause();
  const codecs = { request: raw, response: raw };
  const payload = Buffer.alloc(1 << 20);
  const results = Array.from({ length: 20 }, (_, i) =>
    client.call(service, 'Bytes', codecs, payload, i === 10 ? { timeoutMs: 20 } : {}),
  );
  await assert.rejects(results[10] ?? Promise.resolve(), { code: 'DeadlineExceeded' });
  assert.equal(client.activeCalls, 19);
  peer.socket.resume();
  for (let i = 0; i < 19; i++) {
    const { streamId } = await peer.next();
    assert.equal(streamId, i * 2 + 1);
    peer.send(ok(streamId, 'done'));
  }
  const settled = await Promise.allSettled(results);
  assert.equal(settled.filter((s) => s.status === 'fulfilled').length, 19);
});

test('connections that are reset leave no call behind', async () => {
  for (let round = 0; round < 200; round++) {
    const [left, right] = await tcpPair();
    const client = new TtrpcClient(left);
    const pending = [1, 2, 3, 4, 5].map(() => client.call(service, 'Echo', methods.Echo, 'x', { timeoutMs: 60_000 }));
    right.resetAndDestroy();
    const settled = await Promise.allSettled(pending);
    assert.ok(settled.every((s) => s.status === 'rejected'));
    await client.closed;
    assert.equal(client.activeCalls, 0);
  }
});

test('a connection that cannot be made fails the calls on it with the reason', async () => {
  const client = new TtrpcClient(connect('/no/such/socket'));
  const pending = client.call(service, 'Echo', methods.Echo, 'x');
  await assert.rejects(pending, { code: 'Unavailable', message: /ENOENT.*: ttrpc: closed$/ });
  assert.match((await client.closed)?.message ?? '', /ENOENT/);
});
