/** The RPCs of the task service, version 2 and 3 alike: check, call, answer. */
import type { CallContext, Handlers, ServiceFromTsProto } from 'ttrpc-ts';
import { isCode, KataError } from '../../base/errors';
import type * as wire from '../../gen/containerd/task/v2';
import { ProcessDetails } from '../../gen/containerd/runc/options';
import type { Any } from '../../gen/google/protobuf/any';
import { taskEvent, timestampOf } from '../events/event';
import type { Pod } from './pod';
import type { ServiceHost } from './types';
import type { ProcessExit } from '../../virtcontainers/process/types';

type TaskHandlers = Required<Handlers<ServiceFromTsProto<typeof wire.TaskDefinition>>>;
type Lowercased = { [K in keyof TaskHandlers as K extends Uncapitalize<K & string> ? K : never]: TaskHandlers[K] };

const EMPTY = {};

/** All 17 RPCs. */
export function taskHandlers(pod: Pod, host: ServiceHost): Lowercased {
  return { ...lifecycle(pod, host), ...processes(pod, host), ...container(pod, host), ...shim(pod, host) };
}

/** From create to delete, of init and execs. */
function lifecycle(pod: Pod, host: ServiceHost): Pick<Lowercased, 'create' | 'start' | 'state' | 'wait' | 'kill' | 'delete'> {
  return {
    async create(request, context) {
      try {
        const task = await pod.create(request, context.signal);
        return { pid: task.pid };
      } catch (reason) {
        // Its caller died. Older containerds (1.6) take a shim that still answers for a living task, for ever.
        if (pod.isEmpty && hasCallerGone(context)) {
          void host.shutDown(() => pod.stop());
        }
        throw reason;
      }
    },

    async start({ id, execId }) {
      const task = pod.get(id);
      const target = task.process(execId);
      await target.changes.run(() =>
        target.start(async () => {
          if (execId === '') {
            await task.container.start();
          } else if (task.container.state === 'running') {
            await target.process.start();
          } else {
            throw new KataError('FailedPrecondition', `start exec "${execId}": container "${id}" is ${task.container.state}, not running`);
          }
        }),
      );
      return { pid: task.pid };
    },

    state({ id, execId }) {
      const task = pod.get(id);
      const target = task.process(execId);
      return {
        id,
        bundle: task.container.bundle,
        pid: task.pid,
        status: task.statusOf(target),
        ...target.stdio,
        ...exitFields(target.process.exit),
        execId,
      };
    },

    async wait({ id, execId }, context: CallContext) {
      return exitFields(await pod.get(id).process(execId).wait(context.signal));
    },

    async kill({ id, execId, signal, all }) {
      const task = pod.get(id);
      const target = task.process(execId);
      await target.startSettled();
      const { state } = target.process;
      if (state === 'stopped') {
        throw new KataError('NotFound', `kill ${execId === '' ? `container "${id}"` : `exec "${execId}"`}: process already finished: not found`);
      }
      if (signal === 0 && state === 'running') {
        return EMPTY;
      }
      await (execId === '' ? task.container.kill(signal, all) : target.process.signal(signal));
      return EMPTY;
    },

    async delete({ id, execId }) {
      const task = pod.get(id);
      const exit = await (execId === '' ? pod.delete(task) : pod.deleteExec(task, execId));
      return { pid: task.pid, ...exitFields(exit) };
    },
  };
}

/** The connection is gone; a deadline that has passed is none of that. */
function hasCallerGone({ signal, deadlineMs }: CallContext): boolean {
  return signal.aborted && (deadlineMs === undefined || Date.now() < deadlineMs);
}

/** Execs and the streams of processes. */
function processes(pod: Pod, host: ServiceHost): Pick<Lowercased, 'exec' | 'resizePty' | 'closeIO' | 'pids'> {
  return {
    exec(request) {
      const task = pod.get(request.id);
      const json = jsonOf(request.spec, 'Process', `exec "${request.execId}" in container "${request.id}"`);
      pod.addExec(task, { ...request, spec: host.backend.parseProcess(json) });
      return EMPTY;
    },

    async resizePty({ id, execId, width, height }) {
      const { process } = pod.get(id).process(execId);
      if (process.state !== 'stopped') {
        await process.resize(height, width);
      }
      return EMPTY;
    },

    closeIO({ id, execId, stdin }) {
      const { process } = pod.get(id).process(execId);
      if (stdin) {
        process.closeStdin();
      }
      return EMPTY;
    },

    pids({ id }) {
      const task = pod.get(id);
      const execs = [...task.execs].filter(([, exec]) => exec.process.state === 'running');
      const details = execs.map(([execId]) => ({
        pid: task.pid,
        info: { typeUrl: 'containerd.runc.v1.ProcessDetails', value: ProcessDetails.encode({ execId }).finish() },
      }));
      // Also when it has stopped: a restarting containerd drops a task without processes, and its exit status with it.
      return { processes: [{ pid: task.pid, info: undefined }, ...details] };
    },
  };
}

