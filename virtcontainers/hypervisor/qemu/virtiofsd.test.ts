import assert from 'node:assert/strict';
import { it } from 'node:test';
import type { HypervisorConfig } from '../../config/types';
import { virtiofsdArgs } from './virtiofsd';

const config = (virtioFsCache: string): HypervisorConfig => ({ virtioFsCache, virtioFsExtraArgs: ['--x'] }) as unknown as HypervisorConfig;

it('speaks to the daemon of QEMU 7', () => {
  assert.deepEqual(virtiofsdArgs('c', config('never'), '/s'), ['-o', 'cache=none', '-o', 'no_posix_lock', '-o', 'source=/s', '--fd=3', '-f', '--x']);
});
it('speaks to the daemon in Rust', () => {
  assert.deepEqual(virtiofsdArgs('rust', config('none'), '/s'), ['--cache=never', '--shared-dir=/s', '--fd=3', '--x']);
});
