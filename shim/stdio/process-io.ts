/** The host's ends of one process's streams: FIFOs, files, log programs, or nothing. */
import { describeError } from '../../base/errors';
import type { Logger } from '../../base/log';
import { UndoStack } from '../../base/undo';
import type { GuestStreams, ProcessIo } from '../../virtcontainers/process/types';
import { LoggerProcess } from './logger-binary';
import { NullSink, openFileSink, openPathSink, type OutputSink } from './sink';
import { openSource, type InputSource } from './source';
import { parseStream, type StreamTarget } from './uri';

/** Streams as the host names them; '' for none. */
export interface StdioPaths {
  readonly stdin: string;
  readonly stdout: string;
  readonly stderr: string;
  readonly terminal: boolean;
}

export interface StdioOptions extends StdioPaths {
  readonly containerId: string;
  readonly namespace: string;
  readonly logger: Logger;
}

/** Asked of the guest per read: few round trips for bulk output, and well below the 4 MiB of a message. */
const READ_BYTES = 512 * 1024;
/** After the end of the guest's streams: how long output that nobody takes holds the process's end back, as runc. */
const UNDELIVERED_MS = 10_000;

/** Checks the names at once (InvalidArgument); opens nothing. */
export function createProcessIo(options: StdioOptions): ProcessIo {
  return new HostStreams(options, parseStream(options.stdin, 'stdin'), parseStream(options.stdout, 'stdout'), parseStream(options.stderr, 'stderr'));
}

class HostStreams implements ProcessIo {
  private readonly owned = new UndoStack();
  private input: InputSource | undefined;
  private output: OutputSink = new NullSink();
  private error: OutputSink = new NullSink();
  private isStdinFinished = false;
  private isInputOver = false;
  private isClosed = false;

  constructor(
    private readonly options: StdioOptions,
    private readonly stdin: StreamTarget,
    private readonly stdout: StreamTarget,
    private readonly stderr: StreamTarget,
  ) {}

  async open(): Promise<void> {
    await UndoStack.guard(async (undo) => {
      if (this.stdin.kind === 'path') {
        const source = openSource(this.stdin.path);
        this.input = source;
        undo.push('stdin', () => {
          source.close();
        });
      }
      await this.openOutputs(undo);
      undo.moveTo(this.owned);
    });
    if (this.isStdinFinished) {
      this.input?.finish();
    }
    if (this.isClosed) {
      this.release();
    }
  }

  async copy(streams: GuestStreams): Promise<void> {
    void this.copyInput(streams);
    const outputs = [this.copyOutput('stdout', (max) => streams.readStdout(max), this.output)];
    if (!this.options.terminal) {
      outputs.push(this.copyOutput('stderr', (max) => streams.readStderr(max), this.error));
    }
    await Promise.all(outputs);
    this.isInputOver = true;
    this.input?.close();
    await Promise.all([this.output.flush(UNDELIVERED_MS), this.error.flush(UNDELIVERED_MS)]);
  }

  closeStdin(): void {
    this.isStdinFinished = true;
    this.input?.finish();
  }

  close(): void {
    this.isClosed = true;
    this.release();
  }

  private release(): void {
    void this.owned.unwind((error) => {
      this.options.logger.warn('closing a stream failed', { error: error.message });
    });
  }

  private async openOutputs(undo: UndoStack): Promise<void> {
    const { containerId, namespace, terminal } = this.options;
    const own = (what: string, sink: OutputSink): OutputSink => {
      undo.push(what, () => {
        sink.close();
      });
      return sink;
    };
    if (this.stdout.kind === 'binary') {
      const program = await LoggerProcess.start(this.stdout, { containerId, namespace }, this.onBroken('log program'));
      undo.push('log program', () => {
        program.stop();
      });
      this.output = program.stdout;
      this.error = program.stderr;
      return;
    }
    this.output = own('stdout', openTarget(this.stdout, 'stdout', this.onBroken('stdout')));
    if (!terminal) {
      const isShared = this.stdout.kind === 'file' && this.stderr.kind === 'file' && this.stdout.path === this.stderr.path;
      this.error = isShared ? this.output : own('stderr', openTarget(this.stderr, 'stderr', this.onBroken('stderr')));
    }
  }

  private onBroken(what: string): (error: Error) => void {
    return (error) => {
      this.options.logger.warn('output is lost from here on', { stream: what, error: error.message });
    };
  }

  private async copyOutput(what: string, read: (maxBytes: number) => Promise<Uint8Array>, sink: OutputSink): Promise<void> {
    try {
      for (;;) {
        const bytes = await read(READ_BYTES);
        if (bytes.length === 0) {
          return;
        }
        await sink.write(bytes);
      }
    } catch (reason) {
      this.options.logger.debug('reading from the guest ended', { stream: what, error: describeError(reason) });
    }
  }

  private async copyInput(streams: GuestStreams): Promise<void> {
    try {
      for (let bytes = await this.input?.read(); bytes !== undefined; bytes = await this.input?.read()) {
        for (let at = 0; at < bytes.length; ) {
          const taken = await streams.writeStdin(bytes.subarray(at));
          if (taken === 0) {
            return;
          }
          at += taken;
        }
      }
      // A console has no end of input of its own; closing it would hang the process up.
      if (!this.options.terminal && !this.isInputOver && !this.isClosed) {
        await streams.closeStdin();
      }
    } catch (reason) {
      this.options.logger.debug('writing to the guest ended', { error: describeError(reason) });
    }
  }
}

function openTarget(target: StreamTarget, what: string, onBroken: (error: Error) => void): OutputSink {
  switch (target.kind) {
    case 'path':
      return openPathSink(target.path, what, onBroken);
    case 'file':
      return openFileSink(target.path, what, onBroken);
    case 'none':
    case 'binary':
      return new NullSink();
  }
}
