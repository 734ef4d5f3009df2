import { readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { KataError } from '../../../base/errors';
import { AgentProcess, makePipes, type ProcessStreams } from '../process/agent-process';
import { ConsoleSocket, Terminal } from '../process/terminal';
import { runCrun } from './crun';

const CONSOLE_TIMEOUT_MS = 10_000;

/** What differs between the init of a container and a further process. */
export interface ProcessPlan {
  /** Id of the process in the agent's records. */
  readonly id: string;
  /** Folder for pid file, console socket, log; names start with `name`. */
  readonly folder: string;
  readonly name: string;
  readonly terminal: boolean;
  readonly size: { readonly height: number; readonly width: number } | undefined;
  readonly pipeSizeBytes: number;
  /** Arguments of the runtime before and after the common options. */
  readonly before: readonly string[];
  readonly after: readonly string[];
  readonly what: string;
  readonly program: string;
}

/** Starts a process through the runtime and adopts it. On failure nothing is left but the files in `folder`. */
export async function startProcess(plan: ProcessPlan): Promise<AgentProcess> {
  const pidFile = join(plan.folder, `${plan.name}.pid`);
  const logPath = join(plan.folder, `${plan.name}.log`);
  rmSync(pidFile, { force: true });
  const common = ['--pid-file', pidFile];
  const run = { logPath, what: plan.what, program: plan.program };
  let streams: ProcessStreams;
  if (plan.terminal) {
    const socket = await ConsoleSocket.listen(join(plan.folder, `${plan.name}.sock`));
    try {
      await runCrun([...plan.before, ...common, '--console-socket', socket.path, ...plan.after], run);
      streams = { kind: 'terminal', terminal: new Terminal(await socket.receive(CONSOLE_TIMEOUT_MS)) };
    } finally {
      socket.close();
    }
    if (plan.size !== undefined) {
      streams.terminal.resize(plan.size.height, plan.size.width);
    }
  } else {
    const pipes = makePipes(plan.pipeSizeBytes);
    streams = { kind: 'pipes', pipes };
    try {
      await runCrun([...plan.before, ...common, ...plan.after], { ...run, stdio: pipes.childEnds });
    } catch (reason) {
      pipes.stdin.close();
      pipes.stdout.close();
      pipes.stderr.close();
      throw reason;
    } finally {
      pipes.closeChildEnds();
    }
  }
  return new AgentProcess(plan.id, readPid(pidFile, plan.what), streams);
}

function readPid(path: string, what: string): number {
  const pid = Number(readFileSync(path, 'utf8').trim());
  if (!Number.isInteger(pid) || pid <= 1) {
    throw new KataError('Internal', `${what}: the runtime wrote no pid`);
  }
  return pid;
}
