/** The tasks of one shim: one sandbox with its containers. Owns the sandbox. */
import { withTimeout } from '../../base/deadline';
import { describeError, isCode, KataError } from '../../base/errors';
import { checkAbsolute, checkId } from '../../base/ids';
import type { OciProcess } from '../../base/oci-spec';
import type { CreateTaskRequest } from '../../gen/containerd/task/v2';
import type { Any } from '../../gen/google/protobuf/any';
import { containerType } from '../../virtcontainers/bundle/container-type';
import type { Container, ContainerRequest } from '../../virtcontainers/container/types';
import type { ProcessExit } from '../../virtcontainers/process/types';
import type { Sandbox } from '../../virtcontainers/sandbox/types';
import { taskEvent } from '../events/event';
import { createProcessIo, type StdioPaths } from '../stdio/process-io';
import { markOom } from './oom-file';
import { configPathOf } from './options';
import { leaveReceipt, type Deletion } from './receipt';
import { Task } from './task';
import { TaskProcess } from './task-process';
import type { ServiceHost } from './types';

/** How long a deletion waits for the end's event, so that it comes before the deletion's. */
const EXIT_EVENT_TIMEOUT_MS = 2_000;

/** What a client asks for with Exec. */
export interface ExecRequest extends StdioPaths {
  readonly execId: string;
  readonly spec: OciProcess;
}

export class Pod {
  private readonly tasks = new Map<string, Task>();
  /** Ids whose Create is under way. */
  private readonly reserved = new Set<string>();
  private sandbox: Sandbox | undefined;
  private creating: Promise<Sandbox> | undefined;
  private stopping: Promise<void> | undefined;
  private failure: string | undefined;
  /** Of the container with which the sandbox ends: it is only done when the sandbox is gone. */
  private lastDeletion: Deletion | undefined;

  constructor(private readonly host: ServiceHost) {}

  /** True if nothing is left, or about to come, for which the shim has to stay. */
  get isEmpty(): boolean {
    return this.tasks.size === 0 && this.reserved.size === 0;
  }

  /** Why the sandbox ended by itself, if it did. */
  get failureReport(): string | undefined {
    return this.failure;
  }

  /** For a diagnostic dump. */
  describe(): string {
    const tasks = [...this.tasks.values()].map((task) => `${task.id}:${task.container.state}:${String(task.execs.size)} execs:${String(task.init.waiting)} waiting`);
    return `${this.sandbox?.state ?? 'no sandbox'} ${tasks.join(', ')}`;
  }

  find(id: string): Task | undefined {
    return this.tasks.get(id);
  }

  /** NotFound. */
  get(id: string): Task {
    const task = this.tasks.get(id);
    if (task === undefined) {
      throw new KataError('NotFound', `container does not exist "${id}": container not created: not found`);
    }
    return task;
  }

  /** Makes a container, and the sandbox with it if it is the first. After a failure nothing of it is left. */
  async create(request: CreateTaskRequest, signal: AbortSignal): Promise<Task> {
    const id = checkId(request.id, 'container');
    const bundlePath = checkAbsolute(request.bundle, 'bundle');
    if (request.checkpoint !== '') {
      throw new KataError('Unimplemented', `create container "${id}": restoring from a checkpoint is not supported`);
    }
    if (this.tasks.has(id) || this.reserved.has(id)) {
      throw new KataError('AlreadyExists', `create container "${id}": already exists`);
    }
    this.reserved.add(id);
    try {
      const logger = this.host.logger.with({ container: id });
      const io = createProcessIo({ ...stdioOf(request), containerId: id, namespace: this.host.namespace, logger });
      const bundle = await this.host.backend.readBundle(bundlePath);
      const { rootfs, terminal } = request;
      const wanted: ContainerRequest = { id, bundle: bundlePath, spec: bundle.spec, rootfs, terminal, io };
      const isMember = containerType(bundle.spec.annotations) === 'pod_container';
      const sandbox = isMember ? await this.existingSandbox(id) : await this.createSandbox(wanted, request.options, signal);
      const container = isMember ? await sandbox.createContainer(wanted) : sandbox.containers.get(id);
      if (container === undefined) {
        throw new KataError('Internal', `create container "${id}": the sandbox has no such container`);
      }
      const task = this.register(container, sandbox, stdioOf(request));
      this.host.publish(taskEvent.create({ containerId: id, bundle: bundlePath, rootfs, io: stdioOf(request), pid: task.pid }));
      return task;
    } finally {
      this.reserved.delete(id);
    }
  }

  /** Registers an exec; nothing runs yet. */
  addExec(task: Task, request: ExecRequest): void {
    const execId = checkId(request.execId, 'exec');
    if (task.execs.has(execId)) {
      throw new KataError('AlreadyExists', `exec "${execId}" in container "${task.id}": already exists`);
    }
    const logger = this.host.logger.with({ container: task.id, exec: execId });
    const io = createProcessIo({ ...request, containerId: task.id, namespace: this.host.namespace, logger });
    const process = task.container.addExec(execId, request.spec, request.terminal, io);
    const exec = new TaskProcess({
      process,
      stdio: stdioOf(request),
      publishStart: () => {
        this.host.publish(taskEvent.execStarted(task.id, execId, task.pid));
      },
      publishExit: (exit) => {
        this.publishExit(task, execId, exit);
      },
      before: async () => Promise.resolve(),
    });
    task.execs.set(execId, exec);
    this.host.publish(taskEvent.execAdded(task.id, execId));
  }

