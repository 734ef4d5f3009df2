import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { statSync } from 'node:fs';
import { test } from 'node:test';
import { withHost } from '../testing/fake-host';
import { redact } from './redact';
import { tarOf } from './tar';

test('secrets are taken out, whatever they are wrapped in', () => {
  const secrets = [
    'jaeger_password = "hunter2"', 'jaeger_user = "alice-hunter2"', '{"password":"hunter2"}', 'DB_PASSWORD=hunter2', "api-key: 'hunter2'", 'https://bob:hunter2@example.com/',
    'Authorization: Bearer hunter2hunter2', '-----BEGIN PRIVATE KEY-----\nhunter2\n-----END PRIVATE KEY-----', 'msg="token=hunter2"', '{\\"secret\\":\\"hunter2\\"}', 'AWS_SECRET_ACCESS_KEY=hunter2',
    '"encryptionKey":"hunter2"', 'io.katacontainers.config.agent.policy = "hunter2hunter2hunter2"',
  ];
  for (const text of secrets) {
    const clean = redact(`before ${text} after`);
    assert.ok(!clean.includes('hunter2'), clean);
    assert.ok(clean.startsWith('before') && clean.includes('<redacted>'), clean);
  }
  const plain = 'kernel = "/usr/share/vmlinux"\ndefault_memory = 2048\nhttps://example.com/a';
  assert.equal(redact(plain), plain);
});

test('the archive is one that tar reads, with long names', () =>
  withHost(async (fake) => {
    const long = `${'d'.repeat(90)}/${'e'.repeat(60)}/file.txt`;
    const { writeFileSync } = await import('node:fs');
    writeFileSync(fake.path('x.tar'), tarOf([{ name: 'a.txt', text: 'é' }, { name: long, text: 'x'.repeat(513) }, { name: 'empty', text: '' }], new Date()));
    assert.equal(execFileSync('tar', ['tf', fake.path('x.tar')], { encoding: 'utf8' }), `a.txt\n${long}\nempty\n`);
    assert.equal(execFileSync('tar', ['xOf', fake.path('x.tar'), 'a.txt'], { encoding: 'utf8' }), 'é');
  }));

test('collect-data works with a broken configuration and says so inside; the file is private', () =>
  withHost(async (fake) => {
    const config = fake.write('configuration.toml', '[hypervisor.qemu\njaeger_password = "hunter2"\n');
    const output = fake.path('report.tar.gz');
    assert.equal(await fake.run('--config', config, 'collect-data', '--output', output), 0, fake.stderr);
    assert.equal(fake.stdout, `${output}\n`);
    assert.equal(statSync(output).mode & 0o777, 0o600);
    const text = execFileSync('tar', ['xzOf', output], { encoding: 'utf8', maxBuffer: 64 << 20 });
    assert.match(text, /not to be had: .*configuration\.toml:1/);
    assert.equal(await fake.run('collect-data', '--output', '/nonexistent/x.tar.gz'), 1);
  }));
