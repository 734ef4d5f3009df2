import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { chmodSync, closeSync, constants, existsSync, mkdtempSync, openSync, readdirSync, readFileSync, readSync, rmSync, statSync, writeFileSync, writeSync } from 'node:fs';
import { Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, test } from 'node:test';
import { defer } from '../../base/deadline';
import { describeError, KataError } from '../../base/errors';
import { Logger } from '../../base/log';
import type { GuestStreams } from '../../virtcontainers/process/types';
import { createProcessIo, type StdioPaths } from './process-io';
import { parseStream } from './uri';

let folder: string;

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'kata-ts-stdio-'));
});

afterEach(() => {
  rmSync(folder, { recursive: true, force: true });
});

function fifo(name: string): string {
  const path = join(folder, name);
  execFileSync('mkfifo', [path]);
  return path;
}

function io(paths: Partial<StdioPaths>): ReturnType<typeof createProcessIo> {
  return createProcessIo({ stdin: '', stdout: '', stderr: '', terminal: false, containerId: 'box', namespace: 'ns', logger: Logger.none(), ...paths });
}

/** Streams of a guest that says these chunks. */
function guest(stdout: Iterable<Uint8Array | string> = [], stderr: Iterable<Uint8Array | string> = []): GuestStreams & { stdin: string; readonly closed: Promise<undefined> } {
  const reader = (source: Iterable<Uint8Array | string>): (() => Promise<Uint8Array>) => {
    const chunks = source[Symbol.iterator]();
    return async () => {
      const next = chunks.next();
      await Promise.resolve();
      return next.done === true ? new Uint8Array(0) : Buffer.from(next.value);
    };
  };
  const closed = defer<undefined>();
  return {
    stdin: '',
    closed: closed.promise,
    readStdout: reader(stdout),
    readStderr: reader(stderr),
    async writeStdin(data) {
      // Takes little at a time, as a full pipe does.
      const part = data.subarray(0, 3);
      this.stdin += Buffer.from(part).toString();
      return Promise.resolve(part.length);
    },
    async closeStdin() {
      closed.resolve(undefined);
      return Promise.resolve();
    },
  };
}

const readNow = (path: string): string => {
  const fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
  const buffer = Buffer.alloc(65_536);
  const count = readSync(fd, buffer);
  closeSync(fd);
  return buffer.toString('utf8', 0, count);
};

const openFds = (): number => readdirSync('/proc/self/fd').length;

test('output to FIFOs that nobody has opened lies there for a late reader', async () => {
  const [stdout, stderr] = [fifo('out'), fifo('err')];
  const streams = io({ stdout, stderr });
  await streams.open();
  await streams.copy(guest(['one ', 'two'], ['bad']));
  assert.equal(readNow(stdout), 'one two');
  assert.equal(readNow(stderr), 'bad');
  streams.close();
});

