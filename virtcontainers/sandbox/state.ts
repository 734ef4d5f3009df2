import type { TransitionTable } from '../../base/state-machine';
import type { SandboxState } from './types';

/** `created` when the first container exists, `run` when one starts, `fail` when VM or agent died, `stop`/`stopped` around the teardown. */
export type SandboxTrigger = 'created' | 'run' | 'fail' | 'stop' | 'stopped';

/** The life of a sandbox. Only the teardown leaves `invalid`. */
export const SANDBOX_TRANSITIONS: TransitionTable<SandboxState, SandboxTrigger> = {
  creating: { created: 'ready', fail: 'invalid', stop: 'stopping' },
  ready: { run: 'running', fail: 'invalid', stop: 'stopping' },
  running: { run: 'running', fail: 'invalid', stop: 'stopping' },
  stopping: { stopped: 'stopped' },
  stopped: {},
  invalid: { stop: 'stopping' },
};
