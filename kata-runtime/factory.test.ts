import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import type { FactoryReport } from '../factory/report';
import { statusText } from './factory';
import { makeProgram } from './program';
import { FakeHost } from './testing/fake-host';

const MIB = 1048576;
const UNIT = join(__dirname, '../deploy/systemd/kata-vm-cache.service');

const REPORT: FactoryReport = {
  kind: 'cache over template',
  cache: {
    endpoint: '/run/c.sock', wanted: 3, pid: 11, running: true, error: undefined,
    vms: [{ pid: 12, cpu: 2, memoryMiB: 512, pssBytes: 130 * MIB }, { pid: 13, cpu: 2, memoryMiB: 512, pssBytes: undefined }],
  },
  templatePath: '/t',
  templates: [
    { key: '00112233445566aa', path: '/t/00112233445566aa/vm', current: true, complete: true, createdAt: '2026-01-01T00:00:00Z', ageSeconds: 61, vcpus: 2, memoryMiB: 512, usedBytes: 213 * MIB, mounted: true, users: [{ pid: 14, pssBytes: 29 * MIB }] },
    { key: '00112233445566bb', path: '/t/00112233445566bb/vm', current: false, complete: false, createdAt: undefined, ageSeconds: undefined, vcpus: undefined, memoryMiB: undefined, usedBytes: 0, mounted: true, users: [] },
  ],
  counts: { hits: { template: 4, cache: 7 }, misses: 2, fallbacks: { 'config-mismatch': 1, 'cache-empty': 3 } },
};

test('status says everything: upstream\'s lines first', () => {
  assert.equal(statusText(REPORT), [
    'VM cache server pid = 11',
    'VM pid = 12 Cpu = 2 Memory = 512MiB Pss = 130MiB',
    'VM pid = 13 Cpu = 2 Memory = 512MiB Pss = ?',
    'VM cache: 2 of 3 in stock',
    'vm factory is on',
    'template 00112233445566aa (current): 2 Cpu 512MiB, age 61s, uses 213MiB, 1 user(s): 14 (29MiB), /t/00112233445566aa/vm',
    'template 00112233445566bb: unfinished, uses 0MiB, 0 user(s), /t/00112233445566bb/vm',
    'hits: template 4, cache 7; cache misses: 2',
    'fallbacks to a direct boot: config-mismatch 1, cache-empty 3',
    '',
  ].join('\n'));
});

test('status without a server, without a template, without a factory', () => {
  const down = statusText({ ...REPORT, cache: { endpoint: '/run/c.sock', wanted: 3, pid: undefined, vms: [], error: 'call: nobody serves', running: false }, templates: [] });
  assert.match(down, /^VM cache server: call: nobody serves\nVM cache: 0 of 3 in stock\nvm factory is off\n/);
  const none = statusText({ kind: 'none', cache: undefined, templatePath: '/t', templates: [], counts: { hits: {}, misses: 0, fallbacks: {} } });
  assert.equal(none, 'vm factory not enabled\nhits: template 0, cache 0; cache misses: 0\nfallbacks to a direct boot: none\n');
});

test('the systemd unit runs a command that there is, ends only the server, and names a manual page that there is', async () => {
  const unit = new Map([...readFileSync(UNIT, 'utf8').matchAll(/^(\w+)=(.*)$/gm)].map(([, key = '', value = '']) => [key, value]));
  const [program, ...words] = (unit.get('ExecStart') ?? '').split(' ');
  assert.match(program ?? '', /^\/.*\/kata-runtime$/);
  const fake = new FakeHost();
  let command = makeProgram(fake.host, { out: () => undefined, err: () => undefined });
  await fake.close();
  for (const word of words) {
    const next = command.commands.find((one) => one.name() === word);
    assert.ok(next !== undefined, `kata-runtime has no command ${words.join(' ')}`);
    command = next;
  }
  assert.equal(unit.get('KillMode'), 'process');
  assert.equal(unit.get('Type'), 'exec');
  const page = /^man:(\S+)\((\d)\)$/.exec(unit.get('Documentation') ?? '');
  assert.match(readFileSync(join(__dirname, '../docs/man', `${page?.[1] ?? ''}.${page?.[2] ?? ''}`), 'utf8'), /^\.TH/m);
});
