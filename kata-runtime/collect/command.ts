/** `kata-runtime collect-data`: one archive for a bug report. */
import { resolve } from 'node:path';
import { gzipSync } from 'node:zlib';
import { writeFileAtomic } from '../../base/atomic-file';
import { errnoOf, KataError } from '../../base/errors';
import type { Registrar } from '../registrar';
import type { Session } from '../session';
import { gather } from './gather';
import { tarOf } from './tar';

export interface CollectOptions {
  readonly output?: string;
}

export async function runCollect(session: Session, options: CollectOptions): Promise<void> {
  const { host } = session;
  const now = host.now();
  const stamp = now.toISOString().replace(/[:.]/g, '').slice(0, 15);
  const path = resolve(options.output ?? `kata-collect-data-${stamp}.tar.gz`);
  const files = (await gather(session)).map((file) => ({ ...file, name: `kata-collect-data-${stamp}/${file.name.replace(/^\/+/, '')}` }));
  try {
    writeFileAtomic(path, gzipSync(tarOf(files, now)), 0o600);
  } catch (reason) {
    throw errnoOf(reason) === 'ENOENT' ? new KataError('NotFound', `write ${path}: its folder does not exist`, { cause: reason, hint: 'give another --output' }) : reason;
  }
  host.out(`${path}\n`);
  host.err(`kata-runtime: ${String(files.length)} files collected; passwords, tokens and keys were taken out, but look through it before you publish it\n`);
}

export const registerCollectData: Registrar = (program, run) => {
  program
    .command('collect-data')
    .description('write one archive with everything that a bug report needs; works without a cluster')
    .option('-o, --output <file>', 'where to (default: ./kata-collect-data-<time>.tar.gz)')
    .addHelpText('after', '\nIn it: versions, settings with their sources, checks, sandboxes, guest consoles, metrics, host facts, log lines of\ncontainerd about kata. Passwords, tokens and keys are taken out.')
    .action(run('collect-data', (session, options: CollectOptions) => runCollect(session, options)));
};
