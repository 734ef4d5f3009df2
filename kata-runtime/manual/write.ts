/** Writes docs/man/*.1 and docs/kata-runtime-commands.md: `npx tsx kata-runtime/manual/write.ts`. */
import { mkdirSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { realHost } from '../host';
import { makeProgram } from '../program';
import { commandsPage, manualPages } from './pages';

const DOCS = join(__dirname, '../../docs');
const quiet = { out: (): undefined => undefined, err: (): undefined => undefined };

const pages = manualPages(makeProgram(realHost(), quiet));
mkdirSync(join(DOCS, 'man'), { recursive: true });
for (const old of readdirSync(join(DOCS, 'man')).filter((name) => /^kata-(runtime|monitor).*\.1$/.test(name))) {
  rmSync(join(DOCS, 'man', old));
}
for (const page of pages) {
  writeFileSync(join(DOCS, 'man', `${page.name}.1`), page.roff);
}
writeFileSync(join(DOCS, 'kata-runtime-commands.md'), commandsPage(pages));
