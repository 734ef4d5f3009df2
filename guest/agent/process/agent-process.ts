import { closeSync } from 'node:fs';
import { KataError } from '../../../base/errors';
import { killProcess, pipe, setPipeSize } from '../../../base/syscalls';
import { InputStream } from './input-stream';
import { DRAIN_GRACE_MS, OutputStream } from './output-stream';
import { reaper } from './reaper';
import type { Terminal } from './terminal';

/** The ends of a new process's pipes: the agent's streams, and the descriptors that the process gets. */
export interface ProcessPipes {
  readonly stdin: InputStream;
  readonly stdout: OutputStream;
  readonly stderr: OutputStream;
  /** For descriptors 0, 1, 2 of the process; `closeChildEnds` once it is started. */
  readonly childEnds: readonly [number, number, number];
  closeChildEnds(): void;
}

/** Makes the three pipes; `pipeSizeBytes` 0 leaves the kernel's size. */
export function makePipes(pipeSizeBytes: number): ProcessPipes {
  const [inRead, inWrite] = pipe();
  const [outRead, outWrite] = pipe();
  const [errRead, errWrite] = pipe();
  if (pipeSizeBytes > 0) {
    [inRead, outRead, errRead].forEach((fd) => setPipeSize(fd, pipeSizeBytes));
  }
  return {
    stdin: InputStream.ofPipe(inWrite),
    stdout: OutputStream.ofPipe(outRead),
    stderr: OutputStream.ofPipe(errRead),
    childEnds: [inRead, outWrite, errWrite],
    closeChildEnds: () => [inRead, outWrite, errWrite].forEach((fd) => closeSync(fd)),
  };
}

/** Streams of a process: pipes, or a terminal. */
export type ProcessStreams =
  | { readonly kind: 'pipes'; readonly pipes: ProcessPipes }
  | { readonly kind: 'terminal'; readonly terminal: Terminal };

/** One process of a container that the agent started: its streams, its end. */
export class AgentProcess {
  readonly exited: Promise<number>;
  private status: number | undefined;
  private readonly resolveExited: (status: number) => void;
  /** Told at the end, before anybody who waits. */
  onEnd: (() => void) | undefined;

  /** `id` is the exec id (of the init: the container's id); `pid` in the agent's pid namespace. */
  constructor(
    readonly id: string,
    readonly pid: number,
    private readonly streams: ProcessStreams,
  ) {
    let resolveExited: (status: number) => void = () => undefined;
    this.exited = new Promise((resolve) => {
      resolveExited = resolve;
    });
    this.resolveExited = resolveExited;
    reaper.watch(pid, (status) => this.end(status));
  }

  /** The exit status if it has ended. */
  get exitStatus(): number | undefined {
    return this.status;
  }

  get stdout(): OutputStream {
    return this.streams.kind === 'terminal' ? this.streams.terminal.output : this.streams.pipes.stdout;
  }

  /** Of a terminal process there is none. */
  get stderr(): OutputStream | undefined {
    return this.streams.kind === 'terminal' ? undefined : this.streams.pipes.stderr;
  }

  get stdin(): InputStream {
    return this.streams.kind === 'terminal' ? this.streams.terminal.input : this.streams.pipes.stdin;
  }

  /** Sets the terminal's size; refused without one. */
  resize(rows: number, columns: number): void {
    if (this.streams.kind !== 'terminal') {
      throw new KataError('FailedPrecondition', `resize terminal of "${this.id}": the process has none`);
    }
    this.streams.terminal.resize(rows, columns);
  }

  /** Sends a signal; false if the process has ended. */
  signal(signal: number): boolean {
    if (this.status !== undefined) {
      return false;
    }
    const errno = killProcess(this.pid, signal);
    if (errno !== undefined && errno !== 'ESRCH') {
      throw new KataError('InvalidArgument', `send signal ${String(signal)} to "${this.id}": ${errno}`);
    }
    return errno === undefined;
  }

  /** Gives the streams back. The process itself lives on if it does. */
  close(): void {
    if (this.streams.kind === 'terminal') {
      this.streams.terminal.close();
    } else {
      this.streams.pipes.stdin.close();
      this.streams.pipes.stdout.close();
      this.streams.pipes.stderr.close();
    }
  }

  private end(status: number): void {
    this.status = status;
    this.onEnd?.();
    this.stdout.processEnded();
    this.stderr?.processEnded();
    setTimeout(() => this.stdin.close(), DRAIN_GRACE_MS).unref();
    this.resolveExited(status);
  }
}
