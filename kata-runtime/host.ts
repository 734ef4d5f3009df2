/** What a command sees of the machine and of its caller. Tests hand in another. */
import { hostname } from 'node:os';
import { DEFAULT_ROOTS, type Roots } from '../virtcontainers/sandbox/roots';

export interface CliRoots extends Roots {
  /** Folders that hold one folder per sandbox with its shim-monitor.sock, in the order in which they are tried. */
  readonly monitor: readonly string[];
  readonly directVolumes: string;
  readonly proc: string;
  readonly sys: string;
  readonly dev: string;
  /** os-release files, the first that exists. */
  readonly osRelease: readonly string[];
}

export const CLI_ROOTS: CliRoots = {
  ...DEFAULT_ROOTS,
  monitor: [DEFAULT_ROOTS.state, '/run/kata'],
  directVolumes: '/run/kata-containers/shared/direct-volumes',
  proc: '/proc',
  sys: '/sys',
  dev: '/dev',
  osRelease: ['/etc/os-release', '/usr/lib/os-release'],
};

export interface CliHost {
  out(text: string): void;
  err(text: string): void;
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly euid: number;
  /** As process.arch. */
  readonly arch: string;
  readonly hostname: string;
  readonly roots: CliRoots;
  readonly now: () => Date;
}

/** The machine that this process runs on. */
export function realHost(): CliHost {
  return {
    out: (text) => void process.stdout.write(text),
    err: (text) => void process.stderr.write(text),
    env: process.env,
    euid: process.geteuid?.() ?? 0,
    arch: process.arch,
    hostname: hostname(),
    roots: CLI_ROOTS,
    now: () => new Date(),
  };
}
