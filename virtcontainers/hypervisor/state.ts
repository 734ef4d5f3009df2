/** The life of one VM, whatever the VMM. */
import type { TransitionTable } from '../../base/state-machine';

/** `failed`: the VMM ended by itself; only `stop` leaves it. */
export type VmLifeState = 'created' | 'starting' | 'running' | 'failed' | 'stopping' | 'stopped';
export type VmTrigger = 'start' | 'up' | 'end' | 'stop' | 'gone';

export const VM_TRANSITIONS: TransitionTable<VmLifeState, VmTrigger> = {
  created: { start: 'starting', stop: 'stopping' },
  starting: { up: 'running', end: 'failed', stop: 'stopping' },
  running: { end: 'failed', stop: 'stopping' },
  failed: { stop: 'stopping' },
  stopping: { gone: 'stopped' },
  stopped: {},
};
