/** `kata-runtime metrics <sandbox-id>`: the sandbox's own scrape, from its shim. */
import type { Registrar } from './registrar';
import type { Session } from './session';
import { askMonitorOk } from './shim-monitor';

export async function runMetrics(session: Session, sandboxId: string): Promise<void> {
  const reply = await askMonitorOk(session.host.roots.monitor, sandboxId, { method: 'GET', path: '/metrics' });
  const text = reply.body.toString('utf8');
  session.host.out(text.endsWith('\n') ? text : `${text}\n`);
}

export const registerMetrics: Registrar = (program, run) => {
  program
    .command('metrics')
    .description('gather metrics associated with infrastructure used to run a sandbox')
    .argument('<sandbox-id>', 'as kata-runtime ps lists it')
    .addHelpText('after', '\nExamples:\n  kata-runtime metrics 5f1d... | grep kata_hypervisor_\n\nThe same by hand:\n  curl --unix-socket /run/vc/sbs/<sandbox-id>/shim-monitor.sock http://shim/metrics')
    .action(run('metrics', (session, sandboxId: string) => runMetrics(session, sandboxId)));
};
