/** Much output, and readers that come late, leave and return; over the mock hypervisor. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { constants, mkdtempSync, openSync, rmSync, writeFileSync } from 'node:fs';
import { Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { configText, Host } from '../support/host';
import { leftOf } from '../support/leaks';
import { busyboxRootfs, defaultSpec, ShimDriver } from '../support/shim-driver';

const LAST_NUMBER = 12_700_000;
const WAIT_MS = 30_000;

test('100 MB of output arrive through containerd without loss', async () => {
  const host = await Host.start('mock');
  const id = `much${String(process.pid)}`;
  try {
    const done = await host.runHashed(id, ['seq', '1', String(LAST_NUMBER)]);
    const wanted = execFileSync('sh', ['-c', `seq 1 ${String(LAST_NUMBER)} | md5sum`], { encoding: 'utf8' }).split(' ')[0];
    assert.equal(done.code, 0);
    assert.ok(done.bytes > 100_000_000, `${String(done.bytes)} bytes`);
    assert.equal(done.md5, wanted);
  } finally {
    await host.stop();
  }
  assert.deepEqual(await leftOf([id]), []);
});

/** One reader of a FIFO that others have read before and will read after it. */
class Reader {
  text = '';
  readonly ended: Promise<void>;
  private readonly socket: Socket;

  constructor(path: string) {
    this.socket = new Socket({ fd: openSync(path, constants.O_RDONLY | constants.O_NONBLOCK), readable: true, writable: false });
    this.socket.setEncoding('latin1').on('data', (text: string) => {
      this.text += text;
    });
    this.ended = new Promise((resolve) => this.socket.on('end', resolve));
  }

  async until(wanted: string): Promise<void> {
    for (const end = Date.now() + WAIT_MS; !this.text.includes(wanted); ) {
      assert.ok(Date.now() < end, `no ${JSON.stringify(wanted)} in ${JSON.stringify(this.text.slice(-200))}`);
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
  }

  leave(): void {
    this.socket.destroy();
  }
}

test('a reader that comes late, leaves and returns loses nothing, and a process without a reader is held, not harmed', async () => {
  const scratch = mkdtempSync(join(tmpdir(), 'kata-ts-streams-'));
  const config = join(scratch, 'configuration.toml');
  writeFileSync(config, configText('mock'));
  busyboxRootfs(join(scratch, 'rootfs'));
  const id = `readers${String(process.pid)}`;
  const shim = new ShimDriver(id, scratch, { config });
  try {
    await shim.start(defaultSpec(['sh', '-c', 'echo early; read x; echo unseen; seq 1 200000; echo last; read x'], join(scratch, 'rootfs')));
    const stdin = shim.input('init');
    const stdout = join(shim.bundle, 'stdout');
    execFileSync('mkfifo', [stdout]);
    await shim.create({ stdin: stdin.path, stdout });
    await shim.startTask();
    await new Promise((resolve) => setTimeout(resolve, 200));
    const late = new Reader(stdout);
    await late.until('early\n');
    late.leave();
    await stdin.write('go\n');
    await new Promise((resolve) => setTimeout(resolve, 300));
    const returned = new Reader(stdout);
    await returned.until('last\n');
    await stdin.write('end\n');
    assert.equal((await shim.client.call('Wait', { id }, WAIT_MS)).exitStatus, 0);
    await returned.ended;
    const numbers = Array.from({ length: 200_000 }, (_, n) => String(n + 1)).join('\n');
    assert.equal(late.text, 'early\n');
    assert.equal(returned.text === `unseen\n${numbers}\nlast\n`, true, returned.text.slice(0, 100));
    stdin.close();
  } finally {
    await shim.end();
    rmSync(scratch, { recursive: true, force: true });
  }
  assert.deepEqual(await leftOf([id, shim.address.replace('unix://', '') || id]), []);
});
