import assert from 'node:assert/strict';
import { connect } from 'node:net';
import { before, describe, test, type TestContext } from 'node:test';
import { codeFromNumber, TtrpcClient, type CallOptions, type UnaryMethod } from 'ttrpc-ts';
import { buildPeer, missingGo, runGoClient, socketPath, startGoServer, versions, type Version } from './go-peer';
import { interop, interopServer } from './service';

const LIMIT = 4 << 20;
const { methods } = interop;
const UNARY_CHECKS = 9;
const STREAM_CHECKS = 5;

async function skipWithoutGo(t: TestContext): Promise<boolean> {
  const missing = await missingGo();
  if (missing !== undefined) {
    t.skip(missing);
  }
  return missing !== undefined;
}

for (const version of versions) {
  describe(`Go ttrpc ${version}`, () => {
    let program = '';
    before(async () => {
      if ((await missingGo()) === undefined) {
        program = await buildPeer(version);
      }
    });

    test('the Go client passes all its checks against our server', async (t) => {
      if (await skipWithoutGo(t)) {
        return;
      }
      const server = interopServer();
      const path = socketPath(t);
      await server.listen({ path });
      t.after(() => server.close());
      const lines = await runGoClient(program, path);
      assert.deepEqual(lines.filter((line) => !line.startsWith('ok ')), []);
      assert.equal(lines.length, version === '1.1' ? UNARY_CHECKS : UNARY_CHECKS + STREAM_CHECKS);
      assert.equal(server.activeCalls, 0);
    });

    test('our client passes all its checks against the Go server', async (t) => {
      if (await skipWithoutGo(t)) {
        return;
      }
      const path = socketPath(t);
      await startGoServer(t, program, path);
      const client = new TtrpcClient(connect(path));
      t.after(() => client.close());
      await t.test('unary', (s) => unary(s, client));
      await t.test('errors', () => errors(client));
      await t.test('metadata and time-outs', () => contexts(client));
      await t.test('limits', () => limits(client, version));
      if (version !== '1.1') {
        await t.test('streams', () => streams(client));
      }
      assert.equal(client.activeCalls, 0);
    });
  });
}

function call<Req, Res>(client: TtrpcClient, method: string, codecs: UnaryMethod<Req, Res>, request: Req, options: CallOptions = {}): Promise<Res> {
  return client.call(interop.name, method, codecs, request, { timeoutMs: 20_000, ...options });
}

async function unary(_t: TestContext, client: TtrpcClient): Promise<void> {
  for (const request of ['hello', '', 'ä'.repeat(100_000)]) {
    assert.equal(await call(client, 'Echo', methods.Echo, request), request);
  }
  const requests = Array.from({ length: 1000 }, (_, i) => String(i));
  assert.deepEqual(await Promise.all(requests.map((request) => call(client, 'Echo', methods.Echo, request))), requests);
  const order: string[] = [];
  await Promise.all([
    call(client, 'Sleep', methods.Sleep, '100').then((answer) => order.push(answer)),
    call(client, 'Echo', methods.Echo, 'fast').then((answer) => order.push(answer)),
  ]);
  assert.deepEqual(order, ['fast', 'slept']);
}

async function errors(client: TtrpcClient): Promise<void> {
  for (let number = 1; number <= 16; number++) {
    const expected = { code: codeFromNumber(number), message: `failed with ${number}` };
    await assert.rejects(call(client, 'Fail', methods.Fail, String(number)), expected);
  }
  await assert.rejects(call(client, 'Fail', methods.Fail, 'plain'), { code: 'Unknown', message: 'a plain error' });
  await assert.rejects(call(client, 'NoSuch', methods.Echo, ''), { code: 'Unimplemented' });
  await assert.rejects(client.call('no.such.Service', 'Echo', methods.Echo, ''), { code: 'Unimplemented' });
}

async function contexts(client: TtrpcClient): Promise<void> {
  const metadata = { 'some-key': ['one', 'two'], other: 'x' };
  assert.equal(await call(client, 'Metadata', methods.Metadata, 'some-key', { metadata }), 'one,two');
  const remainingMs = Number(await call(client, 'Deadline', methods.Deadline, '', { timeoutMs: 5000 }));
  assert.ok(remainingMs > 3000 && remainingMs <= 5000, String(remainingMs));
  assert.equal(await client.call(interop.name, 'Deadline', methods.Deadline, ''), 'none');
  await assert.rejects(call(client, 'Sleep', methods.Sleep, '5000', { timeoutMs: 50 }), { code: 'DeadlineExceeded' });
  assert.equal(await call(client, 'Echo', methods.Echo, 'after'), 'after');
}

async function limits(client: TtrpcClient, version: Version): Promise<void> {
  const large = LIMIT - 200;
  assert.equal(await call(client, 'Count', methods.Count, new Uint8Array(large)), String(large));
  assert.equal((await call(client, 'Make', methods.Make, String(large))).length, large);
  await assert.rejects(call(client, 'Count', methods.Count, new Uint8Array(LIMIT)), { code: 'ResourceExhausted' });
  if (version === '1.1') {
    // Its sender does not check: the message comes, over the limit, and fails this call alone.
    await assert.rejects(call(client, 'Make', methods.Make, String(LIMIT + 1)), { code: 'ResourceExhausted' });
    assert.equal(await call(client, 'Echo', methods.Echo, 'after'), 'after');
  }
}

async function collect(items: AsyncIterable<string>): Promise<string[]> {
  const all: string[] = [];
  for await (const item of items) {
    all.push(item);
  }
  return all;
}

async function streams(client: TtrpcClient): Promise<void> {
  const options = { timeoutMs: 20_000 };
  const both = client.stream(interop.name, 'Both', methods.Both, undefined, options);
  for (let i = 0; i < 200; i++) {
    await both.send(String(i));
    assert.equal(await both.receive(), `re: ${i}`);
  }
  await both.closeSend();
  assert.deepEqual(await collect(both), []);
  const sum = client.stream(interop.name, 'Sum', methods.Sum, undefined, options);
  for (let i = 1; i <= 100; i++) {
    await sum.send(String(i));
  }
  await sum.closeSend();
  assert.deepEqual(await collect(sum), ['5050']);
  for (const count of [0, 1, 1000]) {
    const list = client.stream(interop.name, 'List', methods.List, String(count), options);
    assert.equal((await collect(list)).length, count);
  }
  const failing = client.stream(interop.name, 'List', methods.List, 'many', options);
  await assert.rejects(collect(failing), { code: 'InvalidArgument', message: /not a number/ });
}
