/** `kata-runtime exec <sandbox-id>`: the guest's debug console on this terminal. */
import { timeoutSignal } from '../../base/deadline';
import { describeError, KataError } from '../../base/errors';
import type { Registrar } from '../registrar';
import type { Session } from '../session';
import { askMonitorOk } from '../shim-monitor';
import { consoleEndpoint, DEFAULT_DEBUG_PORT } from './console-address';
import { attach, type Terminal } from './attach';

const DIAL_TIMEOUT_MS = 3_000;

export function parsePort(text: string | undefined): number {
  const port = text === undefined || text === '' ? 0 : /^\d{1,10}$/.test(text) ? Number(text) : -1;
  if (port < 0 || port > 0xffff_ffff) {
    throw new KataError('InvalidArgument', `parse --kata-debug-port ${JSON.stringify(text)}: wanted a port of vsock, 1 to 4294967295`);
  }
  return port === 0 ? DEFAULT_DEBUG_PORT : port;
}

/** Ends with the console. */
export async function runExec(session: Session, sandboxId: string, portText: string | undefined, terminal: Terminal): Promise<void> {
  const port = parsePort(portText);
  const reply = await askMonitorOk(session.host.roots.monitor, sandboxId, { method: 'GET', path: '/agent-url' });
  const endpoint = consoleEndpoint(reply.body.toString('utf8').replace(/\n$/, ''), port);
  const late = (): KataError => new KataError('DeadlineExceeded', `no answer within ${String(DIAL_TIMEOUT_MS)} ms`);
  const deadline = timeoutSignal(DIAL_TIMEOUT_MS, late);
  try {
    const { dialOnce } = await import('../../agent-client/dial');
    const socket = await dialOnce(endpoint, deadline.signal).catch((reason: unknown) => {
      throw new KataError('Unavailable', `connect to the debug console of sandbox "${sandboxId}": ${describeError(reason)}`, {
        cause: reason,
        hint: 'it is there only in sandboxes started with debug_console_enabled = true in [agent.kata] of configuration.toml',
      });
    });
    await attach(socket, terminal);
  } finally {
    deadline.dispose();
  }
}

export const registerExec: Registrar = (program, run) => {
  program
    .command('exec')
    .description('enter into guest by debug console')
    .argument('<sandbox-id>', 'as kata-runtime ps lists it')
    .option('--kata-debug-port <port>', 'port of the debug console in the guest (default 1026)')
    .addHelpText('after', '\nNeeds debug_console_enabled = true in [agent.kata] of configuration.toml when the sandbox is started.\n\nExamples:\n  kata-runtime exec 5f1d...')
    .action(run('exec', (session, sandboxId: string, options: { readonly kataDebugPort?: string }) => runExec(session, sandboxId, options.kataDebugPort, { input: process.stdin, output: process.stdout })));
};
