import assert from 'node:assert/strict';
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { isCode } from '../../../base/errors';
import { reaper } from './reaper';
import { runWith } from './tool';

const FAR = { timeoutMs: 30_000 };
let folder: string;
/** A child that is not libuv's keeps no process alive; the agent has its sockets, a test has this. */
let awake: NodeJS.Timeout;

before(() => {
  folder = mkdtempSync(join(tmpdir(), 'kata-ts-tool-'));
  awake = setInterval(() => undefined, 1000);
  reaper.start();
});

after(() => {
  clearInterval(awake);
  process.removeAllListeners('SIGCHLD');
  rmSync(folder, { recursive: true, force: true });
});

/** Runs a shell with a file as its output; its code and what it wrote. */
async function sh(script: string, options: Parameters<typeof runWith>[3] = FAR, ...words: string[]): Promise<{ code: number; out: string }> {
  const path = join(folder, 'out');
  const fds = [openSync('/dev/null', 'r'), openSync(path, 'w+'), openSync('/dev/null', 'w')] as const;
  try {
    return { code: await runWith(fds, '/bin/sh', ['-c', script, ...words], options), out: readFileSync(path, 'utf8') };
  } finally {
    fds.forEach((fd) => { closeSync(fd); });
  }
}

test('the program has its words, our environment and the descriptors, and its exit code comes back', async () => {
  process.env['KATA_TS_TOOL_TEST'] = 'from us';
  try {
    assert.deepEqual(await sh('echo "$0 $1 $KATA_TS_TOOL_TEST"; exit 7', FAR, 'a word', 'and another'), { code: 7, out: 'a word and another from us\n' });
  } finally {
    delete process.env['KATA_TS_TOOL_TEST'];
  }
});

test('of what we have open only 0, 1 and 2 are handed on', async () => {
  const other = openSync(join(folder, 'other'), 'w');
  try {
    const { out } = await sh('ls -l /proc/$$/fd');
    assert.match(out, / 1 -> .*\/out\n/);
    assert.doesNotMatch(out, /\/other|[3-9] -> .*\/out/);
  } finally {
    closeSync(other);
  }
});

test('no signal is ignored or blocked, though Node.js ignores some', async () => {
  const { out } = await sh('grep -E "^Sig(Ign|Blk)" /proc/self/status');
  // Without 32 and 33, which belong to libc.
  assert.deepEqual(out.match(/[0-9a-f]{16}$/gm)?.map((mask) => BigInt(`0x${mask}`) & ~0x180000000n), [0n, 0n]);
});

test('a death by signal is 128 and the signal', async () => {
  assert.equal((await sh('kill -9 $$')).code, 137);
});

test('a program that takes too long is killed, and the error says so', async () => {
  await assert.rejects(sh('exec sleep 1000', { timeoutMs: 50 }), (reason) => isCode(reason, 'DeadlineExceeded') && /run \/bin\/sh: no end within 50 ms; killed/.test(String(reason)));
});

test('what cannot be started is named with the reason', async () => {
  const fd = openSync('/dev/null', 'r+');
  try {
    await assert.rejects(runWith([fd, fd, fd], join(folder, 'none'), [], FAR), /run .*none: ENOENT/);
    await assert.rejects(runWith([fd, fd, fd], '/bin/true', new Array<string>(100).fill('x'), FAR), /64 words/);
    await assert.rejects(runWith([fd, fd, 2], '/bin/true', [], FAR), /cannot become 0, 1 and 2/);
  } finally {
    closeSync(fd);
  }
});
