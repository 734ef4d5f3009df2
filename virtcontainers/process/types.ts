import type { ProcessRef } from '../../agent-client/types';

export type ProcessState = 'created' | 'starting' | 'running' | 'stopped';

/** How a process ended. `at` is the host's wall clock. 255 where the guest could not say. */
export interface ProcessExit {
  readonly status: number;
  readonly at: Date;
}

/** The guest's ends of a process's streams. Reads answer empty at the end; all reject when the agent is gone. */
export interface GuestStreams {
  readStdout(maxBytes: number): Promise<Uint8Array>;
  /** Not with a terminal. */
  readStderr(maxBytes: number): Promise<Uint8Array>;
  /** Bytes taken. */
  writeStdin(data: Uint8Array): Promise<number>;
  closeStdin(): Promise<void>;
}

/** The host's ends. Implemented by shim/stdio; made by who creates the process. */
export interface ProcessIo {
  /** Opens the host's side, before the guest process starts. A failure fails the start with its reason. */
  open(): Promise<void>;
  /** Copies until the output is complete and delivered. Never rejects; broken streams end. */
  copy(streams: GuestStreams): Promise<void>;
  /** The client has closed stdin: the guest sees the end behind all data that was written before. Idempotent, any time. */
  closeStdin(): void;
  /** Gives everything back. Idempotent, also if `open` was never called. */
  close(): void;
}

/** One process of a container: init or an exec. */
export interface Process {
  readonly ref: ProcessRef;
  readonly terminal: boolean;
  readonly state: ProcessState;
  /** Resolves once with the end of the process, after its output was delivered. Never rejects. */
  readonly exited: Promise<ProcessExit>;
  /** Set with `exited`. */
  readonly exit: ProcessExit | undefined;
  /** Starts it in the guest. FailedPrecondition unless created. After a failed start it is stopped and `exited` resolves with 255. */
  start(): Promise<void>;
  /** FailedPrecondition before start, NotFound ("process already finished") after the end. */
  signal(signal: number): Promise<void>;
  /** Remembered until a console exists; no-op without a terminal. */
  resize(rows: number, columns: number): Promise<void>;
  closeStdin(): void;
}
