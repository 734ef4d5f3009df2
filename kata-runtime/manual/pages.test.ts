import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { FakeHost } from '../testing/fake-host';
import { makeProgram } from '../program';
import { commandsPage, manualPages } from './pages';

const DOCS = join(__dirname, '../../docs');

test('the manual pages say what the commands say: write.ts has been run', async () => {
  const fake = new FakeHost();
  const pages = manualPages(makeProgram(fake.host, { out: () => undefined, err: () => undefined }));
  await fake.close();
  for (const page of pages) {
    assert.equal(readFileSync(join(DOCS, 'man', `${page.name}.1`), 'utf8'), page.roff, `${page.name}: run npx tsx kata-runtime/manual/write.ts`);
  }
  assert.equal(readFileSync(join(DOCS, 'kata-runtime-commands.md'), 'utf8'), commandsPage(pages));
  for (const name of ['kata-runtime', 'kata-runtime-check', 'kata-runtime-iptables-set', 'kata-runtime-direct-volume-resize', 'kata-monitor']) {
    assert.ok(pages.some((page) => page.name === name), name);
  }
});
