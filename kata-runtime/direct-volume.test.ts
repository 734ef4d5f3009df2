import assert from 'node:assert/strict';
import { existsSync, readFileSync, readdirSync, statSync, writeFileSync } from 'node:fs';
import { test } from 'node:test';
import { claimVolume, fsGroupOf, parseMountInfo, readVolume } from '../virtcontainers/volume/direct-volume';
import { parseSize } from './direct-volume';
import { withHost } from './testing/fake-host';

const INFO = '{"volume-type":"block","device":"/dev/sdx","fstype":"ext4","unknown":1,"metadata":{"fsGroup":"3000"},"options":["ro"]}';

test('add keeps the caller\'s bytes in a folder named by base64url with padding; remove forgets it', () =>
  withHost(async (fake) => {
    const path = '/kubelet/pods/?>/volume';
    assert.equal(await fake.run('direct-volume', 'add', '--volume-path', path, '--mount-info', INFO), 0, fake.stderr);
    const [name = ''] = readdirSync(fake.path('volumes'));
    assert.equal(name, Buffer.from(path).toString('base64').replaceAll('+', '-').replaceAll('/', '_'));
    const file = fake.path(`volumes/${name}/mountInfo.json`);
    assert.equal(readFileSync(file, 'utf8'), INFO);
    assert.equal(statSync(file).mode & 0o777, 0o600);
    assert.equal(await fake.run('direct-volume', 'remove', '--volume-path', path), 0);
    assert.ok(!existsSync(fake.path(`volumes/${name}`)));
    assert.equal(await fake.run('direct-volume', 'remove', '--volume-path', path), 0, 'twice is fine');
  }));

test('add refuses what is no mount info, and leaves no folder behind', () =>
  withHost(async (fake) => {
    for (const info of ['', 'x', '[]', '{"device":1}', '{"options":"ro"}', '{"metadata":{"a":1}}', '{"options":[1]}']) {
      assert.equal(await fake.run('direct-volume', 'add', '--volume-path', '/v', '--mount-info', info), 1, info);
    }
    assert.ok(!existsSync(fake.path('volumes')));
    assert.equal(await fake.run('direct-volume', 'add', '--volume-path', 'x'.repeat(300), '--mount-info', INFO), 1);
    assert.equal(await fake.run('direct-volume', 'add', '--volume-path', '', '--mount-info', INFO), 1);
  }));

test('a file where the folder should be is named', () =>
  withHost(async (fake) => {
    fake.write(`volumes/${Buffer.from('/v').toString('base64')}`, '');
    assert.equal(await fake.run('direct-volume', 'add', '--volume-path', '/v', '--mount-info', INFO), 1);
    assert.match(fake.stderr, /should be a directory/);
  }));

test('stats and resize ask the shim of the sandbox that uses the volume, for its device', () =>
  withHost(async (fake) => {
    const seen: string[] = [];
    await fake.monitor('sandbox1', (request, response) => {
      let body = '';
      request.on('data', (part: Buffer) => {
        body += part.toString();
      });
      request.on('end', () => {
        seen.push(`${request.method ?? ''} ${request.url ?? ''} ${body}`);
        response.end('{"usage":[]}');
      });
    });
    assert.equal(await fake.run('direct-volume', 'add', '--volume-path', '/v', '--mount-info', INFO), 0);
    assert.equal(await fake.run('direct-volume', 'stats', '--volume-path', '/v'), 1);
    assert.match(fake.stderr, /no sandbox found for \/v/);
    claimVolume(fake.host.roots.directVolumes, '/v', 'old-one');
    claimVolume(fake.host.roots.directVolumes, '/v', 'sandbox1');
    assert.deepEqual(readVolume(fake.host.roots.directVolumes, '/v').sandboxes, ['sandbox1']);
    assert.equal(await fake.run('direct-volume', 'stats', '--volume-path', '/v'), 0, fake.stderr);
    assert.equal(fake.stdout, '{"usage":[]}\n');
    assert.equal(await fake.run('direct-volume', 'resize', '--volume-path', '/v', '--size', '9007199254740993'), 0, fake.stderr);
    assert.deepEqual(seen, ['GET /direct-volume/stats?path=%2Fdev%2Fsdx ', 'POST /direct-volume/resize {"VolumePath":"/dev/sdx","Size":9007199254740993}']);
  }));

test('a broken mountInfo.json on disk is named', () =>
  withHost(async (fake) => {
    await fake.run('direct-volume', 'add', '--volume-path', '/v', '--mount-info', INFO);
    writeFileSync(fake.path(`volumes/${Buffer.from('/v').toString('base64')}/mountInfo.json`), '{');
    assert.equal(await fake.run('direct-volume', 'stats', '--volume-path', '/v'), 1);
    assert.match(fake.stderr, /mountInfo\.json: not JSON/);
  }));

test('sizes are whole numbers of bytes within 63 bits', () => {
  assert.equal(parseSize('9223372036854775807'), 9223372036854775807n);
  for (const text of ['', '0', '-1', '1k', '1.5', '9223372036854775808', '0x10']) {
    assert.throws(() => parseSize(text), /wanted a number of bytes/, text);
  }
});

test('fsGroup: a number, and the policy only with it', () => {
  const info = (metadata: string): ReturnType<typeof parseMountInfo> => parseMountInfo(`{"metadata":${metadata}}`, 'x');
  assert.deepEqual(fsGroupOf(info('{"fsGroup":"5","fsGroupChangePolicy":"OnRootMismatch"}')), { groupId: 5, changePolicy: 'on-root-mismatch' });
  assert.equal(fsGroupOf(info('{"fsGroupChangePolicy":"Always"}')), undefined);
  assert.throws(() => fsGroupOf(info('{"fsGroup":"x"}')), /no group id/);
});
