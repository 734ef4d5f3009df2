/** The only file that names VMM implementations; each is loaded when it is first asked for. */
import { KataError } from '../../base/errors';
import type { HypervisorType } from '../config/types';
import type { HypervisorDriver } from './types';

const DRIVERS: Readonly<Partial<Record<HypervisorType, () => Promise<HypervisorDriver>>>> = {
  mock: async () => (await import('./mock/driver')).mockDriver,
};

/** Names of the hypervisors that can be configured in this version. */
export const SUPPORTED_HYPERVISORS: readonly HypervisorType[] = Object.keys(DRIVERS) as HypervisorType[];

/** The driver of a hypervisor; Unimplemented if there is none in this version. */
export async function driverFor(type: HypervisorType): Promise<HypervisorDriver> {
  const load = DRIVERS[type];
  if (load === undefined) {
    throw new KataError('Unimplemented', `hypervisor "${type}" is not supported in this version`, {
      hint: `use one of ${SUPPORTED_HYPERVISORS.join(', ')} ([hypervisor.<name>] of configuration.toml)`,
    });
  }
  return load();
}