  /** Forgets an exec that has ended or never ran. */
  async deleteExec(task: Task, execId: string): Promise<ProcessExit | undefined> {
    const exec = task.process(execId);
    return exec.changes.run(async () => {
      task.process(execId);
      requireEnded(exec, `exec "${execId}" of container "${task.id}"`);
      const exit = exec.process.exit;
      if (exit === undefined) {
        exec.keepQuiet();
      }
      await ignoreNotFound(task.container.removeExec(execId));
      task.execs.delete(execId);
      await this.exitEvent(exec);
      return exit;
    });
  }

  /** Frees a container that has ended or never ran; with the last one the sandbox ends in the background. */
  async delete(task: Task): Promise<ProcessExit | undefined> {
    return task.init.changes.run(async () => {
      this.get(task.id);
      requireEnded(task.init, `container "${task.id}"`);
      const exit = task.init.process.exit;
      if (exit === undefined) {
        task.init.keepQuiet();
      }
      if (this.sandbox !== undefined) {
        await ignoreNotFound(this.sandbox.deleteContainer(task.id));
      }
      this.tasks.delete(task.id);
      await this.exitEvent(task.init);
      this.host.publish(taskEvent.delete({ containerId: task.id, pid: task.pid, status: exit?.status ?? 0, at: exit?.at }));
      const deletion = { bundle: task.container.bundle, pid: task.pid, exit };
      if (this.isEmpty) {
        this.lastDeletion = deletion;
        void this.stop();
      } else {
        leaveReceipt(deletion, this.host.logger);
      }
      return exit;
    });
  }

  /** Ends the sandbox with all that runs in it. Idempotent; never rejects. */
  async stop(): Promise<void> {
    const { sandbox } = this;
    if (sandbox === undefined) {
      return;
    }
    this.stopping ??= (async () => {
      try {
        await sandbox.stop();
        if (this.lastDeletion !== undefined) {
          leaveReceipt(this.lastDeletion, this.host.logger);
          this.lastDeletion = undefined;
        }
      } catch (reason) {
        this.host.logger.error('stopping the sandbox failed', { error: describeError(reason) });
      }
      this.sandbox = undefined;
      this.stopping = undefined;
    })();
    await this.stopping;
  }

  private async existingSandbox(id: string): Promise<Sandbox> {
    const sandbox = this.sandbox ?? (await this.creating?.catch(() => undefined));
    if (sandbox === undefined) {
      throw new KataError('FailedPrecondition', `create container "${id}": sandbox "${this.host.sandboxId}" does not exist`, {
        hint: 'the pod has ended or its shim was restarted: the pod must be made anew',
      });
    }
    return sandbox;
  }

  private async createSandbox(container: ContainerRequest, options: Any | undefined, signal: AbortSignal): Promise<Sandbox> {
    await this.stopping;
    if (this.sandbox !== undefined || this.creating !== undefined) {
      throw new KataError('AlreadyExists', `create sandbox "${container.id}": this shim has one already: already exists`);
    }
    const { backend, logger, namespace, observer } = this.host;
    this.creating = (async () => {
      const configPath = configPathOf(options, logger);
      const config = await backend.loadConfig(configPath, { path: container.bundle, spec: container.spec });
      return backend.createSandbox({
        id: container.id,
        namespace,
        container,
        config,
        logger,
        signal,
        observer: {
          ...observer,
          onOom: (id) => {
            this.onOom(id);
          },
        },
      });
    })();
    try {
      this.sandbox = await this.creating;
    } finally {
      this.creating = undefined;
    }
    this.failure = undefined;
    void this.follow(this.sandbox);
    this.host.onSandbox(this.sandbox, container.bundle);
    return this.sandbox;
  }

  private async follow(sandbox: Sandbox): Promise<void> {
    const end = await sandbox.ended;
    if (end.kind === 'failed') {
      this.failure = end.report;
    }
  }

  private register(container: Container, sandbox: Sandbox, stdio: StdioPaths): Task {
    const task: Task = new Task(
      container,
      new TaskProcess({
        process: container.init,
        stdio,
        publishStart: () => {
          this.host.publish(taskEvent.start(container.id, sandbox.pid));
        },
        publishExit: (exit) => {
          this.publishExit(task, container.id, exit);
        },
        // They die with init; their ends have to be known first.
        before: async () => {
          await Promise.all([...task.execs.values()].filter((exec) => exec.hasRun).map((exec) => exec.exitPublished));
        },
      }),
      sandbox.pid,
    );
    this.tasks.set(container.id, task);
    return task;
  }

  private publishExit(task: Task, id: string, exit: ProcessExit): void {
    this.host.publish(taskEvent.exit({ containerId: task.id, id, pid: task.pid, status: exit.status, at: exit.at }));
  }

  private async exitEvent(process: TaskProcess): Promise<void> {
    if (process.process.exit !== undefined) {
      await withTimeout(process.exitPublished, EXIT_EVENT_TIMEOUT_MS, () => new KataError('DeadlineExceeded', 'exit event')).catch(() => undefined);
    }
  }

  private onOom(containerId: string): void {
    const task = this.tasks.get(containerId);
    if (task !== undefined) {
      markOom(task.container, this.host.logger);
    }
    this.host.publish(taskEvent.oom(containerId));
  }
}

function stdioOf(request: StdioPaths): StdioPaths {
  return { stdin: request.stdin, stdout: request.stdout, stderr: request.stderr, terminal: request.terminal };
}

function requireEnded(process: TaskProcess, what: string): void {
  const { state } = process.process;
  if (state === 'running' || state === 'starting') {
    throw new KataError('FailedPrecondition', `delete ${what}: it is running: failed precondition`, { hint: 'kill it first' });
  }
}

async function ignoreNotFound(work: Promise<void>): Promise<void> {
  try {
    await work;
  } catch (reason) {
    if (!isCode(reason, 'NotFound')) {
      throw reason;
    }
  }
}
