import assert from 'node:assert/strict';
import { test } from 'node:test';
import { TtrpcClient } from './client';
import { TtrpcServer } from './server';
import { serviceFromTsProto, type TsProtoMessage } from './service';
import { socketPair } from './testing/raw-peer';

interface Text {
  readonly value: string;
}

/** Shaped as ts-proto generates it. */
const Text: TsProtoMessage<Text> = {
  encode: (message) => ({ finish: () => Buffer.from(message.value) }),
  decode: (input) => ({ value: Buffer.from(input).toString() }),
};
const method = { requestType: Text, requestStream: false, responseType: Text, responseStream: false, options: {} } as const;
const definition = {
  name: 'Things',
  fullName: 'test.v1.Things',
  methods: {
    closeIO: { ...method, name: 'CloseIO' },
    watch: { ...method, name: 'Watch', responseStream: true },
  },
} as const;

test('a definition of ts-proto becomes a service by wire names, with its types', async (t) => {
  const things = serviceFromTsProto(definition);
  assert.equal(things.name, 'test.v1.Things');
  assert.deepEqual(Object.keys(things.methods), ['CloseIO', 'Watch']);
  assert.equal(things.methods.CloseIO.kind, 'unary');
  assert.equal(things.methods.Watch.serverStreams, true);
  const server = new TtrpcServer().register(things, {
    closeIO: (request) => ({ value: `${request.value}!` }),
    Watch: async (stream) => {
      await stream.send({ value: (await stream.receive())?.value ?? '' });
    },
  });
  const [left, right] = await socketPair(t);
  server.handleConnection(right);
  const client = new TtrpcClient(left);
  const answer = await client.call(things.name, 'CloseIO', things.methods.CloseIO, { value: 'hi' });
  assert.equal(answer.value, 'hi!');
  const stream = client.stream(things.name, 'Watch', things.methods.Watch, { value: 'one' });
  assert.equal((await stream.receive())?.value, 'one');
  assert.equal(await stream.receive(), undefined);
  client.close();
  await server.close();
});
