import assert from 'node:assert/strict';
import { chmod, chown, mkdir, mkdtemp, rm, symlink, truncate, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { isCode } from '../base/errors';
import type { CopyFileRequest } from '../gen/agent/agent';
import { COPY_CHUNK_BYTES, copyFile } from './copy-file';

let folder: string;
before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'copy-file-'));
});
after(async () => {
  await rm(folder, { recursive: true, force: true });
});

async function collect(path: string): Promise<CopyFileRequest[]> {
  const pieces: CopyFileRequest[] = [];
  await copyFile(path, '/g', async (piece) => {
    pieces.push({ ...piece, data: Buffer.from(piece.data) });
  });
  return pieces;
}

test('a file goes in pieces of 1 MiB with mode, owner and offsets', async () => {
  const path = join(folder, 'big');
  const content = Buffer.alloc(2 * COPY_CHUNK_BYTES + 5, 'abc');
  await writeFile(path, content);
  await chmod(path, 0o640);
  const [uid, gid] = process.getuid?.() === 0 ? [5, 6] : [process.getuid?.() ?? 0, process.getgid?.() ?? 0];
  await chown(path, uid, gid);
  const pieces = await collect(path);
  assert.equal(COPY_CHUNK_BYTES, 1_048_576);
  assert.deepEqual(pieces.map(({ offset, data }) => [offset, data.length]), [
    [0n, COPY_CHUNK_BYTES],
    [BigInt(COPY_CHUNK_BYTES), COPY_CHUNK_BYTES],
    [BigInt(2 * COPY_CHUNK_BYTES), 5],
  ]);
  assert.ok(Buffer.concat(pieces.map(({ data }) => data)).equals(content));
  const [first] = pieces;
  assert.equal(first?.fileSize, BigInt(content.length));
  assert.equal(first.fileMode, 0o100640);
  assert.equal(first.dirMode, 0x800001e8);
  assert.deepEqual([first.uid, first.gid], [uid, gid]);
});

test('an empty file is one request', async () => {
  const path = join(folder, 'empty');
  await writeFile(path, '');
  const pieces = await collect(path);
  assert.deepEqual(pieces.map(({ fileSize, data }) => [fileSize, data.length]), [[0n, 0]]);
});

test('a folder is one request without data, a link one with its target', async () => {
  await mkdir(join(folder, 'dir'), { mode: 0o755 });
  await symlink('../data/target', join(folder, 'link'));
  const [dir] = await collect(join(folder, 'dir'));
  assert.equal((dir?.fileMode ?? 0) & 0o170000, 0o040000);
  assert.equal(dir?.data.length, 0);
  const [link] = await collect(join(folder, 'link'));
  assert.equal((link?.fileMode ?? 0) & 0o170000, 0o120000);
  assert.equal(Buffer.from(link?.data ?? []).toString(), '../data/target');
});

test('a file that shrinks meanwhile is an error, not a hang', async () => {
  const path = join(folder, 'shrinking');
  await writeFile(path, Buffer.alloc(2 * COPY_CHUNK_BYTES));
  const copied = copyFile(path, '/g', async () => truncate(path, 10));
  await assert.rejects(copied, (error) => isCode(error, 'DataLoss'));
});

test('a socket and a missing file are refused with the path in the text', async () => {
  const path = join(folder, 'socket');
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(path, resolve));
  await assert.rejects(collect(path), (error) => isCode(error, 'InvalidArgument') && String(error).includes(path));
  server.close();
  await assert.rejects(collect(join(folder, 'none')), (error) => isCode(error, 'NotFound'));
});
