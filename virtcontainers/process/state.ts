import type { TransitionTable } from '../../base/state-machine';
import type { ProcessState } from './types';

/** `start` asked for, `started` in the guest, `exit` for every end (also one before a start). */
export type ProcessTrigger = 'start' | 'started' | 'exit';

/** The life of one process. An end is final. */
export const PROCESS_TRANSITIONS: TransitionTable<ProcessState, ProcessTrigger> = {
  created: { start: 'starting', exit: 'stopped' },
  starting: { started: 'running', exit: 'stopped' },
  running: { exit: 'stopped' },
  stopped: {},
};
