/** One run of the command: the global options, the log, and the configuration, which is read when a command asks for it. */
import { closeSync, openSync, writeSync } from 'node:fs';
import { KataError } from '../base/errors';
import { Logger, type LogLevel } from '../base/log';
import { DEFAULT_SEARCH_PATHS, loadConfig } from '../virtcontainers/config/load';
import type { RuntimeConfig } from '../virtcontainers/config/types';
import type { CliHost } from './host';

export interface GlobalOptions {
  readonly config?: string | undefined;
  readonly log: string;
  readonly logFormat: string;
  readonly rootless: string;
}

const TRUE = ['1', 't', 'T', 'TRUE', 'true', 'True'];
const FALSE = ['0', 'f', 'F', 'FALSE', 'false', 'False'];

/** `--rootless`: '' and `auto` are found out by the user id. */
export function parseRootless(text: string, euid: number): boolean {
  if (text === '' || text === 'auto') {
    return euid !== 0;
  }
  if (TRUE.includes(text) || FALSE.includes(text)) {
    return TRUE.includes(text);
  }
  throw new KataError('InvalidArgument', `parse --rootless: ${JSON.stringify(text)} is neither true, false nor auto`, { hint: 'leave it out to have it found out' });
}

/** A logfmt line as one JSON object. */
export function jsonLine(line: string): string {
  const fields: Record<string, string> = {};
  for (const [, key = '', value = ''] of line.matchAll(/([\w.-]+)=("(?:[^"\\]|\\.)*"|\S*)/g)) {
    fields[key] = value.startsWith('"') ? String(JSON.parse(value)) : value;
  }
  return `${JSON.stringify(fields)}\n`;
}

export class Session {
  readonly rootless: boolean;
  readonly logger: Logger;
  private logFd: number | undefined;
  private config: RuntimeConfig | undefined;
  private looseConfig: RuntimeConfig | undefined;

  /** Opens the log. InvalidArgument for a wrong global option. */
  constructor(
    readonly host: CliHost,
    readonly options: GlobalOptions,
    readonly command: string,
  ) {
    if (options.logFormat !== 'text' && options.logFormat !== 'json') {
      throw new KataError('InvalidArgument', `unknown log-format ${JSON.stringify(options.logFormat)}`, { hint: 'use --log-format text or --log-format json' });
    }
    this.rootless = parseRootless(options.rootless, host.euid);
    // `check` tells its probes to the user, on stderr; --log is not for it.
    const toStderr = command === 'check';
    const sink = toStderr ? (line: string): void => host.err(line) : this.openLog();
    const level: LogLevel = toStderr ? 'warn' : 'info';
    this.logger = Logger.to(options.logFormat === 'json' ? (line): void => sink(jsonLine(line)) : sink, level, {
      name: 'kata-runtime',
      source: 'runtime',
      arch: host.arch,
      pid: process.pid,
      command,
    });
  }

  private openLog(): (line: string) => void {
    if (this.options.log === '/dev/null') {
      return () => undefined;
    }
    let fd: number;
    try {
      fd = openSync(this.options.log, 'as', 0o640);
    } catch (reason) {
      throw KataError.from(reason, `open the log ${this.options.log}`, { hint: 'correct --log' });
    }
    this.logFd = fd;
    return (line) => {
      try {
        writeSync(fd, line);
      } catch {
        // a full disk must not fail the command
      }
    };
  }

  /** The configuration with every file that it names checked; read once. */
  loadConfig(): RuntimeConfig {
    this.config ??= this.read(true);
    return this.config;
  }

  /** The configuration as it is written: files that it names may be missing. */
  loadConfigUnchecked(): RuntimeConfig {
    this.looseConfig ??= this.config ?? this.read(false);
    return this.looseConfig;
  }

  private read(checkFiles: boolean): RuntimeConfig {
    const { config } = this.options;
    const loaded = loadConfig({ env: this.host.env, checkFiles, ...(config === undefined || config === '' ? {} : { configPath: config }) });
    this.logger.info('loaded configuration', { file: loaded.path });
    for (const warning of loaded.warnings) {
      this.logger.warn(warning);
    }
    return loaded;
  }

  close(): void {
    if (this.logFd !== undefined) {
      closeSync(this.logFd);
      this.logFd = undefined;
    }
  }
}

/** What `--show-default-config-paths` prints. */
export function defaultConfigPaths(): readonly string[] {
  return DEFAULT_SEARCH_PATHS;
}
