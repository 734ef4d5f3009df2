/** The guest agent as a host process, as a VM: enough of a driver to run sandboxes without any VMM. */
import { mkdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { Child, processStartTime, type ChildExit } from '../../../base/child';
import { KataError } from '../../../base/errors';
import { killProcess } from '../../../base/syscalls';
import type { HypervisorDriver, Vm, VmSpec, VmState } from '../../../virtcontainers/hypervisor/types';

export const AGENT = join(__dirname, '../../../build/agent.cjs');

class AgentProcess implements Vm {
  private child: Child | undefined;

  constructor(readonly spec: VmSpec) {}

  get id(): string {
    return this.spec.id;
  }

  get agentUrl(): string {
    return `unix://${this.spec.directory}/agent.sock`;
  }

  get pid(): number {
    return this.running().pid;
  }

  get exited(): Promise<ChildExit> {
    return this.running().exited;
  }

  start(options: { readonly onLaunched: (state: VmState) => void }): Promise<void> {
    mkdirSync(this.spec.directory, { recursive: true, mode: 0o700 });
    const share = this.spec.share === undefined ? [] : ['--share', this.spec.share.source];
    const agent = [process.execPath, AGENT, '--listen', this.agentUrl, '--mock', ...share];
    const namespaces = ['unshare', '--pid', '--fork', '--kill-child', '--mount-proc', '--mount', '--propagation', 'slave', '--uts', '--ipc', '--net'];
    this.child = Child.start('setpriv', ['--pdeathsig', 'KILL', ...namespaces, ...agent], { detached: true, env: { PATH: process.env['PATH'] ?? '' } });
    options.onLaunched(this.state());
    return Promise.resolve();
  }

  async stop(): Promise<void> {
    this.child?.kill('SIGKILL');
    await this.child?.exited;
    rmSync(this.spec.directory, { recursive: true, force: true });
  }

  check(): Promise<void> {
    return Promise.resolve();
  }

  facts(): ReturnType<Vm['facts']> {
    const { child } = this;
    return {
      alive: child !== undefined && child.exit === undefined, exit: child?.exit, program: AGENT, pid: child?.pid, stderrTail: child?.stderr ?? '',
      consoleTail: '', consolePath: undefined, accelerator: 'none', hints: [],
    };
  }

  state(): VmState {
    const { pid } = this.running();
    const processes = [{ name: 'agent', pid, startTime: processStartTime(pid) ?? '' }];
    return { type: 'mock', id: this.id, directory: this.spec.directory, agentUrl: this.agentUrl, processes };
  }

  threads(): Promise<{ processes: number[]; vcpus: number[] }> {
    return Promise.resolve({ processes: [this.running().pid], vcpus: [] });
  }

  private running(): Child {
    if (this.child === undefined) {
      throw new KataError('FailedPrecondition', 'not started');
    }
    return this.child;
  }
}

export const AGENT_DRIVER: HypervisorDriver = {
  type: 'mock',
  capabilities: () => ({ blockHotplug: false, netHotplug: false, fsShare: true, template: false, resize: false }),
  check: () => Promise.resolve(),
  createVm: (spec) => new AgentProcess(spec),
  cleanup: (state) => {
    state.processes.forEach(({ pid }) => killProcess(pid, 9));
    return Promise.resolve();
  },
};
