/**
 * The mock hypervisor: our guest agent as a host process, in namespaces of its own, over a unix socket. It stands for a
 * VM in tests, benchmarks of the shim alone and development; it isolates no more than a container does.
 */
import { existsSync, mkdirSync, readdirSync, rmdirSync, rmSync } from 'node:fs';
import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import { Child, describeExit, isProcessAlive, processStartTime, type ChildExit } from '../../../base/child';
import { defer, sleep } from '../../../base/deadline';
import { KataError } from '../../../base/errors';
import { inNetns, killProcess } from '../../../base/syscalls';
import { removeCgroups } from '../../cgroup/cgroup';
import type { DriverCapabilities, HypervisorDriver, Vm, VmFacts, VmSpec, VmState } from '../types';

const CGROUP_ROOT = '/sys/fs/cgroup';
/** Our parent of the mock's cgroups, below each hierarchy's root. */
const CGROUP_PARENT = 'kata_mock';
const POLL_MS = 2;
const MAX_SOCKET_PATH = 107;
const VM_ROOTS = ['/run/vc/vm/', '/tmp/', '/run/kata-ts/'];

function agentBundle(): string {
  const candidates = [join(__dirname, 'agent.cjs'), join(__dirname, '../../../build/agent.cjs')];
  const path = candidates.find((candidate) => existsSync(candidate));
  if (path === undefined) {
    throw new KataError('NotFound', `start mock VM: no agent.cjs in ${candidates.join(' or ')}`, { hint: 'run make build' });
  }
  return path;
}

/** Arguments of `setpriv` that start the agent as PID 1 of its namespaces and kill all of it with our death. */
export function mockCommandLine(spec: VmSpec, socket: string, agent: string): string[] {
  return [
    '--pdeathsig', 'KILL', '--',
    'unshare', '--mount', '--propagation', 'slave', '--pid', '--fork', '--kill-child', '--mount-proc', '--uts', '--ipc', '--',
    spec.config.path === '' ? process.execPath : spec.config.path, agent,
    // The name lets tests and people find the process of a sandbox as they find QEMU's.
    '--listen', `unix://${socket}`, '--mock', '--cgroup-parent', `/${CGROUP_PARENT}/${spec.id}`,
    ...(spec.share === undefined ? [] : ['--share', spec.share.source]),
  ];
}

class MockVm implements Vm {
  readonly id: string;
  readonly agentUrl: string;
  private readonly socket: string;
  private readonly ended = defer<ChildExit>();
  private child: Child | undefined;
  private startTime = '';

  constructor(private readonly spec: VmSpec) {
    this.id = spec.id;
    this.socket = join(spec.directory, 'agent.sock');
    this.agentUrl = `unix://${this.socket}`;
  }

  get exited(): Promise<ChildExit> {
    return this.ended.promise;
  }

  get pid(): number {
    if (this.child === undefined) {
      throw new KataError('FailedPrecondition', `pid of mock VM "${this.id}": it was not started`);
    }
    return this.child.pid;
  }

  async start(options: { timeoutMs: number; signal: AbortSignal; onLaunched: (state: VmState) => void }): Promise<void> {
    if (Buffer.byteLength(this.socket) > MAX_SOCKET_PATH) {
      throw new KataError('InvalidArgument', `start mock VM "${this.id}": socket path ${this.socket} is longer than ${String(MAX_SOCKET_PATH)} bytes`);
    }
    const agent = agentBundle();
    // Threads of Node's pool stay in the namespace in which they are made: they must exist before the switch.
    await stat('/');
    mkdirSync(this.spec.directory, { recursive: true, mode: 0o700 });
    try {
      this.launch(agent);
      options.onLaunched(this.state());
      await this.waitForSocket(options.timeoutMs, options.signal);
    } catch (reason) {
      await this.stop();
      throw reason;
    }
  }

  private launch(agent: string): void {
    const { netns } = this.spec;
    const args = mockCommandLine(this.spec, this.socket, agent);
    const env = { PATH: process.env['PATH'] ?? '/usr/sbin:/usr/bin:/sbin:/bin' };
    const spawn = (): Child => Child.start('setpriv', args, { env, detached: true, stdout: 'ignore' });
    this.child = netns.kind === 'host' ? spawn() : inNetns(netns.kind === 'own' ? 'new' : netns.fd, spawn);
    this.startTime = processStartTime(this.child.pid) ?? '';
    void this.child.exited.then((exit) => this.ended.resolve(exit));
  }

