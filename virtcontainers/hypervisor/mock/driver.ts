/** The mock driver: no VM. Our guest agent runs as a host process in namespaces of its own; for tests and for working on the shim. */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { KataError } from '../../../base/errors';
import { checkId } from '../../../base/ids';
import { cleanupState } from '../processes';
import type { HypervisorDriver } from '../types';
import { removeMockCgroups } from './cgroups';
import { MockVm } from './mock';

/** The agent's bundle: beside the running bundle, or in build/ in development. NotFound if it was not built. */
export function agentBundle(): string {
  const candidates = [join(__dirname, 'agent.cjs'), join(__dirname, '..', '..', '..', 'build', 'agent.cjs')];
  const path = candidates.find((candidate) => existsSync(candidate));
  if (path === undefined) {
    throw new KataError('NotFound', `mock hypervisor: no agent.cjs in ${candidates.join(' or ')}`, { hint: 'run make build' });
  }
  return path;
}

export const mockDriver: HypervisorDriver = {
  type: 'mock',
  capabilities: () => ({ blockHotplug: false, netHotplug: false, fsShare: true, template: false, resize: false }),
  check: () => {
    agentBundle();
    return Promise.resolve();
  },
  createVm: (spec) => new MockVm(spec, agentBundle()),
  cleanup: async (state) => {
    try {
      await cleanupState(state);
    } finally {
      await removeMockCgroups(checkId(state.id, 'sandbox'));
    }
  },
};
