/**
 * A bare QEMU with the kernel, initrd, devices and share daemon of a running pod, and nothing of ours around it: the
 * yardstick of what a VM costs on this machine. Takes its arguments from the pod's own processes.
 */
import { spawn, type ChildProcess } from 'node:child_process';
import { closeSync, mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { basename, join } from 'node:path';
import { connectAgent } from '../../agent-client/connect';
import { unixListen } from '../../base/syscalls';
import { childrenOf } from './pods';

/** The programs of a pod's VM. */
export interface VmPrograms {
  readonly qemu: readonly string[];
  readonly virtiofsd: readonly string[];
}

export interface FloorOptions {
  /** More arguments of QEMU, for the floor's own folder. */
  readonly extra?: (folder: string) => readonly string[];
}

const START_TIMEOUT_MS = 120_000;

/** Reads them from a running pod. */
export function programsOf(shimPid: number): VmPrograms {
  const children = childrenOf(shimPid);
  const find = (name: string): readonly string[] => children.find(({ argv }) => basename(argv[0] ?? '').startsWith(name))?.argv ?? [];
  const qemu = find('qemu-system');
  if (qemu.length === 0) {
    throw new Error(`shim ${String(shimPid)} has no QEMU, only ${children.map(({ argv }) => argv[0]).join(', ')}`);
  }
  return { qemu, virtiofsd: find('virtiofsd') };
}

/** The folder that the pod's VM has for itself. */
function vmFolderOf(qemu: readonly string[]): string {
  return join(qemu[qemu.indexOf('-pidfile') + 1] ?? '', '..');
}

export class FloorVm {
  /** QEMU's exec to the agent's first answer. */
  firstAnswerMs = 0;

  private constructor(
    readonly folder: string,
    private readonly children: ChildProcess[],
  ) {}

  /** Boots and waits for the agent's first answer. The caller ends it. */
  static async start(programs: VmPrograms, options: FloorOptions = {}): Promise<FloorVm> {
    const folder = mkdtempSync('/run/kata-ts-floor-');
    const vm = new FloorVm(folder, []);
    try {
      vm.startVirtiofsd(programs.virtiofsd);
      await vm.boot(programs.qemu, options.extra?.(folder) ?? []);
      return vm;
    } catch (reason) {
      await vm.end();
      throw reason;
    }
  }

  async end(): Promise<void> {
    await Promise.all(this.children.map((child) => new Promise<void>((resolve) => {
      if (child.exitCode !== null || child.signalCode !== null) {
        resolve();
        return;
      }
      child.once('exit', () => {
        resolve();
      });
      child.kill('SIGKILL');
    })));
    rmSync(this.folder, { recursive: true, force: true });
  }

  private startVirtiofsd(argv: readonly string[]): void {
    if (argv.length === 0) {
      return;
    }
    const shared = join(this.folder, 'shared');
    mkdirSync(shared);
    const words = argv.slice(1).map((word) => word.replace(/^(source|--shared-dir)=.*/, `$1=${shared}`));
    this.run(argv[0] ?? '', words, join(this.folder, 'vhost-fs.sock'), 'ignore');
  }

  private run(file: string, words: readonly string[], listenAt: string, stderr: 'ignore' | 'inherit'): ChildProcess {
    const listener = unixListen(listenAt);
    const child = spawn(file, words, { stdio: ['ignore', 'ignore', stderr, listener] });
    closeSync(listener);
    this.children.push(child);
    return child;
  }

  private async boot(argv: readonly string[], extra: readonly string[]): Promise<void> {
    const theirs = vmFolderOf(argv);
    const words = [...argv.slice(1).map((word) => word.replaceAll(theirs, this.folder)), ...extra];
    if (words.some((word) => /\b(?:fds|vhostfd)=/.test(word))) {
      throw new Error('the pod\'s QEMU has inherited descriptors that a floor cannot have');
    }
    const began = performance.now();
    const qemu = this.run(argv[0] ?? '', words, join(this.folder, 'qmp.sock'), 'inherit');
    await untilAgentIsUp(join(this.folder, 'qmp.sock'), qemu);
    const agent = await connectAgent(`serial://${join(this.folder, 'agent.sock')}`, { sandboxId: 'floor', timeoutMs: START_TIMEOUT_MS });
    await agent.check();
    this.firstAnswerMs = performance.now() - began;
    agent.close();
  }
}

/** The guest has opened the agent's port: QEMU's monitor tells, the connection to it stays open. */
async function untilAgentIsUp(path: string, qemu: ChildProcess): Promise<void> {
  const monitor: Socket = connect(path);
  let text = '';
  await new Promise<void>((resolve, reject) => {
    const timer = setTimeout(() => {
      reject(new Error(`no agent within ${String(START_TIMEOUT_MS)} ms`));
    }, START_TIMEOUT_MS);
    const settle = (end: () => void): void => {
      clearTimeout(timer);
      end();
    };
    qemu.once('exit', (code, signal) => {
      settle(() => {
        reject(new Error(`QEMU ended: ${String(code ?? signal)}`));
      });
    });
    monitor.on('error', () => undefined);
    monitor.write('{"execute":"qmp_capabilities"}\n');
    monitor.on('data', (chunk: Buffer) => {
      text += chunk.toString();
      if (/"VSERPORT_CHANGE".*"open": true.*"agentport0"/.test(text)) {
        settle(resolve);
      }
    });
  });
  monitor.unref();
}
