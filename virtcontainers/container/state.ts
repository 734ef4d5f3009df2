import type { TransitionTable } from '../../base/state-machine';
import type { ContainerState } from './types';

/** `fail`: the create failed or the guest is gone in the middle of it. Only removal follows `invalid`. */
export type ContainerTrigger = 'created' | 'start' | 'pause' | 'resume' | 'exit' | 'fail';

/** The life of a container. */
export const CONTAINER_TRANSITIONS: TransitionTable<ContainerState, ContainerTrigger> = {
  creating: { created: 'created', fail: 'invalid' },
  created: { start: 'running', exit: 'stopped' },
  running: { pause: 'paused', exit: 'stopped' },
  paused: { resume: 'running', exit: 'stopped' },
  stopped: {},
  invalid: {},
};
