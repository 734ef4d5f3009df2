import assert from 'node:assert/strict';
import { once } from 'node:events';
import { mkdtempSync, readdirSync, renameSync, rmSync } from 'node:fs';
import { connect, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { duplicate } from '../../../base/syscalls';
import { listenOnDescriptor } from './listen-fd';

test('a server accepts at a listening descriptor that it did not make, and leaves no file', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'listen-'));
  const first = createServer();
  first.listen(join(folder, 'a'));
  await once(first, 'listening');
  const handle: unknown = Reflect.get(first, '_handle');
  const fd = duplicate(Number(Reflect.get(handle as object, 'fd')));
  renameSync(join(folder, 'a'), join(folder, 'b'));
  first.close();
  const server = listenOnDescriptor(fd, (socket) => socket.end('hello'), folder);
  assert.deepEqual(readdirSync(folder), ['b']);
  for (let round = 0; round < 3; round++) {
    const client = connect(join(folder, 'b'));
    const [data] = (await once(client, 'data')) as [Buffer];
    assert.equal(data.toString(), 'hello');
    client.destroy();
  }
  server.close();
  rmSync(folder, { recursive: true });
});
