/** `kata-runtime iptables get|set`: the packet filter inside a guest, in the format of iptables-save. */
import { closeSync, openSync, readSync } from 'node:fs';
import { errnoOf, KataError } from '../base/errors';
import type { Registrar } from './registrar';
import type { Session } from './session';
import { askMonitorOk, checkSandboxId } from './shim-monitor';

const MAX_FILE_BYTES = 4 * 1024 * 1024;

export interface IptablesOptions {
  readonly sandboxId: string;
  readonly v6?: boolean;
}

function pathOf(options: IptablesOptions): string {
  checkSandboxId(options.sandboxId);
  return options.v6 === true ? '/ip6tables' : '/iptables';
}

export async function runIptablesGet(session: Session, options: IptablesOptions): Promise<void> {
  const reply = await askMonitorOk(session.host.roots.monitor, options.sandboxId, { method: 'GET', path: pathOf(options) });
  const text = reply.body.toString('utf8');
  session.host.out(text.endsWith('\n') ? text : `${text}\n`);
}

/** The whole file; also a pipe, as a shell makes one of `<(iptables-save)`. Never more than the limit is read. */
function readRules(file: string): Buffer {
  if (file === '') {
    throw new KataError('InvalidArgument', 'iptables file not provided', { hint: 'name a file that iptables-save wrote' });
  }
  let fd: number;
  try {
    fd = openSync(file, 'r');
  } catch (reason) {
    if (errnoOf(reason) === 'ENOENT') {
      throw new KataError('NotFound', `iptables file does not exist: ${file}`, { hint: 'name a file that iptables-save wrote' });
    }
    throw KataError.from(reason, `read the iptables file ${file}`, { hint: 'run as a user who may read it' });
  }
  try {
    const bytes = Buffer.alloc(MAX_FILE_BYTES + 1);
    let length = 0;
    for (let got = -1; got !== 0 && length < bytes.length; length += got) {
      got = readSync(fd, bytes, length, bytes.length - length, null);
    }
    if (length > MAX_FILE_BYTES) {
      throw new KataError('InvalidArgument', `read the iptables file ${file}: it has more than the ${String(MAX_FILE_BYTES)} bytes that a guest takes`, { hint: 'name a file that iptables-save wrote' });
    }
    return bytes.subarray(0, length);
  } catch (reason) {
    throw reason instanceof KataError ? reason : KataError.from(reason, `read the iptables file ${file}`, { hint: 'name a file that iptables-save wrote' });
  } finally {
    closeSync(fd);
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
