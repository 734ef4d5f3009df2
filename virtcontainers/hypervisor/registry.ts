/** The one place that names drivers. Each is loaded when it is asked for. */
import { KataError } from '../../base/errors';
import { SUPPORTED_HYPERVISORS, type HypervisorType } from '../config/types';
import type { HypervisorDriver } from './types';

/** The driver of a VMM; Unimplemented for those that have none yet. */
export async function driverFor(type: HypervisorType): Promise<HypervisorDriver> {
  switch (type) {
    case 'qemu':
      return (await import('./qemu/driver')).qemuDriver;
    case 'mock':
      return (await import('./mock/driver')).mockDriver;
    default:
      throw new KataError('Unimplemented', `hypervisor ${type}: not supported yet`, {
        hint: `use one of ${SUPPORTED_HYPERVISORS.join(', ')} ([hypervisor.<name>] of configuration.toml)`,
      });
  }
}
