/** `make bench [ONLY="cold exec"]`: measures, prints the table, writes build/bench.json. Under 10 minutes. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { cpus, loadavg } from 'node:os';
import { join } from 'node:path';
import { coldRows } from './cold';
import { execRows } from './exec';
import { factoryRows } from './factory';
import { memoryRows } from './memory';
import { renderTable, type Row } from './row';
import { runcAndMockRows } from './runc-and-mock';
import { scrapeRows } from './scrape';
import { startVerbRows } from './start-verb';
import { stdoutRows } from './stdout';

const OUT = join(__dirname, '../../build/bench.json');

/** Each part takes its rows and their yardsticks in one go. */
const PARTS: Readonly<Record<string, () => Promise<Row[]>>> = {
  'start-verb': startVerbRows,
  cold: coldRows,
  factory: factoryRows,
  exec: execRows,
  stdout: stdoutRows,
  'mock-run': runcAndMockRows,
  memory: memoryRows,
  scrape: scrapeRows,
};

/** Load average of the last minute: a busy machine's absolute figures say little, its ratios still do. */
function load(): string {
  return `load ${(loadavg()[0] ?? 0).toFixed(1)}`;
}

async function main(only: readonly string[]): Promise<void> {
  const unknown = only.filter((name) => PARTS[name] === undefined);
  if (unknown.length > 0) {
    throw new Error(`no part ${unknown.join(', ')}; there are ${Object.keys(PARTS).join(', ')}`);
  }
  const rows: Row[] = [];
  for (const [name, measure] of Object.entries(PARTS)) {
    if (only.length > 0 && !only.includes(name)) {
      continue;
    }
    const started = Date.now();
    process.stderr.write(`measuring ${name} (${load()}) ... `);
    try {
      rows.push(...(await measure()));
      process.stderr.write(`${String(Math.round((Date.now() - started) / 1000))} s\n`);
    } catch (reason) {
      // What the other parts measure is worth having.
      process.stderr.write(`failed\n`);
      console.error(reason);
      process.exitCode = 1;
    }
  }
  mkdirSync(join(OUT, '..'), { recursive: true });
  writeFileSync(OUT, `${JSON.stringify(rows, null, 2)}\n`);
  console.log(`\n${renderTable(rows)}\n\n${String(cpus().length)} CPUs, ${load()}; written to build/bench.json`);
}

main([...process.argv.slice(2), ...(process.env['ONLY'] ?? '').split(/[\s,]+/).filter(Boolean)]).catch((reason: unknown) => {
  console.error(reason);
  process.exitCode = 1;
});
