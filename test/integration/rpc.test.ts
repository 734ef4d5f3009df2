/** RPCs that ctr does not send, or not in this order: the shim is driven directly, with a virtual machine each time. */
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import type { OciSpec } from '../../base/oci-spec';
import { Status } from '../../gen/containerd/types/process';
import { FactoryMode } from '../support/factory-mode';
import { configText } from '../support/host';
import { leftOf } from '../support/leaks';
import { busyboxRootfs, defaultSpec, ShimDriver, TaskClient } from '../support/shim-driver';
import { endAll } from '../support/suite';

const WAIT_MS = 60_000;
const HYPERVISOR = process.env['KATA_TEST_HYPERVISOR'] === 'mock' ? 'mock' : 'qemu';
const mode = HYPERVISOR === 'qemu' ? FactoryMode.fromEnv() : undefined;
let scratch: string;
let config: string;

before(async () => {
  scratch = mkdtempSync(join(tmpdir(), 'kata-ts-rpc-'));
  config = join(scratch, 'configuration.toml');
  const factory = mode === undefined ? {} : { factory: mode.keys };
  writeFileSync(config, configText(HYPERVISOR, HYPERVISOR === 'qemu' ? { hypervisor: { default_memory: '512' }, ...factory } : {}));
  await mode?.begin(config);
  busyboxRootfs(join(scratch, 'rootfs'));
});

after(async () => {
  await endAll(() => mode?.end(config, ''), () => rmSync(scratch, { recursive: true, force: true }));
});

type Change = (spec: OciSpec) => OciSpec | string | undefined;

/** A shim whose `start` ran with this command in its bundle; afterwards nothing of it may be left. */
async function withShim(name: string, args: readonly string[], work: (shim: ShimDriver) => Promise<void>, change: Change = (spec) => spec): Promise<void> {
  const id = `${name}-${String(process.pid)}`;
  const shim = new ShimDriver(id, scratch, { config });
  await mode?.ready();
  try {
    await shim.start(change(defaultSpec(args, join(scratch, 'rootfs'))));
    await work(shim);
  } finally {
    await shim.end();
  }
  assert.deepEqual(await leftOf([id, shim.address.replace('unix://', '') || id]), []);
}

const withCode = (code: string) => (error: unknown): boolean => error instanceof Error && 'code' in error && error.code === code;

