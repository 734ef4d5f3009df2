/** The Node.js program as it goes into the guest: without symbols and without languages, tried before it is taken. */
import { spawnSync } from 'node:child_process';
import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { dropUnloaded } from './elf';
import { dropLanguages } from './icu';

/** Touches what the agent uses of Node.js, and what depends on language data. */
const TRIAL = `
for (const name of ['net', 'child_process', 'crypto', 'fs', 'http', 'zlib', 'v8', 'worker_threads']) require(name);
const good = [new TextDecoder('utf-8').decode(Buffer.from('\u00e9')) === '\u00e9', '\u00e9'.normalize('NFD').length === 2, new URL('http://\u00fc.de/').host === 'xn--tda.de',
  (12345.6).toLocaleString() === '12,345.6', new Date(0).toLocaleString('en', { timeZone: 'UTC' }).startsWith('1/1/1970'), 'a'.localeCompare('b') < 0, 'I'.toLowerCase() === 'i'];
process.stdout.write(good.every(Boolean) ? 'good' : JSON.stringify(good));
`;

/**
 * Reads `path` and makes it smaller. The result has run a trial on this machine (written to `scratch` for that); where
 * it fails the program goes in with its languages, and `progress` says so.
 */
export function nodeForGuest(path: string, scratch: string, progress: (text: string) => void): Buffer {
  const plain = dropUnloaded(readFileSync(path), path);
  const small = dropLanguages(plain, path);
  if (small === undefined) {
    progress('Node.js keeps its language data: it lies in another way than expected (about 28 MiB more)');
    return plain;
  }
  writeFileSync(scratch, small, { mode: 0o755 });
  try {
    const done = spawnSync(scratch, ['-e', TRIAL], { encoding: 'utf8', env: {}, timeout: 30_000 });
    if (done.status === 0 && done.stdout === 'good') {
      return small;
    }
    progress(`Node.js keeps its language data: without it the trial gave ${done.stdout}${done.stderr.slice(0, 200)} (about 28 MiB more)`);
    return plain;
  } finally {
    rmSync(scratch, { force: true });
  }
}
