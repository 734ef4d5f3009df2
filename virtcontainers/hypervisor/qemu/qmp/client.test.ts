import assert from 'node:assert/strict';
import { mkdtempSync, openSync, readFileSync, rmSync, writeFileSync, closeSync } from 'node:fs';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { isCode, KataError } from '../../../../base/errors';
import { Logger } from '../../../../base/log';
import { receiveDescriptors } from '../../../../base/syscalls';
import { QmpClient } from './client';
import { asObject, asString } from './shape';
import { LineSplitter } from './transport';

const GREETING = '{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": ""}, "capabilities": ["oob"]}}\r\n';

type Command = { readonly execute: string; readonly id: number; readonly arguments?: unknown };
type Answer = (command: Command, socket: Socket) => void;

function reply(socket: Socket, id: number, value: unknown): void {
  socket.write(`${JSON.stringify({ return: value, id })}\r\n`);
}

describe('qmp client', () => {
  let folder = '';
  let server: Server;
  const sockets: Socket[] = [];

  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), 'qmp-'));
  });
  afterEach(async () => {
    sockets.splice(0).forEach((socket) => socket.destroy());
    await new Promise((resolve) => server.close(resolve));
    rmSync(folder, { recursive: true });
  });

  /** A QMP server of real bytes; `capabilities` is answered for the test. */
  async function listen(answer: Answer, greeting: string = GREETING): Promise<string> {
    const path = join(folder, 'qmp.sock');
    server = createServer((socket) => {
      sockets.push(socket);
      socket.on('error', () => undefined);
      socket.write(greeting);
      const lines = new LineSplitter();
      socket.on('data', (chunk) => {
        for (const line of lines.push(chunk)) {
          const command = JSON.parse(line) as Command;
          if (command.execute === 'qmp_capabilities') {
            reply(socket, command.id, {});
          } else {
            answer(command, socket);
          }
        }
      });
    });
    await new Promise<void>((resolve) => server.listen(path, resolve));
    return path;
  }

  const open = async (path: string, timeoutMs = 2000): Promise<QmpClient> => QmpClient.open(connect(path), { timeoutMs, logger: Logger.none() });

  it('answers many commands in flight, in whatever order the answers come', async () => {
    const held: Command[] = [];
    const qmp = await open(
      await listen((command, socket) => {
        held.push(command);
        if (held.length === 3) {
          held.reverse().forEach(({ id, execute }) => { reply(socket, id, { said: execute }); });
        }
      }),
    );
    const answers = await Promise.all(['a', 'b', 'c'].map((name) => qmp.execute(name)));
    assert.deepEqual(answers, [{ said: 'a' }, { said: 'b' }, { said: 'c' }]);
    qmp.close();
  });

  it('turns an error into a KataError with the command and the text of QEMU', async () => {
    const qmp = await open(
      await listen(({ id }, socket) => socket.write(`${JSON.stringify({ id, error: { class: 'DeviceNotFound', desc: "Device 'x' not found" } })}\n`)),
    );
    await assert.rejects(qmp.execute('device_del', { id: 'x' }), (error) => isCode(error, 'NotFound') && (error as Error).message === "qmp device_del: Device 'x' not found");
    qmp.close();
  });

  it('gives up on a command that is never answered, and goes on', async () => {
    const qmp = await open(await listen(({ execute, id }, socket) => { if (execute !== 'silent') { reply(socket, id, 1); } }));
    await assert.rejects(qmp.execute('silent', undefined, 20), (error) => isCode(error, 'DeadlineExceeded'));
    assert.equal(await qmp.execute('other'), 1);
    qmp.close();
  });

  it('gives up when there is no greeting', async () => {
    const path = await listen(() => undefined, '');
    await assert.rejects(open(path, 30), (error) => isCode(error, 'DeadlineExceeded'));
  });

  it('fails every command when garbage comes', async () => {
    const qmp = await open(await listen((_, socket) => socket.write('HTTP/1.1 400 Bad\r\n\r\n')));
    const both = await Promise.allSettled([qmp.execute('a'), qmp.execute('b')]);
    assert.deepEqual(both.map(({ status }) => status), ['rejected', 'rejected']);
    assert.match((await qmp.closed).message, /cannot read|no JSON/);
    assert.equal(qmp.isOpen, false);
    await assert.rejects(qmp.execute('c'), KataError);
  });

  it('puts lines together that come byte by byte', async () => {
    const qmp = await open(
      await listen(({ id }, socket) => {
        const bytes = Buffer.from(`{"event": "RESUME", "timestamp": {}}\n{"return": {"text": "ä€"}, "id": ${String(id)}}\r\n`);
        void (async () => {
          for (const byte of bytes) {
            socket.write(Buffer.from([byte]));
            await new Promise((resolve) => setImmediate(resolve));
          }
        })();
      }),
    );
    assert.equal(asString(asObject(await qmp.execute('a'), 'answer')['text'], 'text'), 'ä€');
    qmp.close();
  });

  it('takes an answer of 3 MB', async () => {
    const text = 'x'.repeat(3_000_000);
    const qmp = await open(await listen(({ id }, socket) => { reply(socket, id, text); }));
    assert.equal(await qmp.execute('query-qmp-schema'), text);
    qmp.close();
  });

  it('rejects when the connection ends in the middle of an answer', async () => {
    const qmp = await open(await listen((_, socket) => socket.end('{"return": {"half"')));
    await assert.rejects(qmp.execute('a'), (error) => isCode(error, 'Unavailable'));
  });

  it('delivers events, and expects one of them with a deadline', async () => {
    const qmp = await open(
      await listen(({ id }, socket) => {
        socket.write('{"event": "DEVICE_DELETED", "data": {"path": "/machine/peripheral/d/virtio-backend"}}\n');
        reply(socket, id, {});
        socket.write('{"event": "DEVICE_DELETED", "data": {"device": "d", "path": "/machine/peripheral/d"}}\n');
      }),
    );
    const onTimeout = (): KataError => new KataError('DeadlineExceeded', 'no event');
    const deleted = qmp.expect('DEVICE_DELETED', (data) => data['device'] === 'd', { timeoutMs: 2000, onTimeout });
    await qmp.execute('device_del', { id: 'd' });
    assert.equal((await deleted)['path'], '/machine/peripheral/d');
    await assert.rejects(qmp.expect('STOP', () => true, { timeoutMs: 10, onTimeout }), (error) => isCode(error, 'DeadlineExceeded'));
    qmp.close();
  });

  it('refuses a line above the limit', () => {
    const lines = new LineSplitter(100);
    assert.throws(() => lines.push(Buffer.alloc(101, 'x')), (error) => isCode(error, 'ResourceExhausted'));
  });

  it('hands a descriptor over with its command', async () => {
    const file = join(folder, 'file');
    writeFileSync(file, 'hello');
    const path = join(folder, 'qmp.sock');
    const got = new Promise<string>((resolve) => {
      server = createServer({ pauseOnConnect: true }, (socket) => {
        sockets.push(socket);
        socket.write(GREETING);
        const handle = (socket as unknown as { _handle: { fd: number } })._handle;
        const lines = new LineSplitter();
        const poll = setInterval(() => {
          const buffer = Buffer.alloc(4096);
          const { length, fds } = receiveDescriptors(handle.fd, buffer);
          for (const line of length > 0 ? lines.push(buffer.subarray(0, length)) : []) {
            reply(socket, (JSON.parse(line) as Command).id, {});
          }
          if (fds[0] !== undefined) {
            clearInterval(poll);
            resolve(readFileSync(fds[0], 'utf8'));
            closeSync(fds[0]);
          }
        }, 1);
      });
    });
    await new Promise<void>((resolve) => server.listen(path, resolve));
    const qmp = await open(path);
    const fd = openSync(file, 'r');
    await qmp.giveDescriptor('mig', fd);
    closeSync(fd);
    assert.equal(await got, 'hello');
    qmp.close();
  });
});
