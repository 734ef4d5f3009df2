import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { describeError, isCode } from '../../base/errors';
import { parseSpec, readBundle } from './bundle';
import { callerHints, DEFAULT_SHM_BYTES, dnsLinesOf, hostnameOf, netnsPathOf, shmSizeOf } from './guest-view';
import { parseExactJson } from './json';

const MINIMAL = { ociVersion: '1.0.2', process: { args: ['sh'], cwd: '/' }, root: { path: 'rootfs' }, linux: {} };

async function withFolder(run: (folder: string) => Promise<void>): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), 'kata-ts-'));
  try {
    await run(folder);
  } finally {
    rmSync(folder, { recursive: true });
  }
}

const refuses = (text: unknown, pattern: RegExp): void =>
  assert.throws(
    () => parseSpec(typeof text === 'string' ? text : JSON.stringify(text), '/b/config.json'),
    (error) => isCode(error, 'InvalidArgument') && describeError(error).includes('/b/config.json') && pattern.test(describeError(error)),
  );

test('integers beyond 2^53 stay exact, all others stay numbers, strings are never touched', () => {
  const text = '{"limit":9223372036854771712,"swap":-9223372036854775808,"a":-1,"b":1000000000000000,"f":1.2345678901234567890,"e":1e300,"s":"9223372036854771712 \\"9223372036854771712","list":[18446744073709551615]}';
  assert.deepEqual(parseExactJson(text), {
    limit: 9223372036854771712n,
    swap: -9223372036854775808n,
    a: -1,
    b: 1000000000000000,
    f: 1.2345678901234567,
    e: 1e300,
    s: '9223372036854771712 "9223372036854771712',
    list: [18446744073709551615n],
  });
  assert.deepEqual(parseExactJson('{"a":12345678901234567}'), { a: 12345678901234567n });
  assert.deepEqual(parseExactJson('[9007199254740991,"\\u0023int:9223372036854771712",9007199254740993]'), [9007199254740991, '#int:9223372036854771712', 9007199254740993n]);
  assert.throws(() => parseExactJson('{"a":12345678901234567'), SyntaxError);
});

test('a bundle is read, with what Go writes as null taken as absent', () =>
  withFolder(async (folder) => {
    const spec = { ...MINIMAL, mounts: null, hostname: 'box', linux: { resources: { memory: { limit: -1 } }, seccomp: null, namespaces: [{ type: 'network', path: '/run/netns/x' }] }, unknown: { kept: true } };
    writeFileSync(join(folder, 'config.json'), JSON.stringify(spec));
    const bundle = await readBundle(folder);
    assert.equal(bundle.path, folder);
    assert.equal(bundle.spec.linux?.resources?.memory?.limit, -1);
    assert.equal(bundle.spec.mounts, undefined);
    assert.equal(hostnameOf(bundle.spec), 'box');
    assert.equal(netnsPathOf(bundle.spec), '/run/netns/x');
    assert.deepEqual((bundle.spec as { unknown?: unknown }).unknown, { kept: true });
  }));

test('a missing, empty, folder-like or oversized config.json is named', () =>
  withFolder(async (folder) => {
    const file = join(folder, 'config.json');
    await assert.rejects(readBundle(folder), (error) => isCode(error, 'NotFound') && describeError(error).includes(`file ${file} does not exist`));
    writeFileSync(file, '');
    await assert.rejects(readBundle(folder), /it is empty/);
    truncateSync(file, 16 * 1024 * 1024 + 1);
    await assert.rejects(readBundle(folder), /16777217 bytes, more than 16777216/);
    rmSync(file);
    mkdirSync(file);
    await assert.rejects(readBundle(folder), (error) => isCode(error, 'InvalidArgument'));
  }));

test('a truncated config.json fails at every length', () => {
  const text = JSON.stringify(MINIMAL);
  for (let length = 0; length < text.length; length++) {
    refuses(text.slice(0, length), /not valid JSON/);
  }
  assert.ok(parseSpec(text, '/b/config.json').process);
});