/** The container as a whole. */
function container(pod: Pod, host: ServiceHost): Pick<Lowercased, 'pause' | 'resume' | 'update' | 'stats' | 'checkpoint'> {
  return {
    async pause({ id }) {
      const task = pod.get(id);
      await task.init.changes.run(async () => {
        task.isPausing = task.container.state === 'running';
        try {
          await task.container.pause();
        } finally {
          task.isPausing = false;
        }
        host.publish(taskEvent.paused(id));
      });
      return EMPTY;
    },

    async resume({ id }) {
      const task = pod.get(id);
      await task.init.changes.run(async () => {
        await task.container.resume();
        host.publish(taskEvent.resumed(id));
      });
      return EMPTY;
    },

    async update({ id, resources }) {
      const task = pod.get(id);
      const wanted = host.backend.parseResources(jsonOf(resources, 'LinuxResources', `update container "${id}"`));
      await task.init.changes.run(() => task.container.update(wanted));
      return EMPTY;
    },

    async stats({ id }) {
      return { stats: host.backend.encodeStats(await pod.get(id).container.stats()) };
    },

    checkpoint({ id }) {
      pod.get(id);
      throw new KataError('Unimplemented', `checkpoint container "${id}": not supported for virtual machines`);
    },
  };
}

/** The shim itself. */
function shim(pod: Pod, host: ServiceHost): Pick<Lowercased, 'connect' | 'shutdown'> {
  return {
    connect({ id }) {
      return { shimPid: process.pid, taskPid: pod.find(id)?.pid ?? 0, version: '' };
    },

    async shutdown() {
      if (pod.isEmpty) {
        await host.shutDown(() => pod.stop());
      }
      return EMPTY;
    },
  };
}

/** Wraps every handler: its duration is counted, and an error of a sandbox that failed says why it did. */
export function observed(handlers: Lowercased, pod: Pod, host: ServiceHost): Lowercased {
  const wrapped = Object.entries(handlers).map(([name, handler]) => {
    const call = handler as (request: unknown, context: CallContext) => unknown;
    const observe = async (request: unknown, context: CallContext): Promise<unknown> => {
      const began = performance.now();
      try {
        return await call(request, context);
      } catch (reason) {
        throw withReport(reason, pod.failureReport);
      } finally {
        host.onRpc(name, performance.now() - began);
      }
    };
    return [name, observe];
  });
  return Object.fromEntries(wrapped) as Lowercased;
}

/** "Not found" needs no explanation, and clients read more into a longer text. */
function withReport(reason: unknown, report: string | undefined): unknown {
  if (report === undefined || isCode(reason, 'NotFound') || isCode(reason, 'AlreadyExists')) {
    return reason;
  }
  return KataError.from(new KataError('Unavailable', report, { cause: undefined }), describe(reason));
}

function describe(reason: unknown): string {
  return reason instanceof Error ? reason.message : String(reason);
}

function exitFields(exit: ProcessExit | undefined): { exitStatus: number; exitedAt: ReturnType<typeof timestampOf> | undefined } {
  return exit === undefined ? { exitStatus: 0, exitedAt: undefined } : { exitStatus: exit.status, exitedAt: timestampOf(exit.at) };
}

/** The JSON inside an Any of the OCI specification. */
function jsonOf(any: Any | undefined, type: string, what: string): string {
  if (any === undefined || any.value.length === 0) {
    throw new KataError('InvalidArgument', `${what}: the ${type} is missing`);
  }
  if (!any.typeUrl.endsWith(`/${type}`)) {
    throw new KataError('InvalidArgument', `${what}: Get an invalid spec type ${JSON.stringify(any.typeUrl)}`, { hint: `wanted is types.containerd.io/opencontainers/runtime-spec/1/${type}` });
  }
  return Buffer.from(any.value).toString('utf8');
}
