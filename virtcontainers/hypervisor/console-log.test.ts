import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs';
import { connect, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { it } from 'node:test';
import { ConsoleLog } from './console-log';

it('keeps the file within 1 MiB and the last lines whole, however much comes', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'console-'));
  const path = join(folder, 'sock');
  const server = createServer((socket) => {
    for (let i = 0; i < 40; i++) {
      socket.write(Buffer.alloc(100_000, 'x'));
    }
    socket.end('\nthe last line\n');
  });
  await new Promise<void>((resolve) => server.listen(path, resolve));
  const log = new ConsoleLog(join(folder, 'console.log'));
  const socket = connect(path);
  log.attach(socket);
  await new Promise((resolve) => socket.on('close', resolve));
  log.close();
  assert.match(log.tail, /the last line\n$/);
  assert.ok(log.tail.length <= 16 * 1024);
  assert.ok(statSync(log.path).size <= 1024 * 1024);
  assert.match(readFileSync(log.path, 'latin1'), /the last line\n$/);
  server.close();
  rmSync(folder, { recursive: true });
});