  private async waitForSocket(timeoutMs: number, signal: AbortSignal): Promise<void> {
    const deadline = Date.now() + timeoutMs;
    while (!existsSync(this.socket)) {
      const exit = this.child?.exit;
      if (exit !== undefined) {
        throw new KataError('Unavailable', `start mock VM "${this.id}": the agent ended with ${describeExit(exit)}: ${this.child?.stderr.trim().slice(-2000) ?? ''}`);
      }
      if (Date.now() > deadline) {
        throw new KataError('DeadlineExceeded', `start mock VM "${this.id}": no agent within ${String(timeoutMs)} ms (boot_timeout)`);
      }
      await sleep(POLL_MS, signal);
    }
  }

  async stop(): Promise<void> {
    if (this.child === undefined) {
      this.ended.resolve({ code: 0, signal: null });
    } else {
      this.child.kill('SIGKILL');
      await this.child.exited;
    }
    await removeLeftovers(this.spec.id, this.spec.directory);
  }

  async check(): Promise<void> {
    await Promise.resolve();
    if (this.child === undefined || this.child.exit !== undefined) {
      throw new KataError('Unavailable', `check mock VM "${this.id}": its agent process has ended`);
    }
  }

  facts(): VmFacts {
    const alive = this.child !== undefined && this.child.exit === undefined;
    return {
      alive,
      exit: this.child?.exit,
      program: 'mock (guest agent as a host process)',
      pid: this.child?.pid,
      stderrTail: this.child?.stderr ?? '',
      consoleTail: '',
      consolePath: undefined,
      accelerator: 'none',
      hints: [],
    };
  }

  state(): VmState {
    const processes = this.child === undefined ? [] : [{ name: 'mock', pid: this.child.pid, startTime: this.startTime }];
    return { type: 'mock', id: this.id, directory: this.spec.directory, agentUrl: this.agentUrl, processes };
  }

  async threads(): Promise<{ processes: number[]; vcpus: number[] }> {
    await Promise.resolve();
    return { processes: this.child === undefined ? [] : [this.child.pid], vcpus: [] };
  }
}

/** Removes folder and cgroups; the processes in them must be dead or dying. */
async function removeLeftovers(id: string, directory: string): Promise<void> {
  if (VM_ROOTS.some((root) => directory.startsWith(root))) {
    rmSync(directory, { recursive: true, force: true });
  }
  const hierarchies = [CGROUP_ROOT, ...(existsSync(CGROUP_ROOT) ? readdirSync(CGROUP_ROOT).map((name) => join(CGROUP_ROOT, name)) : [])];
  const own = hierarchies.map((root) => join(root, CGROUP_PARENT, id)).filter((path) => existsSync(path));
  await removeCgroups(own.flatMap(treeOf));
  removeEmptyParents(hierarchies);
}

/** The parent goes with the last mock VM of the host. */
function removeEmptyParents(hierarchies: readonly string[]): void {
  for (const root of hierarchies) {
    try {
      rmdirSync(join(root, CGROUP_PARENT));
    } catch {
      // Not there in this hierarchy, or still in use by another mock VM.
    }
  }
}

/** A cgroup and all below it, outermost first. */
function treeOf(path: string): string[] {
  const below = readdirSync(path, { withFileTypes: true }).filter((entry) => entry.isDirectory());
  return [path, ...below.flatMap((entry) => treeOf(join(path, entry.name)))];
}

export const mockDriver: HypervisorDriver = {
  type: 'mock',
  capabilities: (): DriverCapabilities => ({ blockHotplug: false, netHotplug: false, fsShare: true, template: false, resize: false }),
  check: async (): Promise<void> => {
    await Promise.resolve(agentBundle());
  },
  createVm: (spec: VmSpec): Vm => new MockVm(spec),
  cleanup: async (state: VmState): Promise<void> => {
    for (const { pid, startTime } of state.processes) {
      if (isProcessAlive(pid, startTime)) {
        killProcess(pid, 9);
      }
    }
    await removeLeftovers(state.id, state.directory);
  },
};
