/** Items 12 and 13 of the behaviour checklist: the `delete` verb and `-info`. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, test } from 'node:test';
import { DeleteResponse } from '../../../gen/containerd/task/v2';
import { RuntimeInfo } from '../../../gen/containerd/types/types';
import { Any } from '../../../gen/google/protobuf/any';
import { TaskClient } from '../../support/shim-driver';
import { Bundles, runVerb, type VerbResult } from './verb-harness';

let bundles: Bundles;

beforeEach(() => {
  bundles = new Bundles();
});

afterEach(() => {
  bundles.close();
});

/** Exit code 0, one DeleteResponse and nothing else on stdout, soon. */
function checkDeleted(result: VerbResult, status = 137): void {
  assert.equal(result.code, 0, result.stderr);
  const response = DeleteResponse.decode(result.stdout);
  assert.equal(response.exitStatus, status);
  assert.ok(Math.abs(Number(response.exitedAt?.seconds ?? 0n) - Date.now() / 1000) < 60);
  assert.deepEqual(Buffer.from(DeleteResponse.encode(response).finish()), result.stdout);
  assert.ok(result.tookMs < 1_000, `took ${result.tookMs.toFixed(0)} ms`);
}

test('delete of a bundle that never had a shim', async () => {
  bundles.bundle('fresh');
  checkDeleted(await bundles.delete('fresh'));
});

test('delete twice, without config.json, and without a bundle', async () => {
  const folder = bundles.bundle('poor');
  checkDeleted(await bundles.delete('poor'));
  rmSync(join(folder, 'config.json'));
  checkDeleted(await bundles.delete('poor'));
  writeFileSync(join(folder, 'config.json'), '{"cut');
  checkDeleted(await bundles.delete('poor'));
  rmSync(folder, { recursive: true });
  checkDeleted(await bundles.delete('poor'));
});

test('delete after a crash of the server removes its socket; the next start works', async () => {
  bundles.bundle('crash');
  const { merged } = await bundles.start('crash');
  process.kill(bundles.pid('crash'), 'SIGKILL');
  await bundles.servers();
  checkDeleted(await bundles.delete('crash'));
  assert.ok(!existsSync(merged.replace('unix://', '')));
  assert.equal((await bundles.start('crash')).merged, merged);
});

test('delete of one container leaves the live server of its pod alone', async () => {
  const of = (type: string): Record<string, string> => ({ 'io.kubernetes.cri.container-type': type, 'io.kubernetes.cri.sandbox-id': 'pod' });
  bundles.bundle('pod', of('sandbox'));
  bundles.bundle('app', of('container'));
  const { merged } = await bundles.start('pod');
  await bundles.start('app');
  checkDeleted(await bundles.delete('app'));
  const client = await TaskClient.connect(merged);
  assert.equal((await client.call('Connect', { id: 'pod' })).shimPid, bundles.pid('pod'));
  client.close();
});

test('ten deletes at once', async () => {
  bundles.bundle('crowd');
  await bundles.start('crowd');
  process.kill(bundles.pid('crowd'), 'SIGKILL');
  for (const result of await Promise.all(Array.from({ length: 10 }, () => bundles.delete('crowd')))) {
    assert.equal(result.code, 0, result.stderr);
    assert.equal(DeleteResponse.decode(result.stdout).exitStatus, 137);
  }
});

test('delete unmounts whatever lies on rootfs, however deep', async () => {
  const rootfs = join(bundles.bundle('mounted'), 'rootfs');
  for (let n = 0; n < 3; n++) {
    execFileSync('mount', ['-t', 'tmpfs', 'x', rootfs]);
  }
  checkDeleted(await bundles.delete('mounted'));
  assert.doesNotMatch(readFileSync('/proc/self/mountinfo', 'utf8'), new RegExp(rootfs));
});

test('delete does not follow an address that is not of our kind', async () => {
  const folder = bundles.bundle('forged');
  const victim = join(folder, 'victim');
  writeFileSync(victim, 'precious');
  writeFileSync(join(folder, 'address'), `unix://${victim}`);
  checkDeleted(await bundles.delete('forged'));
  assert.ok(existsSync(victim));
});

test('delete refuses a bad id', async () => {
  const { code, stdout, stderr } = await runVerb(['-namespace', 'n', '-id', '../../etc', 'delete'], { cwd: '/' });
  assert.deepEqual([code, stdout.length], [1, 0]);
  assert.match(stderr, /invalid container id/);
});

for (const [name, stdin] of [['nothing', undefined], ['an Any', Any.encode({ typeUrl: 'runtimeoptions.v1.Options', value: Buffer.alloc(0) }).finish()], ['garbage', Buffer.from([9, 9, 9])]] as const) {
  test(`-info with ${name} on stdin gives a RuntimeInfo`, async () => {
    const { code, stdout, stderr } = await runVerb(['-info'], { cwd: '/', ...(stdin === undefined ? {} : { stdin }) });
    assert.deepEqual([code, stderr], [0, '']);
    const info = RuntimeInfo.decode(stdout);
    assert.equal(info.name, 'io.containerd.kata.v2');
    assert.match(info.version?.version ?? '', /^\d+\.\d+/);
    assert.equal(info.features?.typeUrl, 'types.containerd.io/opencontainers/runtime-spec/1/features/Features');
    const features = JSON.parse(Buffer.from(info.features.value).toString()) as { linux: { namespaces: string[]; mountExtensions: { idmap: { enabled: boolean } } } };
    assert.ok(!features.linux.namespaces.includes('user'));
    assert.equal(features.linux.mountExtensions.idmap.enabled, false);
  });
}

test('a receipt of the shim in the bundle is the answer, byte for byte; start takes it away', async () => {
  const folder = bundles.bundle('receipt');
  const bytes = DeleteResponse.encode({ pid: 77, exitStatus: 3, exitedAt: { seconds: 1_700_000_000n, nanos: 9 } }).finish();
  writeFileSync(join(folder, 'kata-deleted'), bytes);
  assert.deepEqual((await bundles.delete('receipt')).stdout, Buffer.from(bytes));
  await bundles.start('receipt');
  assert.equal(existsSync(join(folder, 'kata-deleted')), false);
});
