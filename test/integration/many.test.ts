import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { after, before, test } from 'node:test';
import { Host } from '../support/host';
import { descriptorsOf, leakedSince, takeInventory, type Inventory } from '../support/leaks';

let clean: Inventory;

before(() => {
  clean = takeInventory();
});

after(async () => {
  assert.deepEqual(await leakedSince(clean), []);
});

test('10 containers started at once all run', async () => {
  const host = await Host.start('qemu', { hypervisor: { default_memory: '512' } });
  try {
    const all = await Promise.all(Array.from({ length: 10 }, (_, n) => host.run(`many${String(n)}`, ['echo', `number ${String(n)}`], { timeoutMs: 280_000 })));
    assert.deepEqual(all.map((done) => done.stdout), Array.from({ length: 10 }, (_, n) => `number ${String(n)}\n`), all.map((done) => done.stderr).join(''));
  } finally {
    await host.stop();
  }
});

/** Resident memory of the containerd daemon, its descriptors, and the files below the folders that we use. */
function footprint(host: Host): { rssKib: number; descriptors: number; files: number } {
  const status = readFileSync(`/proc/${String(host.containerd.pid)}/status`, 'utf8');
  const files = ['/run/vc', '/run/kata-containers', '/run/containerd/s', host.containerd.folder].flatMap((folder) => {
    try {
      return readdirSync(folder, { recursive: true, encoding: 'utf8' });
    } catch {
      return [];
    }
  });
  return { rssKib: Number(/VmRSS:\s+(\d+)/.exec(status)?.[1] ?? 0), descriptors: descriptorsOf(host.containerd.pid).length, files: files.length };
}

/** Two hundred sandboxes one after the other; twenty before, so that what is made once is there. */
async function runInSequence(host: Host): Promise<void> {
  for (let n = 0; n < 20; n++) {
    await host.run(`warm${String(n)}`, ['true']);
  }
  const before = footprint(host);
  for (let n = 0; n < 200; n++) {
    const done = await host.run(`run${String(n)}`, ['sh', '-c', `exit ${String(n % 7)}`]);
    assert.equal(done.code, n % 7, done.stderr);
  }
  const now = footprint(host);
  assert.ok(now.descriptors <= before.descriptors + 3, `descriptors ${String(before.descriptors)} -> ${String(now.descriptors)}`);
  assert.ok(now.files <= before.files + 3, `files ${String(before.files)} -> ${String(now.files)}`);
  assert.ok(now.rssKib <= before.rssKib * 1.5 + 10_000, `memory ${String(before.rssKib)} -> ${String(now.rssKib)} KiB`);
}

// The mock hypervisor has no factory: not once more in its modes.
if (process.env['KATA_TEST_FACTORY'] === undefined) {
  test('200 sequential runs leave descriptors, memory and files of the host as they were', async () => {
    // The mock hypervisor runs the same shim, sandbox and agent without the seconds of a boot under TCG.
    const host = await Host.start('mock');
    try {
      await runInSequence(host);
    } finally {
      await host.stop();
    }
  });
}

test('200 sequential virtual machines leave descriptors, memory and files of the host as they were', { skip: process.env['KATA_TEST_LONG'] === '1' ? false : 'takes 5 to 15 minutes: set KATA_TEST_LONG=1' }, async () => {
  const host = await Host.start('qemu', { hypervisor: { default_memory: '512' } });
  try {
    await runInSequence(host);
  } finally {
    await host.stop();
  }
});
