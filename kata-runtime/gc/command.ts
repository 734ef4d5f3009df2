/** `kata-runtime gc`: removes what crashes left. */
import { describeError, KataError } from '../../base/errors';
import type { Registrar } from '../registrar';
import type { Session } from '../session';
import { findLeftovers } from './leftovers';

export interface GcOptions {
  readonly dryRun?: boolean;
  readonly json?: boolean;
}

/** A broken configuration is no reason not to clean up. */
export function templatePathOf(session: Session): string {
  try {
    return session.loadConfigUnchecked().factory.templatePath;
  } catch {
    return '';
  }
}

export async function runGc(session: Session, options: GcOptions): Promise<void> {
  const { host, logger } = session;
  const dry = options.dryRun === true;
  const results: { kind: string; path: string; why: string; removed: boolean; error: string }[] = [];
  for (const leftover of await findLeftovers(host, logger, templatePathOf(session))) {
    let error = '';
    if (!dry) {
      try {
        await leftover.remove();
      } catch (reason) {
        error = describeError(reason);
      }
    }
    results.push({ kind: leftover.kind, path: leftover.path, why: leftover.why, removed: !dry && error === '', error });
    if (options.json !== true) {
      const verb = dry ? 'would remove' : error === '' ? 'removed' : 'could not remove';
      host.out(`${verb} ${leftover.kind} ${leftover.path}: ${leftover.why}${error === '' ? '' : `: ${error}`}\n`);
    }
  }
  if (options.json === true) {
    host.out(`${JSON.stringify(results, null, 2)}\n`);
  } else if (results.length === 0) {
    host.out('nothing is left over\n');
  }
  const failed = results.filter((result) => result.error !== '').length;
  if (failed > 0) {
    throw new KataError('Unknown', `gc: ${String(failed)} of ${String(results.length)} could not be removed`, { hint: host.euid === 0 ? 'see above' : 'run as root' });
  }
}

export const registerGc: Registrar = (program, run) => {
  program
    .command('gc')
    .description('remove what crashes left: sandboxes whose shim is gone, folders and mounts without a sandbox')
    .option('-n, --dry-run', 'only say what would be removed, and why')
    .option('--json', 'print the result as JSON')
    .addHelpText('after', '\nRunning sandboxes are never touched.\n\nExamples:\n  kata-runtime gc --dry-run')
    .action(run('gc', (session, options: GcOptions) => runGc(session, options)));
};