/** Waits until `text` is as wanted, at most 20 s: guests without KVM take their time. */
async function until(text: () => string, wanted: RegExp): Promise<void> {
  for (const end = Date.now() + 20_000; !wanted.test(text()); ) {
    assert.ok(Date.now() < end, `${String(wanted)} did not come: ${JSON.stringify(text())}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

test('a task killed before its start ends with 137 for all who wait, and is deleted', async () => {
  await withShim('early', ['sleep', '1000'], async (shim) => {
    await shim.create();
    const { id, client } = shim;
    assert.equal((await client.call('State', { id })).status, Status.CREATED);
    const waiting = client.call('Wait', { id }, WAIT_MS);
    await client.call('Kill', { id, signal: 9 });
    assert.equal((await waiting).exitStatus, 137);
    assert.equal((await client.call('State', { id })).status, Status.STOPPED);
    await assert.rejects(client.call('Start', { id }));
    const deleted = await client.call('Delete', { id });
    assert.equal(deleted.exitStatus, 137);
    assert.notEqual(deleted.exitedAt, undefined);
    await assert.rejects(client.call('State', { id }), withCode('NotFound'));
  });
});

test('every waiter gets the same end, those that come after it too', async () => {
  await withShim('waiters', ['sh', '-c', 'read line; exit 23'], async (shim) => {
    const stdin = shim.input('init');
    await shim.create({ stdin: stdin.path });
    await shim.startTask();
    const { id, client } = shim;
    const other = await TaskClient.connect(shim.address);
    const waiting = [client.call('Wait', { id }, WAIT_MS), client.call('Wait', { id }, WAIT_MS), other.call('Wait', { id }, WAIT_MS)];
    const gone = await TaskClient.connect(shim.address);
    const abandoned = assert.rejects(gone.call('Wait', { id }, WAIT_MS));
    gone.close();
    await abandoned;
    await stdin.write('go\n');
    const ends = await Promise.all(waiting);
    const late = await other.call('Wait', { id }, WAIT_MS);
    for (const end of [...ends, late]) {
      assert.equal(end.exitStatus, 23);
      assert.deepEqual(end.exitedAt, late.exitedAt);
    }
    stdin.close();
    other.close();
  });
});

test('a second Create of the same id is refused as existing, during the first and after it', async () => {
  await withShim('twice', ['sleep', '1000'], async (shim) => {
    const first = shim.create();
    await assert.rejects(shim.create(), withCode('AlreadyExists'));
    await first;
    await assert.rejects(shim.create(), withCode('AlreadyExists'));
    await shim.startTask();
    assert.equal((await shim.run('echo still here')).stdout, 'still here\n');
    await shim.addExec('same', ['true']);
    await assert.rejects(shim.addExec('same', ['true']), withCode('AlreadyExists'));
  });
});

test('a running task and a running exec are not deleted; they run on', async () => {
  await withShim('busy', ['sleep', '1000'], async (shim) => {
    await shim.create();
    await shim.startTask();
    const { id, client } = shim;
    await shim.addExec('work', ['sleep', '1000']);
    await shim.startTask('work');
    await assert.rejects(client.call('Delete', { id }), withCode('FailedPrecondition'));
    await assert.rejects(client.call('Delete', { id, execId: 'work' }), withCode('FailedPrecondition'));
    assert.equal((await client.call('State', { id })).status, Status.RUNNING);
    assert.equal((await client.call('State', { id, execId: 'work' })).status, Status.RUNNING);
    await client.call('Shutdown', { id });
    assert.equal((await shim.run('echo on')).stdout, 'on\n');
  });
});

test('State, Pids, Connect, Kill and Wait are answered at once while Create runs', async () => {
  await withShim('during', ['sleep', '1000'], async (shim) => {
    const { id, client } = shim;
    let created = false;
    const creating = shim.create().then(() => {
      created = true;
    });
    const connected = await client.call('Connect', { id }, 5000);
    await assert.rejects(client.call('State', { id }, 5000), withCode('NotFound'));
    await assert.rejects(client.call('Pids', { id }, 5000), withCode('NotFound'));
    await assert.rejects(client.call('Kill', { id, signal: 9 }, 5000), withCode('NotFound'));
    await assert.rejects(client.call('Wait', { id }, 5000), withCode('NotFound'));
    assert.equal(created, false);
    await creating;
    const after = await client.call('Connect', { id });
    assert.equal(after.shimPid, connected.shimPid);
    assert.ok(after.taskPid > 0);
    const { processes } = await client.call('Pids', { id });
    assert.deepEqual(processes.map(({ pid }) => pid), [after.taskPid]);
  });
});

test('Checkpoint is unimplemented and says so', async () => {
  await withShim('checkpoint', ['sleep', '1000'], async (shim) => {
    await shim.create();
    await assert.rejects(shim.client.call('Checkpoint', { id: shim.id, path: scratch }), (error) => withCode('Unimplemented')(error) && /checkpoint/.test(String(error)));
  });
});

test('a window size set before Start is the size of the console', async () => {
  await withShim(
    'resize',
    ['sh', '-c', 'stty size; read line; stty size; read line'],
    async (shim) => {
      const [out, stdin] = [shim.output('init'), shim.input('init')];
      const { id, client } = shim;
      await shim.create({ stdin: stdin.path, stdout: out.path, terminal: true });
      await client.call('ResizePty', { id, width: 101, height: 33 });
      await shim.startTask();
      await out.firstByte;
      await until(() => out.text, /33 101\r\n/);
      await client.call('ResizePty', { id, width: 60, height: 20 });
      await stdin.write('more\n');
      await until(() => out.text, /20 60\r\n/);
      await stdin.write('end\n');
      assert.equal((await client.call('Wait', { id }, WAIT_MS)).exitStatus, 0);
      await client.call('ResizePty', { id, width: 1, height: 1 });
      out.close();
      stdin.close();
    },
    (spec) => ({ ...spec, process: { ...spec.process, terminal: true } }),
  );
});

test('CloseIO ends stdin behind all its data; a second one and one after the end do no harm', async () => {
  await withShim('closeio', ['sh', '-c', 'cat | wc -c; exit 4'], async (shim) => {
    const [out, stdin] = [shim.output('init'), shim.input('init')];
    const { id, client } = shim;
    await shim.create({ stdin: stdin.path, stdout: out.path });
    await shim.startTask();
    await stdin.write(Buffer.alloc(2_000_000, 'x'));
    stdin.close();
    await client.call('CloseIO', { id, stdin: true });
    await client.call('CloseIO', { id, stdin: true });
    assert.equal((await client.call('Wait', { id }, WAIT_MS)).exitStatus, 4);
    await out.ended;
    assert.equal(out.text.trim(), '2000000');
    await client.call('CloseIO', { id, stdin: true });
    out.close();
  });
});

test('a writer of stdin that goes away without CloseIO is no end for the process', async () => {
  await withShim('detach', ['sh', '-c', 'cat; echo end'], async (shim) => {
    const [out, stdin] = [shim.output('init'), shim.input('init')];
    const { id, client } = shim;
    await shim.create({ stdin: stdin.path, stdout: out.path });
    await shim.startTask();
    await stdin.write('first\n');
    await out.firstByte;
    stdin.close();
    await new Promise((resolve) => setTimeout(resolve, 500));
    assert.equal((await client.call('State', { id })).status, Status.RUNNING);
    assert.equal(out.text, 'first\n');
    writeFileSync(stdin.path, 'second, by another writer\n');
    await until(() => out.text, /^first\nsecond, by another writer\n$/);
    await client.call('CloseIO', { id, stdin: true });
    assert.equal((await client.call('Wait', { id }, WAIT_MS)).exitStatus, 0);
    await out.ended;
    assert.equal(out.text, 'first\nsecond, by another writer\nend\n');
    out.close();
  });
});

/** One error, whether `start` or `Create` gives it. */
async function refusal(name: string, change: Change): Promise<string> {
  let text = '';
  await withShim(
    name,
    ['true'],
    async (shim) => {
      await assert.rejects(shim.create(), (error) => {
        text = String(error);
        return true;
      });
    },
    change,
  ).catch((error: unknown) => {
    if (text !== '' || !/start ended with/.test(String(error))) {
      throw error;
    }
    text = String(error);
  });
  return text;
}

test('a missing config.json is named', async () => {
  assert.match(await refusal('noconfig', () => undefined), /config\.json.*(does not exist|no such file)/is);
});

test('a config.json that is cut off is named with what is wrong in it', async () => {
  assert.match(await refusal('cutconfig', (spec) => JSON.stringify(spec).slice(0, 1000)), /config\.json.*not valid JSON.*written whole/is);
});

test('a config.json of 20 MB is refused with its size and the limit', async () => {
  const text = await refusal('bigconfig', (spec) => JSON.stringify({ ...spec, annotations: { filler: 'x'.repeat(20_000_000) } }));
  assert.match(text, /config\.json.*200\d{5} bytes.*more than 16777216/is);
});

test('a root file system that is not there is named', async () => {
  assert.match(await refusal('norootfs', (spec) => ({ ...spec, root: { path: '/no/such/rootfs' } })), /\/no\/such\/rootfs/);
});
