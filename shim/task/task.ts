import type { Container } from '../../virtcontainers/container/types';
import { KataError } from '../../base/errors';
import { Status } from '../../gen/containerd/types/process';
import type { TaskProcess } from './task-process';

/** A container as the host sees it. Answers from memory. */
export class Task {
  readonly execs = new Map<string, TaskProcess>();
  /** A pause that is under way. */
  isPausing = false;

  constructor(
    readonly container: Container,
    readonly init: TaskProcess,
    /** Pid of the VMM: the pid of every process of ours on the host. */
    readonly pid: number,
  ) {}

  get id(): string {
    return this.container.id;
  }

  /** Init for '', else the exec. NotFound. */
  process(execId: string): TaskProcess {
    if (execId === '') {
      return this.init;
    }
    const exec = this.execs.get(execId);
    if (exec === undefined) {
      throw new KataError('NotFound', `exec does not exist "${execId}" in container "${this.id}": not found`);
    }
    return exec;
  }

  statusOf(process: TaskProcess): Status {
    switch (process.process.state) {
      case 'created':
      case 'starting':
        return Status.CREATED;
      case 'stopped':
        return Status.STOPPED;
      case 'running':
        if (this.isPausing) {
          return Status.PAUSING;
        }
        return this.container.state === 'paused' ? Status.PAUSED : Status.RUNNING;
    }
  }
}
