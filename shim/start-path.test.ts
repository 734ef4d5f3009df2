import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { KataError } from '../base/errors';
import { BootstrapParams } from '../gen/containerd/bootstrap/bootstrap';
import { Any } from '../gen/google/protobuf/any';
import { claimSocket, isListening, socketPath } from './address';
import { parseArgs } from './args';
import { parseStartInput } from './bootstrap';
import { sha256Hex } from './sha256';

test('sha256Hex agrees with the library for every length around the block size', () => {
  for (let length = 0; length < 200; length++) {
    const text = 'ä/x'.repeat(length).slice(0, length);
    assert.equal(sha256Hex(text), createHash('sha256').update(text).digest('hex'), String(length));
  }
});

test('the socket path is upstream\'s digest; empty parts are left out', () => {
  const digest = (text: string): string => createHash('sha256').update(text).digest('hex');
  assert.equal(socketPath('/run/containerd/containerd.sock', 'k8s.io', 'abc'), `/run/containerd/s/${digest('/run/containerd/containerd.sock/k8s.io/abc')}`);
  assert.equal(socketPath('', 'default', 'abc'), `/run/containerd/s/${digest('default/abc')}`);
  assert.throws(() => socketPath('', 'n', 'i', `/${'x'.repeat(60)}`), KataError);
});

test('arguments: switches, values, empty values, unknown flags, a missing value', () => {
  const args = parseArgs(['-namespace', 'ns', '-address', '', '--publish-binary=x', '-debug', '-new', '-id', 'i1', '-new-value', 'v', 'start', '-v']);
  assert.deepEqual(
    [args.action, args.namespace, args.address, args.publishBinary, args.debug, args.id, args.version, args.unknown],
    ['start', 'ns', '', 'x', true, 'i1', false, ['new', 'new-value']],
  );
  assert.equal(parseArgs(['-debug=false', 'delete']).debug, false);
  assert.equal(parseArgs([]).action, '');
  assert.throws(() => parseArgs(['-id']), /flag needs an argument: -id/);
});

test('standard input: BootstrapParams only with the id and namespace of the command line', () => {
  const params = BootstrapParams.encode(BootstrapParams.fromPartial({ instanceId: 'a', namespace: 'n', socketDir: '/s' })).finish();
  const input = parseStartInput(params, 'a', 'n');
  assert.ok(input.kind === 'bootstrap' && input.params.socketDir === '/s');
  assert.equal(parseStartInput(params, 'b', 'n').kind, 'options');
  const any = Any.encode({ typeUrl: 'a', value: Buffer.from('m') }).finish();
  assert.equal(parseStartInput(any, 'a', 'n').kind, 'options');
  assert.equal(parseStartInput(Buffer.from([1, 2, 3, 255]), 'a', 'n').kind, 'none');
  assert.equal(parseStartInput(new Uint8Array(0), 'a', 'n').kind, 'none');
});

test('a socket place is claimed once, kept from others while its server lives, and free afterwards', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'kata-ts-claim-'));
  try {
    const path = join(folder, 'place');
    const first = createServer();
    assert.equal((await claimSocket(first, path, folder)).outcome, 'claimed');
    assert.ok(await isListening(path));
    const second = createServer();
    assert.equal((await claimSocket(second, path, folder)).outcome, 'taken');
    second.close();
    assert.ok(await isListening(path), 'the loser takes nothing away');
    await new Promise((resolve) => first.close(resolve));
    assert.equal(await isListening(path), false);
    writeFileSync(join(folder, 'no-socket'), '');
    assert.equal(await isListening(join(folder, 'no-socket')), false);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});
