/** `kata-runtime iptables get|set`: the packet filter inside a guest, in the format of iptables-save. */
import { readFileSync, statSync } from 'node:fs';
import { errnoOf, KataError } from '../base/errors';
import { checkId } from '../base/ids';
import type { Registrar } from './registrar';
import type { Session } from './session';
import { askMonitorOk } from './shim-monitor';

const MAX_FILE_BYTES = 4 * 1024 * 1024;

export interface IptablesOptions {
  readonly sandboxId: string;
  readonly v6?: boolean;
}

function pathOf(options: IptablesOptions): string {
  checkId(options.sandboxId, 'container/sandbox');
  return options.v6 === true ? '/ip6tables' : '/iptables';
}

export async function runIptablesGet(session: Session, options: IptablesOptions): Promise<void> {
  const reply = await askMonitorOk(session.host.roots.monitor, options.sandboxId, { method: 'GET', path: pathOf(options) });
  const text = reply.body.toString('utf8');
  session.host.out(text.endsWith('\n') ? text : `${text}\n`);
}

function readRules(file: string): Buffer {
  if (file === '') {
    throw new KataError('InvalidArgument', 'iptables file not provided', { hint: 'name a file that iptables-save wrote' });
  }
  try {
    const info = statSync(file);
    if (info.isFile() && info.size > MAX_FILE_BYTES) {
      throw new KataError('InvalidArgument', `read ${file}: ${String(info.size)} bytes are more than the ${String(MAX_FILE_BYTES)} of a rule file`);
    }
    return readFileSync(file);
  } catch (reason) {
    if (reason instanceof KataError) {
      throw reason;
    }
    throw KataError.from(reason, errnoOf(reason) === 'ENOENT' ? `iptables file does not exist: ${file}` : `read the iptables file ${file}`);
  }
}

export async function runIptablesSet(session: Session, file: string | undefined, options: IptablesOptions): Promise<void> {
  const path = pathOf(options);
  const body = readRules(file ?? '');
  try {
    await askMonitorOk(session.host.roots.monitor, options.sandboxId, { method: 'PUT', path, body, contentType: 'application/octet-stream' });
  } catch (reason) {
    throw KataError.from(reason, `Error observed when making iptables-set request(${file ?? ''})`);
  }
}

export const registerIptables: Registrar = (program, run) => {
  const group = program.command('iptables').description('get or set iptables within the guest');
  const option = ['--sandbox-id <id>', 'the sandbox whose guest is meant'] as const;
  group
    .command('get')
    .description('get iptables from the guest')
    .requiredOption(...option)
    .option('--v6', 'IPv6 instead of IPv4')
    .addHelpText('after', '\nExamples:\n  kata-runtime iptables get --sandbox-id 5f1d... > rules')
    .action(run('iptables', (session, options: IptablesOptions) => runIptablesGet(session, options)));
  group
    .command('set')
    .description('set iptables in the guest: the rules of <file> replace what is there')
    .argument('[file]', 'rules as iptables-save writes them')
    .requiredOption(...option)
    .option('--v6', 'IPv6 instead of IPv4')
    .addHelpText('after', '\nExamples:\n  kata-runtime iptables set --sandbox-id 5f1d... ./rules')
    .action(run('iptables', (session, file: string | undefined, options: IptablesOptions) => runIptablesSet(session, file, options)));
};
