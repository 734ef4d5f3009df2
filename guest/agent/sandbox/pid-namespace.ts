import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { sleep } from '../../../base/deadline';
import { KataError } from '../../../base/errors';
import type { UndoStack } from '../../../base/undo';
import { reaper } from '../process/reaper';

/** PID 1 of the namespace: ignores everything and reaps whoever it adopts. */
const HOLDER = "trap '' HUP INT TERM; while :; do sleep 100000 & wait; done";
const TIMEOUT_MS = 10_000;
const POLL_MS = 5;

let held: string | undefined;

/** Starts the process that holds the sandbox's pid namespace; returns the namespace's path. Ends through `undo`. */
export async function holdPidNamespace(undo: UndoStack): Promise<string> {
  if (held !== undefined) {
    return held;
  }
  const child = spawn('unshare', ['--pid', '--fork', 'sh', '-c', HOLDER], { stdio: 'ignore' });
  child.on('error', () => undefined);
  const { pid } = child;
  if (pid === undefined) {
    throw new KataError('Internal', 'hold the pid namespace: unshare cannot be run');
  }
  reaper.addOwn(pid);
  void once(child, 'exit').then(() => reaper.removeOwn(pid));
  const endsMs = performance.now() + TIMEOUT_MS;
  while (performance.now() < endsMs) {
    const init = readFileSync(`/proc/${String(pid)}/task/${String(pid)}/children`, 'latin1').trim().split(' ')[0] ?? '';
    if (init !== '') {
      undo.push('the pid namespace', () => {
        held = undefined;
        process.kill(Number(init), 'SIGKILL');
      });
      held = `/proc/${init}/ns/pid`;
      return held;
    }
    await sleep(POLL_MS);
  }
  throw new KataError('DeadlineExceeded', `hold the pid namespace: no process within ${String(TIMEOUT_MS)} ms`);
}
