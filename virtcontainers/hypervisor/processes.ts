/** Processes of VMs: they die with us, live in the sandbox's network namespace, and can be killed by a later process. */
import { Child, isProcessAlive, processStartTime, type StartOptions } from '../../base/child';
import { sleep } from '../../base/deadline';
import { KataError } from '../../base/errors';
import { inNetns, killProcess } from '../../base/syscalls';
import { lifelineCommand } from './lifeline';
import type { VmSpec, VmState } from './types';
import { removeVmFolder } from './vm-folder';

const SIGKILL = 9;
const KILL_WAIT_MS = 900;
const KILL_POLL_MS = 5;

export interface GuardOptions extends StartOptions {
  /** SELinux label of the program; not with a lifeline. */
  readonly selinuxLabel?: string | undefined;
}

/** Arguments of setpriv: dies with us, and runs with the label if there is one. */
export function guardWords(file: string, args: readonly string[], selinuxLabel?: string): string[] {
  return ['--pdeathsig', 'KILL', ...(selinuxLabel === undefined ? [] : ['--selinux-label', selinuxLabel]), '--', file, ...args];
}

/**
 * Starts a program that the kernel kills when we die; it keeps its pid through setpriv. With a lifeline it
 * ends with the last holder of that instead, and signals to our group do not reach it.
 */
export function startGuarded(file: string, args: readonly string[], netns: VmSpec['netns'], options: GuardOptions, lifeline?: { readonly directory: string; readonly share: string | undefined }): Child {
  const [program, words] = lifeline === undefined ? ['setpriv', guardWords(file, args, options.selinuxLabel)] : lifelineCommand(lifeline.directory, file, args, lifeline.share);
  const start = (): Child => Child.start(program, words, lifeline === undefined ? options : { ...options, detached: true });
  switch (netns.kind) {
    case 'host':
      return start();
    case 'own':
      return inNetns('new', start);
    case 'fd':
      return inNetns(netns.fd, start);
  }
}

/** Pid and start time, as they go into a state. */
export function processEntry(name: string, child: Pick<Child, 'pid'>): VmState['processes'][number] {
  return { name, pid: child.pid, startTime: processStartTime(child.pid) ?? '' };
}

/** Kills what a VM of a dead owner left and removes its folder. Idempotent, under 1 s; fails if a process does not go. */
export async function cleanupState(state: VmState): Promise<void> {
  const alive = (): VmState['processes'] => state.processes.filter(({ pid, startTime }) => startTime !== '' && isProcessAlive(pid, startTime));
  for (const { pid } of alive()) {
    killProcess(pid, SIGKILL);
  }
  const until = performance.now() + KILL_WAIT_MS;
  while (alive().length > 0 && performance.now() < until) {
    await sleep(KILL_POLL_MS);
  }
  const left = alive();
  removeVmFolder(state.directory, state.id);
  if (left.length > 0) {
    throw new KataError('DeadlineExceeded', `clean up VM "${state.id}": ${left.map(({ name, pid }) => `${name} (pid ${String(pid)})`).join(', ')} still there ${String(KILL_WAIT_MS)} ms after SIGKILL`);
  }
}
