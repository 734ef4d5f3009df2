/** The events that containerd knows of a task, as topic, type name and bytes. */
import * as wire from '../../gen/containerd/events/task';
import type { Timestamp } from '../../gen/google/protobuf/timestamp';
import type { Mount } from '../../gen/containerd/types/types';

export interface TaskEvent {
  readonly topic: string;
  /** Bare message name: containerd 1.6 resolves it exactly. */
  readonly typeUrl: string;
  readonly value: Uint8Array;
}

/** A point in time on the wire. */
export function timestampOf(date: Date): Timestamp {
  const ms = date.getTime();
  const seconds = Math.floor(ms / 1000);
  return { seconds: BigInt(seconds), nanos: (ms - seconds * 1000) * 1_000_000 };
}

interface Encoder<T> {
  encode(message: T): { finish(): Uint8Array };
}

function make<T>(topic: string, name: string, type: Encoder<T>, message: T): TaskEvent {
  return { topic: `/tasks/${topic}`, typeUrl: `containerd.events.${name}`, value: type.encode(message).finish() };
}

export const taskEvent = {
  create: (m: { containerId: string; bundle: string; rootfs: Mount[]; io: wire.TaskIO; pid: number }): TaskEvent =>
    make('create', 'TaskCreate', wire.TaskCreate, { ...m, checkpoint: '' }),
  start: (containerId: string, pid: number): TaskEvent => make('start', 'TaskStart', wire.TaskStart, { containerId, pid }),
  exit: (m: { containerId: string; id: string; pid: number; status: number; at: Date }): TaskEvent =>
    make('exit', 'TaskExit', wire.TaskExit, { containerId: m.containerId, id: m.id, pid: m.pid, exitStatus: m.status, exitedAt: timestampOf(m.at) }),
  delete: (m: { containerId: string; pid: number; status: number; at: Date | undefined }): TaskEvent =>
    make('delete', 'TaskDelete', wire.TaskDelete, {
      containerId: m.containerId,
      pid: m.pid,
      exitStatus: m.status,
      exitedAt: m.at === undefined ? undefined : timestampOf(m.at),
      id: '',
    }),
  oom: (containerId: string): TaskEvent => make('oom', 'TaskOOM', wire.TaskOOM, { containerId }),
  execAdded: (containerId: string, execId: string): TaskEvent => make('exec-added', 'TaskExecAdded', wire.TaskExecAdded, { containerId, execId }),
  execStarted: (containerId: string, execId: string, pid: number): TaskEvent =>
    make('exec-started', 'TaskExecStarted', wire.TaskExecStarted, { containerId, execId, pid }),
  paused: (containerId: string): TaskEvent => make('paused', 'TaskPaused', wire.TaskPaused, { containerId }),
  resumed: (containerId: string): TaskEvent => make('resumed', 'TaskResumed', wire.TaskResumed, { containerId }),
};
