/** `make bench [ONLY=...]`: measures, prints the table, writes build/bench.json. Under 10 minutes. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { memoryRows } from './memory';
import { renderTable, type Row } from './row';
import { runcAndMockRows } from './runc-and-mock';
import { startVerbRows } from './start-verb';

const OUT = join(__dirname, '../../build/bench.json');

/** Each part takes its rows and their yardsticks in one go. */
const PARTS: Readonly<Record<string, () => Promise<Row[]>>> = {
  'start-verb': startVerbRows,
  'mock-run': runcAndMockRows,
  memory: memoryRows,
};

async function main(only: readonly string[]): Promise<void> {
  const rows: Row[] = [];
  for (const [name, measure] of Object.entries(PARTS)) {
    if (only.length > 0 && !only.includes(name)) {
      continue;
    }
    const started = Date.now();
    process.stderr.write(`measuring ${name} ... `);
    rows.push(...(await measure()));
    process.stderr.write(`${String(Math.round((Date.now() - started) / 1000))} s\n`);
  }
  mkdirSync(join(OUT, '..'), { recursive: true });
  writeFileSync(OUT, `${JSON.stringify(rows, null, 2)}\n`);
  console.log(`\n${renderTable(rows)}\n\nwritten to build/bench.json`);
}

main(process.argv.slice(2)).catch((reason: unknown) => {
  console.error(reason);
  process.exitCode = 1;
});
