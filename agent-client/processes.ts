import { MAX_MESSAGE_BYTES } from 'ttrpc-ts';
import { KataError } from '../base/errors';
import { AgentServiceDefinition } from '../gen/agent/agent';
import type { AgentChannel, WireMethod } from './channel';
import { toWireProcess } from './oci';
import type { AgentClient, ProcessRef } from './types';
import { saysEndOfStream, saysNoSuchProcess } from './wire-error';

const { fullName, methods } = AgentServiceDefinition;

/** Room for ids and framing beside the data of one message. */
const ENVELOPE_BYTES = 4096;

/** The most data that one read or write can carry. */
export const MAX_STREAM_BYTES = MAX_MESSAGE_BYTES - ENVELOPE_BYTES;

const NO_DATA = new Uint8Array(0);

type ReadMethod = WireMethod<{ containerId: string; execId: string; len: number }, { data: Uint8Array }>;

async function read(
  channel: AgentChannel,
  method: ReadMethod,
  process: ProcessRef,
  maxBytes: number,
  signal: AbortSignal | undefined,
): Promise<Uint8Array> {
  const len = Math.min(maxBytes, MAX_STREAM_BYTES);
  try {
    const { data } = await channel.call(fullName, method, { ...refOf(process), len }, { timeoutMs: 'none', signal });
    if (data.length > len) {
      throw new KataError('DataLoss', `agent call ${method.name}: ${data.length} bytes came where ${len} were asked for`);
    }
    return data;
  } catch (reason) {
    if (reason instanceof KataError && reason.code !== 'Unavailable' && saysEndOfStream(reason)) {
      return NO_DATA;
    }
    throw reason;
  }
}

async function writeStdin(channel: AgentChannel, process: ProcessRef, data: Uint8Array): Promise<number> {
  const piece = data.length > MAX_STREAM_BYTES ? data.subarray(0, MAX_STREAM_BYTES) : data;
  const { len } = await channel.call(fullName, methods.writeStdin, { ...refOf(process), data: piece });
  if (len > piece.length) {
    throw new KataError('DataLoss', `agent call WriteStdin: ${len} bytes were taken of ${piece.length}`);
  }
  return len;
}

async function signalProcess(
  channel: AgentChannel,
  containerId: string,
  execId: string | undefined,
  signal: number,
): Promise<void> {
  try {
    await channel.call(fullName, methods.signalProcess, { containerId, execId: execId ?? '', signal });
  } catch (reason) {
    if (reason instanceof KataError && saysNoSuchProcess(reason)) {
      return;
    }
    throw reason;
  }
}

function refOf({ containerId, execId }: ProcessRef): { containerId: string; execId: string } {
  return { containerId, execId };
}

type ProcessCalls = Pick<
  AgentClient,
  | 'execProcess'
  | 'signalProcess'
  | 'waitProcess'
  | 'writeStdin'
  | 'closeStdin'
  | 'readStdout'
  | 'readStderr'
  | 'ttyWinResize'
>;

/** The calls about single processes and their streams. */
export function processCalls(channel: AgentChannel): ProcessCalls {
  return {
    execProcess: async (process, spec) => {
      const ports = { stdinPort: 0, stdoutPort: 0, stderrPort: 0 };
      const message = { ...refOf(process), stringUser: undefined, process: toWireProcess(spec), ...ports };
      await channel.call(fullName, methods.execProcess, message);
    },
    signalProcess: async (containerId, execId, signal) => signalProcess(channel, containerId, execId, signal),
    waitProcess: async (process, signal) => {
      const { status } = await channel.call(fullName, methods.waitProcess, refOf(process), { timeoutMs: 'none', signal });
      return status;
    },
    writeStdin: async (process, data) => writeStdin(channel, process, data),
    closeStdin: async (process) => {
      await channel.call(fullName, methods.closeStdin, refOf(process));
    },
    readStdout: async (process, maxBytes, signal) => read(channel, methods.readStdout, process, maxBytes, signal),
    readStderr: async (process, maxBytes, signal) => read(channel, methods.readStderr, process, maxBytes, signal),
    ttyWinResize: async (process, row, column) => {
      await channel.call(fullName, methods.ttyWinResize, { ...refOf(process), row, column });
    },
  };
}
