import assert from 'node:assert/strict';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { connect, createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { Duplex } from 'node:stream';
import { TtrpcClient, TtrpcError, TtrpcServer, type Codec } from 'ttrpc-ts';
import { encodePreamble, PreambleScanner } from '../../../base/serial-preamble';
import { SerialChannel } from './serial';

const text: Codec<string> = { encode: (message) => Buffer.from(message), decode: (bytes) => Buffer.from(bytes).toString() };
const service = { name: 'test.Echo', methods: { Echo: { kind: 'unary', request: text, response: text }, Park: { kind: 'unary', request: text, response: text } } } as const;

interface Port {
  /** The host's end: bytes as QEMU carries them, without connection boundaries. */
  readonly host: Socket;
  readonly server: TtrpcServer;
  readonly aborted: string[];
  /** The guest opens its side anew; what it had to write through is of no use any more. */
  reattach(): void;
  close(): Promise<void>;
}

async function openPort(): Promise<Port> {
  const folder = mkdtempSync(join(tmpdir(), 'serial-'));
  const listener = createServer();
  listener.listen(join(folder, 's'));
  await once(listener, 'listening');
  const host = connect(join(folder, 's'));
  const [guest] = (await once(listener, 'connection')) as [Socket];
  const aborted: string[] = [];
  const server = new TtrpcServer().register(service, {
    echo: (message) => message,
    park: (message, { signal }) => new Promise((resolve) => signal.addEventListener('abort', () => {
      aborted.push(message);
      resolve('');
    })),
  });
  const channel = new SerialChannel((connection) => server.handleConnection(connection));
  const attach = (): { works: boolean } => {
    const writer = { works: true };
    channel.attach((bytes, done) => {
      assert.ok(writer.works);
      guest.write(bytes, done);
    });
    return writer;
  };
  let writer = attach();
  guest.on('data', (chunk) => channel.feed(chunk));
  return {
    host, server, aborted,
    reattach: () => {
      writer.works = false;
      writer = attach();
    },
    close: async () => {
      host.destroy();
      guest.destroy();
      await server.close();
      listener.close();
      rmSync(folder, { recursive: true });
    },
  };
}

/** What the host's side does: preamble, everything dropped up to the echo, then a stream of its own. */
async function begin(host: Socket, fill: number, cut = 0): Promise<{ client: TtrpcClient; stream: Duplex }> {
  const nonce = Buffer.alloc(16, fill);
  const scanner = new PreambleScanner('guest');
  const stream = new Duplex({ read: () => undefined, write: (chunk: Buffer, _encoding, done) => void host.write(chunk, () => done()) });
  const opened = new Promise<void>((resolve) => {
    let isOpen = false;
    host.removeAllListeners('data').on('data', (chunk) => {
      for (const event of scanner.push(chunk)) {
        if (event.kind === 'preamble') {
          isOpen = event.nonce.equals(nonce);
          resolve();
        } else if (isOpen) {
          stream.push(event.bytes);
        }
      }
    });
  });
  const preamble = encodePreamble('host', nonce);
  host.write(preamble.subarray(0, cut));
  await new Promise((resolve) => setImmediate(resolve));
  host.write(preamble.subarray(cut));
  await opened;
  return { client: new TtrpcClient(stream), stream };
}

const codecs = { request: text, response: text };

test('a call goes through after the preamble, however that is cut', async () => {
  const port = await openPort();
  for (const cut of [0, 1, 15, 16, 35]) {
    const { client } = await begin(port.host, cut + 1, cut);
    assert.equal(await client.call('test.Echo', 'Echo', codecs, `cut ${String(cut)}`), `cut ${String(cut)}`);
  }
  assert.equal(port.server.connections, 1);
  await port.close();
});

test('bytes before the first preamble are dropped', async () => {
  const port = await openPort();
  port.host.write(Buffer.alloc(1000, 7));
  const { client } = await begin(port.host, 1);
  assert.equal(await client.call('test.Echo', 'Echo', codecs, 'x'), 'x');
  await port.close();
});

test('a new preamble in the middle of a frame begins anew: calls that wait are aborted, nothing of the old frame is left', async () => {
  const port = await openPort();
  const first = await begin(port.host, 1);
  const parked = first.client.call('test.Echo', 'Park', codecs, 'parked');
  parked.catch(() => undefined);
  assert.equal(await first.client.call('test.Echo', 'Echo', codecs, 'before'), 'before');
  port.host.write(Buffer.from([0, 0, 0x10, 0, 0, 0, 0, 9, 1, 0, 1, 2, 3]));
  const second = await begin(port.host, 2, 20);
  assert.equal(await second.client.call('test.Echo', 'Echo', codecs, 'after'), 'after');
  assert.deepEqual(port.aborted, ['parked']);
  assert.equal(port.server.connections, 1);
  first.stream.destroy();
  await assert.rejects(parked, TtrpcError);
  await port.close();
});

test('a port that is opened anew without a preamble goes on with its connection', async () => {
  const port = await openPort();
  const { client, stream } = await begin(port.host, 1);
  const parked = client.call('test.Echo', 'Park', codecs, 'parked');
  parked.catch(() => undefined);
  port.reattach();
  assert.equal(await client.call('test.Echo', 'Echo', codecs, 'still here'), 'still here');
  assert.deepEqual(port.aborted, []);
  stream.destroy();
  await assert.rejects(parked, TtrpcError);
  await port.close();
});

test('a large answer arrives whole', async () => {
  const port = await openPort();
  const { client } = await begin(port.host, 3);
  const message = 'abcdefgh'.repeat(200_000);
  assert.equal(await client.call('test.Echo', 'Echo', codecs, message), message);
  await port.close();
});