test('output stays fetchable after close, and then everything is given back', async () => {
  const before = openFds();
  const stdout = fifo('out');
  const streams = io({ stdout });
  await streams.open();
  await streams.copy(guest(['kept']));
  streams.close();
  assert.equal(readNow(stdout), 'kept');
  for (let n = 0; n < 100 && openFds() > before; n++) {
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  assert.ok(openFds() <= before);
});

test('100 MB come through complete, with readers that leave and return', { timeout: 60_000 }, async () => {
  const stdout = fifo('out');
  const chunk = Buffer.alloc(512 * 1024);
  const hash = createHash('sha256');
  function* chunks(): Generator<Uint8Array> {
    for (let n = 0; n < 200; n++) {
      chunk.fill(n);
      hash.update(chunk);
      yield Buffer.from(chunk);
    }
  }
  const streams = io({ stdout });
  await streams.open();
  const copying = streams.copy(guest(chunks()));
  const seen = createHash('sha256');
  let length = 0;
  void copying.then(() => {
    streams.close();
  });
  // Each reader takes a part and leaves; what it left lies in the FIFO.
  while (length < 200 * chunk.length) {
    const fd = openSync(stdout, constants.O_RDONLY | constants.O_NONBLOCK);
    const buffer = Buffer.alloc(65_536);
    for (let n = 0; n < 64; n++) {
      try {
        const count = readSync(fd, buffer);
        seen.update(buffer.subarray(0, count));
        length += count;
      } catch {
        await new Promise((resolve) => setImmediate(resolve));
      }
    }
    closeSync(fd);
  }
  await copying;
  assert.equal(seen.digest('hex'), hash.digest('hex'));
});

test('a full FIFO makes the guest wait and the rest come later', async () => {
  const stdout = fifo('out');
  let asked = 0;
  function* endless(): Generator<Uint8Array> {
    while (asked < 20) {
      asked++;
      yield Buffer.alloc(512 * 1024, asked);
    }
  }
  const streams = io({ stdout });
  await streams.open();
  const copying = streams.copy(guest(endless()));
  await new Promise((resolve) => setTimeout(resolve, 50));
  assert.ok(asked <= 4, `asked the guest ${String(asked)} times while nobody reads`);
  const reader = new Socket({ fd: openSync(stdout, constants.O_RDONLY | constants.O_NONBLOCK), readable: true, writable: false });
  let length = 0;
  reader.on('data', (bytes: Buffer) => {
    length += bytes.length;
  });
  const ended = new Promise((resolve) => reader.on('end', resolve));
  await copying;
  streams.close();
  await ended;
  assert.equal(length, 20 * 512 * 1024);
});

test('stdin comes in order and is closed behind its data', async () => {
  const stdin = fifo('in');
  const streams = io({ stdin });
  await streams.open();
  const end = defer<undefined>();
  const to = guest();
  to.readStdout = async () => {
    await end.promise;
    return new Uint8Array(0);
  };
  const copying = streams.copy(to);
  const writer = openSync(stdin, constants.O_WRONLY | constants.O_NONBLOCK);
  writeSync(writer, 'first line\n');
  closeSync(writer);
  // A client that leaves is no end of input.
  const second = openSync(stdin, constants.O_WRONLY | constants.O_NONBLOCK);
  writeSync(second, 'second');
  streams.closeStdin();
  streams.closeStdin();
  await to.closed;
  assert.equal(to.stdin, 'first line\nsecond');
  closeSync(second);
  end.resolve(undefined);
  await copying;
  streams.close();
});

test('closing stdin before the start is kept', async () => {
  const streams = io({ stdin: fifo('in') });
  streams.closeStdin();
  await streams.open();
  const to = guest();
  to.readStdout = async () => {
    await to.closed;
    return new Uint8Array(0);
  };
  await streams.copy(to);
  streams.close();
});

test('without a stdin the guest sees its end at once; without a stdout output is dropped', async () => {
  const streams = io({});
  await streams.open();
  const to = guest(['dropped', 'dropped too']);
  await streams.copy(to);
  await to.closed;
  streams.close();
});

test('/dev/null serves in every place', async () => {
  const streams = io({ stdin: '/dev/null', stdout: '/dev/null', stderr: '/dev/null' });
  await streams.open();
  const to = guest(['x'], ['y']);
  to.readStderr = async () => {
    await to.closed;
    return new Uint8Array(0);
  };
  await streams.copy(to);
  streams.close();
});

test('file:// is made with its folders, appended to, and shared by both streams', async () => {
  const path = join(folder, 'deep/er/log');
  for (const word of ['a', 'b']) {
    const streams = io({ stdout: `file://${path}`, stderr: `file://${path}` });
    await streams.open();
    await streams.copy(guest([word], [word.toUpperCase()]));
    streams.close();
  }
  assert.deepEqual(readFileSync(path, 'utf8').split('').sort().join(''), 'ABab');
  assert.equal(statSync(path).mode & 0o777, 0o644);
});

/** A log program in sh that keeps what it gets. */
function logger(body: string): string {
  const path = join(folder, 'logger');
  writeFileSync(path, `#!/bin/sh\n${body}\n`);
  chmodSync(path, 0o755);
  return path;
}

async function until(done: () => boolean): Promise<void> {
  const deadline = Date.now() + 10_000;
  while (!done()) {
    assert.ok(Date.now() < deadline, 'not in time');
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

for (const [scheme, ready] of [['binary', 'exec 5>&-'], ['binary-v2', 'echo x >&5']] as const) {
  test(`${scheme}:// gets both streams, its arguments in order and two variables`, async () => {
    const out = join(folder, 'kept');
    const path = logger(`${ready}\necho "$*" >${out}.args\nenv | grep ^CONTAINER_ | sort >${out}.env\ncat <&3 >${out}.out\ncat <&4 >${out}.err\ntouch ${out}.done`);
    const streams = io({ stdout: `${scheme}://${path}?b=1&a=two%20words&flag&b=again`, stderr: `${scheme}://${path}` });
    await streams.open();
    await streams.copy(guest(['to stdout'], ['to stderr']));
    streams.close();
    await until(() => existsSync(`${out}.done`));
    assert.equal(readFileSync(`${out}.args`, 'utf8'), 'b 1 a two words flag\n');
    assert.equal(readFileSync(`${out}.env`, 'utf8'), 'CONTAINER_ID=box\nCONTAINER_NAMESPACE=ns\n');
    assert.equal(readFileSync(`${out}.out`, 'utf8'), 'to stdout');
    assert.equal(readFileSync(`${out}.err`, 'utf8'), 'to stderr');
  });
}

test('a log program that does not end with its input is told to', async () => {
  const out = join(folder, 'told');
  const streams = io({ stdout: `binary://${logger(`trap 'touch ${out}; exit' TERM\nexec 5>&-\nwhile :; do sleep 0.1; done`)}` });
  await streams.open();
  await streams.copy(guest(['x']));
  streams.close();
  await until(() => existsSync(out));
});

test('a log program that dies loses output but holds nobody', async () => {
  const streams = io({ stdout: `binary://${logger('exit 0')}` });
  await streams.open();
  await streams.copy(guest(Array.from({ length: 20 }, () => Buffer.alloc(65_536))));
  streams.close();
});

test('a log program that is missing, or says nothing in version 2, fails the open', async () => {
  const before = openFds();
  await assert.rejects(io({ stdout: 'binary:///no/such/logger' }).open(), (reason) => reason instanceof KataError && /no\/such\/logger/.test(reason.message));
  await assert.rejects(io({ stdout: `binary-v2://${logger('exit 3')}` }).open(), /without a byte/);
  await until(() => openFds() <= before);
});

test('a FIFO that is not there fails the open and leaves nothing open', async () => {
  const before = openFds();
  const streams = io({ stdin: fifo('in'), stdout: join(folder, 'missing') });
  await assert.rejects(streams.open(), (reason) => reason instanceof KataError && reason.code === 'NotFound');
  streams.close();
  await until(() => openFds() <= before);
});

test('streams that break in the guest end the copy', async () => {
  const streams = io({});
  await streams.open();
  const to = guest();
  to.readStdout = async () => Promise.reject(new KataError('Unavailable', 'agent gone'));
  await streams.copy(to);
  streams.close();
});

test('names of streams: schemes, escapes, relative paths', () => {
  assert.deepEqual(parseStream('fifo:///run/x', 's'), { kind: 'path', path: '/run/x' });
  assert.deepEqual(parseStream('/run/x', 's'), { kind: 'path', path: '/run/x' });
  assert.deepEqual(parseStream('', 's'), { kind: 'none' });
  assert.deepEqual(parseStream('file:///a%20b', 's'), { kind: 'file', path: '/a b' });
  for (const bad of ['relative', 'file://relative', 'ttrpc+unix:///x', '/run/../x', 'binary:///x?%zz']) {
    assert.throws(() => parseStream(bad, 's'), (reason) => reason instanceof KataError && reason.code === 'InvalidArgument', bad);
  }
});

/** Streams whose output lasts until the test says so. */
function lasting(): { readonly to: ReturnType<typeof guest>; readonly finish: () => void } {
  const end = defer<undefined>();
  const to = guest();
  to.readStdout = async () => {
    await end.promise;
    return new Uint8Array(0);
  };
  return { to, finish: () => end.resolve(undefined) };
}

test('the end of input closes stdin of a process without a console, and never a console', async () => {
  for (const terminal of [false, true]) {
    const path = join(folder, `file-${String(terminal)}`);
    writeFileSync(path, 'all of it');
    const streams = io({ stdin: path, terminal });
    const { to, finish } = lasting();
    let closed = false;
    void to.closed.then(() => {
      closed = true;
    });
    await streams.open();
    const copying = streams.copy(to);
    await until(() => to.stdin === 'all of it' && (closed || terminal));
    await new Promise((resolve) => setTimeout(resolve, 20));
    assert.equal(closed, !terminal);
    finish();
    await copying;
    streams.close();
  }
});

test('a client that keeps its end of stdin open holds nothing after the end of the process', async () => {
  const before = openFds();
  const stdin = fifo('in');
  const streams = io({ stdin });
  await streams.open();
  const writer = openSync(stdin, constants.O_WRONLY | constants.O_NONBLOCK);
  const to = guest(['x']);
  let closes = 0;
  to.closeStdin = async () => {
    closes++;
    return Promise.resolve();
  };
  await streams.copy(to);
  await until(() => openFds() <= before + 1);
  assert.equal(closes, 0, 'stdin of a process that has ended is not closed');
  closeSync(writer);
  streams.close();
});

test('streams that are closed while they open are given back', async () => {
  const before = openFds();
  const streams = io({ stdin: fifo('in'), stdout: `binary://${logger('sleep 0.1; exec 5>&-; cat <&3')}` });
  const opening = streams.open();
  streams.close();
  await opening;
  await until(() => openFds() <= before);
});

test('one file for both streams is opened once, and no line of one is cut by the other', async () => {
  const before = openFds();
  const path = join(folder, 'both.log');
  const streams = io({ stdout: `file://${path}`, stderr: `file://${path}` });
  await streams.open();
  assert.equal(openFds(), before + 1);
  await streams.copy(guest(Array.from({ length: 200 }, () => `${'o'.repeat(2000)}\n`), Array.from({ length: 200 }, () => `${'e'.repeat(2000)}\n`)));
  streams.close();
  const lines = readFileSync(path, 'utf8').trimEnd().split('\n');
  assert.equal(lines.length, 400);
  assert.ok(lines.every((line) => /^(o{2000}|e{2000})$/.test(line)));
});

test('a log program that ignores SIGTERM is killed, one that is not ready in time fails the open', async (t) => {
  const out = join(folder, 'stubborn');
  const streams = io({ stdout: `binary://${logger(`trap '' TERM\necho $$ >${out}\nexec 5>&-\nexec 3<&- 4<&-\nwhile :; do sleep 0.05; done`)}` });
  await streams.open();
  await until(() => existsSync(out) && readFileSync(out, 'utf8') !== '');
  const pid = Number(readFileSync(out, 'utf8'));
  t.mock.timers.enable({ apis: ['setTimeout'] });
  const turn = async (): Promise<void> => new Promise((resolve) => setImmediate(resolve));
  streams.close();
  await turn();
  t.mock.timers.tick(1_000);
  await turn();
  process.kill(pid, 0);
  t.mock.timers.tick(12_000);
  await turn();
  t.mock.timers.reset();
  await until(() => !existsSync(`/proc/${String(pid)}`) || readFileSync(`/proc/${String(pid)}/stat`, 'utf8').includes(') Z '));

  t.mock.timers.enable({ apis: ['setTimeout'] });
  const late = assert.rejects(io({ stdout: `binary://${logger('sleep 100')}` }).open(), (reason) => /not ready after 10000 ms.*close descriptor 5/s.test(describeError(reason)));
  await turn();
  t.mock.timers.tick(10_000);
  t.mock.timers.reset();
  await late;
});
