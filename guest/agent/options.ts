import { readFileSync } from 'node:fs';
import type { LogLevel } from '../../base/log';
import { KataError } from '../../base/errors';

/** Port of the agent's service on vsock. */
export const AGENT_VSOCK_PORT = 1024;
/** Port of the debug console on vsock, unless `agent.debug_console_vport` says otherwise. */
export const DEBUG_CONSOLE_PORT = 1026;

/** How this agent runs: arguments for the mock, kernel command line for the guest. */
export interface AgentOptions {
  readonly mode: 'guest' | 'mock';
  /** Path of a unix socket to listen on. */
  readonly unixPath: string | undefined;
  readonly vsockPort: number;
  /** Host folder that stands for the shared file system, mock only. */
  readonly sharePath: string | undefined;
  /** Folder of the mock's cgroups, below each hierarchy's root. */
  readonly cgroupParent: string;
  readonly logLevel: LogLevel;
  readonly debugConsole: boolean;
  readonly debugConsolePort: number;
  /** Capacity of a process's pipes in bytes; 0 leaves the kernel's 64 KiB. */
  readonly pipeSizeBytes: number;
  /** How long to wait for a device, in milliseconds. */
  readonly hotplugTimeoutMs: number;
}

const DEFAULTS: AgentOptions = {
  mode: 'guest',
  unixPath: undefined,
  vsockPort: AGENT_VSOCK_PORT,
  sharePath: undefined,
  cgroupParent: '',
  logLevel: 'info',
  debugConsole: false,
  debugConsolePort: DEBUG_CONSOLE_PORT,
  pipeSizeBytes: 0,
  hotplugTimeoutMs: 10_000,
};

const LEVELS: Readonly<Record<string, LogLevel>> = {
  trace: 'debug', debug: 'debug', info: 'info', warn: 'warn', warning: 'warn', error: 'error', fatal: 'error', critical: 'error',
};

function parsePort(text: string, fallback: number): number {
  const port = Number(text);
  return Number.isInteger(port) && port > 0 && port < 0xffffffff ? port : fallback;
}

function parseServerAddress(address: string): Partial<AgentOptions> {
  if (address.startsWith('unix://')) {
    return { unixPath: address.slice('unix://'.length) };
  }
  const vsock = /^vsock:\/\/(?:-1|\d+):(\d+)$/.exec(address);
  return vsock?.[1] === undefined ? {} : { vsockPort: parsePort(vsock[1], AGENT_VSOCK_PORT) };
}

/** What one `agent.` word of the kernel command line changes. Words that are not known or not valid change nothing. */
function parseWord(key: string, value: string): Partial<AgentOptions> {
  switch (key) {
    case 'agent.log': {
      const logLevel = LEVELS[value];
      return logLevel === undefined ? {} : { logLevel };
    }
    case 'agent.debug_console':
      return { debugConsole: value === '' || value === 'true' || value === '1' };
    case 'agent.debug_console_vport':
      return { debugConsole: true, debugConsolePort: parsePort(value, DEBUG_CONSOLE_PORT) };
    case 'agent.container_pipe_size': {
      const size = Number(value);
      return Number.isInteger(size) && size >= 0 && size <= 64 * 1024 * 1024 ? { pipeSizeBytes: size } : {};
    }
    case 'agent.hotplug_timeout': {
      const seconds = Number(value);
      return seconds > 0 && seconds <= 3600 ? { hotplugTimeoutMs: seconds * 1000 } : {};
    }
    case 'agent.server_addr':
      return parseServerAddress(value);
    default:
      return {};
  }
}

/** Options of a guest from its kernel command line. Never fails: a guest with a wrong word still has to boot. */
export function optionsFromCommandLine(text: string): AgentOptions {
  let options = DEFAULTS;
  for (const word of text.trim().split(/\s+/)) {
    const at = word.indexOf('=');
    options = { ...options, ...parseWord(at < 0 ? word : word.slice(0, at), at < 0 ? '' : word.slice(at + 1).replace(/^"|"$/g, '')) };
  }
  return options;
}

/** Options from arguments: `--listen unix:///path [--mock] [--share DIR] [--cgroup-parent DIR] [--log LEVEL] [--pipe-size BYTES]`. */
export function optionsFromArguments(args: readonly string[], commandLine: string): AgentOptions {
  let options = args.includes('--mock') ? { ...DEFAULTS, mode: 'mock' as const } : optionsFromCommandLine(commandLine);
  for (let at = 0; at < args.length; at++) {
    const name = args[at] ?? '';
    if (name === '--mock') {
      continue;
    }
    const value = args[++at];
    if (value === undefined) {
      throw new KataError('InvalidArgument', `argument ${name}: value missing`);
    }
    options = { ...options, ...parseArgument(name, value) };
  }
  return options;
}

function parseArgument(name: string, value: string): Partial<AgentOptions> {
  switch (name) {
    case '--listen':
      return parseServerAddress(value);
    case '--share':
      return { sharePath: value };
    case '--cgroup-parent':
      return { cgroupParent: value };
    case '--log':
      return parseWord('agent.log', value);
    case '--pipe-size':
      return parseWord('agent.container_pipe_size', value);
    default:
      throw new KataError('InvalidArgument', `argument ${name}: not known`);
  }
}

/** The kernel command line; empty where /proc is not there. */
export function readCommandLine(): string {
  try {
    return readFileSync('/proc/cmdline', 'utf8');
  } catch {
    return '';
  }
}
