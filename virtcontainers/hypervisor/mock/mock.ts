/** One mock VM: the agent as PID 1 of new pid, mount, uts and ipc namespaces. Killing it kills everything in it. */
import { existsSync, watch } from 'node:fs';
import { connect } from 'node:net';
import { describeExit, type Child, type ChildExit } from '../../../base/child';
import { abortError, defer, sleep, timeoutSignal, withTimeout, type Deferred } from '../../../base/deadline';
import { KataError } from '../../../base/errors';
import { StateMachine } from '../../../base/state-machine';
import { UndoStack } from '../../../base/undo';
import { processEntry, startGuarded } from '../processes';
import { VM_TRANSITIONS, type VmLifeState, type VmTrigger } from '../state';
import type { AgentUrl, Vm, VmFacts, VmSpec, VmState } from '../types';
import { makeVmFolder, removeVmFolder } from '../vm-folder';
import { mockCgroupParent, removeMockCgroups } from './cgroups';

const SOCKET = 'agent.sock';
const DEFAULT_TIMEOUT_MS = 10_000;
const KILL_TIMEOUT_MS = 2000;
const RETRY_MS = 2;

/** New namespaces, mounts made by us later still arriving in it. */
const UNSHARE: readonly string[] = ['--pid', '--fork', '--kill-child', '--mount', '--propagation', 'slave', '--mount-proc', '--uts', '--ipc'];

export class MockVm implements Vm {
  readonly id: string;
  readonly agentUrl: AgentUrl;
  readonly exited: Promise<ChildExit>;
  private readonly life: StateMachine<VmLifeState, VmTrigger>;
  private readonly undo = new UndoStack();
  private readonly exit: Deferred<ChildExit> = defer();
  private readonly stopRequested = new AbortController();
  private readonly socket: string;
  private child: Child | undefined;
  private processes: VmState['processes'] = [];
  private stopping: Promise<void> | undefined;
  private starting: Promise<void> = Promise.resolve();

  constructor(
    private readonly spec: VmSpec,
    private readonly agent: string,
  ) {
    this.id = spec.id;
    this.exited = this.exit.promise;
    this.socket = `${spec.directory}/${SOCKET}`;
    this.agentUrl = `unix://${this.socket}`;
    this.life = new StateMachine(`VM "${spec.id}"`, VM_TRANSITIONS, 'created');
  }

  get pid(): number {
    if (this.child === undefined) {
      throw new KataError('FailedPrecondition', `VM "${this.id}": not started`);
    }
    return this.child.pid;
  }

  async start(options: Parameters<Vm['start']>[0]): Promise<void> {
    this.life.move('start');
    this.starting = this.startOnce(options);
    await this.starting;
  }

  stop(): Promise<void> {
    this.stopping ??= this.stopOnce();
    return this.stopping;
  }

  check(): Promise<void> {
    const exit = this.child?.exit;
    if (this.child === undefined || exit !== undefined) {
      return Promise.reject(new KataError('Unavailable', `VM "${this.id}": ${exit === undefined ? 'not started' : `ended with ${describeExit(exit)}`}`));
    }
    return Promise.resolve();
  }

  facts(): VmFacts {
    const { child } = this;
    return {
      alive: child !== undefined && child.exit === undefined,
      exit: child?.exit,
      program: this.program,
      pid: child?.pid,
      stderrTail: child?.stderr ?? '',
      consoleTail: '',
      consolePath: undefined,
      accelerator: 'none',
      hints: [],
    };
  }

  state(): VmState {
    return { type: 'mock', id: this.id, directory: this.spec.directory, agentUrl: this.agentUrl, processes: this.processes };
  }

  threads(): Promise<{ readonly processes: readonly number[]; readonly vcpus: readonly number[] }> {
    return Promise.resolve({ processes: this.processes.map(({ pid }) => pid), vcpus: [] });
  }

  private get program(): string {
    return this.spec.config.path === '' ? process.execPath : this.spec.config.path;
  }