test('what is needed must be there, and what is there must be of its type', () => {
  refuses('[]', /the document is a list, wanted an object/);
  refuses('null', /the document is null, wanted an object/);
  refuses({ ...MINIMAL, process: undefined }, /process is missing/);
  refuses({ ...MINIMAL, process: null }, /process is missing/);
  refuses({ ...MINIMAL, root: undefined }, /root.path is missing/);
  refuses({ ...MINIMAL, root: {} }, /root.path is missing/);
  refuses({ ...MINIMAL, process: { args: ['a', 1] } }, /process.args\[1\] is the number 1, wanted a string/);
  refuses({ ...MINIMAL, process: { args: ['a\0b'] } }, /process.args\[0\]/);
  refuses({ ...MINIMAL, mounts: [{ source: 'x' }] }, /mounts\[0\].destination is missing/);
  refuses({ ...MINIMAL, annotations: { a: 1 } }, /annotations\["a"\] is the number 1/);
  refuses({ ...MINIMAL, linux: { resources: { cpu: { quota: 1.5 } } } }, /linux.resources.cpu.quota is the number 1.5, wanted an integer/);
  refuses({ ...MINIMAL, linux: { resources: [] } }, /linux.resources is a list/);
});

test('linux and resources are there afterwards; a legacy list of capabilities stands for all sets', () => {
  const spec = parseSpec(JSON.stringify({ ...MINIMAL, linux: undefined, process: { args: ['a'], capabilities: ['CAP_KILL'] } }), 'f');
  assert.deepEqual(spec.linux, { resources: {} });
  assert.deepEqual(spec.process?.capabilities, { bounding: ['CAP_KILL'], effective: ['CAP_KILL'], inheritable: ['CAP_KILL'], permitted: ['CAP_KILL'], ambient: ['CAP_KILL'] });
});

test('name servers come from the mounted resolv.conf, bounded', () =>
  withFolder(async (folder) => {
    const file = join(folder, 'resolv.conf');
    const mounted = (source: string) => ({ mounts: [{ destination: '/etc/resolv.conf', source }] });
    writeFileSync(file, 'nameserver 10.0.0.1\n\n# c\noptions ndots:5\r\n');
    assert.deepEqual(await dnsLinesOf(mounted(file)), ['nameserver 10.0.0.1', '# c', 'options ndots:5']);
    assert.deepEqual(await dnsLinesOf({}), []);
    assert.deepEqual(await dnsLinesOf(mounted(folder)), []);
    await assert.rejects(dnsLinesOf(mounted(join(folder, 'gone'))), (error) => isCode(error, 'NotFound'));
    writeFileSync(file, `${'#'.repeat(50_000)}\n${'x'.repeat(50_000)}\n`);
    assert.deepEqual(await dnsLinesOf(mounted(file)), ['#'.repeat(50_000)]);
  }));

test('shm: none without a mount, the default for a tmpfs, the size of a bound source', () =>
  withFolder(async (folder) => {
    const shm = (mount: object) => shmSizeOf({ mounts: [{ destination: '/dev/shm', ...mount }] });
    assert.equal(await shmSizeOf({}), 0);
    assert.equal(await shm({ type: 'tmpfs', source: 'shm' }), DEFAULT_SHM_BYTES);
    assert.equal(await shm({ type: 'bind', source: '/dev/shm' }), DEFAULT_SHM_BYTES);
    assert.ok((await shm({ type: 'none', options: ['rbind'], source: folder })) > 0);
    await assert.rejects(shm({ type: 'bind', source: join(folder, 'gone') }), (error) => isCode(error, 'NotFound'));
  }));

test('callers are told by their annotations and hooks', () => {
  const id = 'ab'.repeat(32);
  const docker = { hooks: { prestart: [{ path: '/proc/1/exe', args: ['libnetwork-setkey', '-exec-root=/var/run/docker', id, 'short'] }] } };
  assert.deepEqual(callerHints(docker), { podName: '', podNamespace: '', docker: true, dockerNetns: id });
  assert.equal(callerHints({ hooks: { createRuntime: [{ path: 'x', args: ['libnetwork-setkey', id] }] } }).dockerNetns, id);
  assert.deepEqual(callerHints({ annotations: { 'io.kubernetes.cri-o.KubeName': 'p', 'io.kubernetes.cri.sandbox-namespace': 'n' } }), { podName: 'p', podNamespace: 'n', docker: false, dockerNetns: '' });
});