  private async startOnce(options: Parameters<Vm['start']>[0]): Promise<void> {
    const timeoutMs = options.timeoutMs > 0 ? options.timeoutMs : DEFAULT_TIMEOUT_MS;
    const parent = AbortSignal.any([options.signal, this.stopRequested.signal]);
    const timer = timeoutSignal(timeoutMs, () => new KataError('DeadlineExceeded', `agent not listening within ${String(timeoutMs)} ms (boot_timeout in [hypervisor.mock])`), parent);
    try {
      if (!existsSync(this.program)) {
        throw new KataError('NotFound', `path ${this.program}: no such file`, { hint: 'set path in [hypervisor.mock] to a Node.js' });
      }
      makeVmFolder(this.spec.directory);
      this.undo.push('the VM folder', () => { removeVmFolder(this.spec.directory, this.id); });
      this.undo.push('the cgroups', () => removeMockCgroups(this.id));
      await this.listening(this.launch(options), timer.signal);
      this.life.tryMove('up');
    } catch (reason) {
      await this.end();
      this.life.tryMove('end');
      const said = this.child?.stderr.trim().split('\n').at(-1) ?? '';
      throw KataError.from(reason, `start VM "${this.id}": ${reason instanceof Error ? reason.message : String(reason)}${said === '' ? '' : `; ${said}`}`);
    } finally {
      timer.dispose();
    }
  }

  private launch(options: Parameters<Vm['start']>[0]): Child {
    const share = this.spec.share === undefined ? [] : ['--share', this.spec.share.source];
    const args = [...UNSHARE, '--', this.program, this.agent, '--listen', `unix://${this.socket}`, '--mock', '--cgroup-parent', mockCgroupParent(this.id), ...share];
    const child = startGuarded('unshare', args, this.spec.netns, { env: { PATH: process.env['PATH'] }, stdout: 'ignore' });
    this.child = child;
    void child.exited.then((exit) => {
      this.life.tryMove('end');
      this.exit.resolve(exit);
    });
    this.processes = [processEntry('mock', child)];
    options.onLaunched(this.state());
    return child;
  }

  /** Waits until the agent takes connections. The file appears at bind(2), a little before listen(2). */
  private async listening(child: Child, signal: AbortSignal): Promise<void> {
    const failed = defer<never>();
    const appeared = defer<undefined>();
    const look = (): void => {
      if (existsSync(this.socket)) {
        appeared.resolve(undefined);
      }
    };
    const watcher = watch(this.spec.directory, look);
    const onAbort = (): void => { failed.reject(abortError(signal, `start VM "${this.id}"`)); };
    signal.addEventListener('abort', onAbort, { once: true });
    if (signal.aborted) {
      onAbort();
    }
    void child.exited.then((exit) => { failed.reject(new KataError('FailedPrecondition', `${this.program} ended with ${describeExit(exit)}`)); });
    try {
      look();
      await Promise.race([appeared.promise, failed.promise]);
      while (!(await Promise.race([canConnect(this.socket), failed.promise]))) {
        await sleep(RETRY_MS, signal);
      }
    } finally {
      watcher.close();
      signal.removeEventListener('abort', onAbort);
    }
  }

  private async stopOnce(): Promise<void> {
    this.stopRequested.abort(new KataError('Canceled', `VM "${this.id}": stopped while it started`));
    await this.starting.catch(() => undefined);
    this.life.tryMove('stop');
    await this.end();
    this.life.tryMove('gone');
  }

  private async end(): Promise<void> {
    const { child } = this;
    if (child !== undefined) {
      child.kill('SIGKILL');
      await withTimeout(child.exited, KILL_TIMEOUT_MS, () => new KataError('DeadlineExceeded', `VM "${this.id}": pid ${String(child.pid)} still there after SIGKILL`)).catch(
        (reason: unknown) => { this.spec.logger.error(String(reason)); },
      );
    }
    await this.undo.unwind((error) => { this.spec.logger.warn(error.message); });
  }
}

async function canConnect(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(path);
    const done = (ok: boolean) => (): void => {
      socket.destroy();
      resolve(ok);
    };
    socket.on('connect', done(true)).on('error', done(false));
  });
}
