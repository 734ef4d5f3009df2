/** The command line: global options, subcommands, and what happens when something goes wrong. */
import { Command, CommanderError } from 'commander';
import { describeError } from '../base/errors';
import type { CliHost } from './host';
import type { Registrar, Runner } from './registrar';
import { registerCheck } from './check/command';
import { registerCollectData } from './collect/command';
import { registerCompletion } from './completion/command';
import { registerDirectVolume } from './direct-volume';
import { registerEnv } from './env/command';
import { registerExec } from './exec/command';
import { registerExplain } from './explain';
import { registerGc } from './gc/command';
import { registerFactory } from './factory';
import { registerIptables } from './iptables';
import { registerMetrics } from './metrics';
import { registerMonitor } from './monitor/command';
import { registerPs } from './ps';
import { defaultConfigPaths, Session, type GlobalOptions } from './session';
import { versionText } from './version';

const REGISTRARS: readonly Registrar[] = [
  registerCheck,
  registerEnv,
  registerExec,
  registerFactory,
  registerMetrics,
  registerDirectVolume,
  registerIptables,
  registerPs,
  registerGc,
  registerCollectData,
  registerExplain,
  registerMonitor,
  registerCompletion,
];

/** Go's flags come with one dash or two; commander takes one dash for a run of short ones. Behind `--` nothing changes. */
export function normalizeDashes(args: readonly string[]): string[] {
  const end = args.indexOf('--');
  return args.map((arg, index) => ((end < 0 || index < end) && /^-[a-z][a-z0-9]+(-[a-z0-9]+)*(=|$)/i.test(arg) ? `-${arg}` : arg));
}

interface RawGlobals {
  readonly config?: string;
  readonly kataConfig?: string;
  readonly log: string;
  readonly logFormat: string;
  readonly rootless: string;
}

function globalsOf(program: Command): GlobalOptions {
  const raw = program.opts<RawGlobals>();
  return { config: raw.config ?? raw.kataConfig, log: raw.log, logFormat: raw.logFormat, rootless: raw.rootless };
}

/** The whole program. `output` takes what commander itself prints (help, version, usage errors). */
export function makeProgram(host: CliHost, output: { out(text: string): void; err(text: string): void }): Command {
  const program = new Command('kata-runtime');
  program
    .description('manages sandboxes of the Kata Containers runtime: one virtual machine per pod')
    .version(versionText().trimEnd(), '-v, --version', 'print the version')
    .helpOption('-h, --help', 'show help')
    .enablePositionalOptions()
    .exitOverride()
    .configureOutput({ writeOut: (text) => output.out(text), writeErr: (text) => output.err(text), outputError: (text, write) => write(text.replace(/^error: /, 'kata-runtime: ')) })
    .option('--config <file>', 'configuration file (default: the first that exists of --show-default-config-paths)')
    .option('--kata-config <file>', 'the same as --config')
    .option('--log <file>', 'log file', '/dev/null')
    .option('--log-format <format>', 'format of the log: text or json', 'text')
    .option('--root <folder>', 'accepted for compatibility, has no effect')
    .option('--rootless <value>', 'run without root: auto, true or false', 'auto')
    .option('--systemd-cgroup', 'accepted for compatibility, has no effect')
    .option('--show-default-config-paths', 'print where the configuration is looked for, and end')
    .option('--kata-show-default-config-paths', 'the same as --show-default-config-paths')
    .addHelpText('after', '\nExamples:\n  kata-runtime check                         is this machine able?\n  kata-runtime --config ./my.toml env --json  what is configured?\n  kata-runtime exec <sandbox-id>              a shell in the guest\n\nWithout arguments, a group of commands prints its help. Each command has --help.');
  const run: Runner = (command, work) => async (...args) => {
    const session = new Session(host, globalsOf(program), command);
    try {
      // commander appends the command itself.
      await work(session, ...(args.slice(0, -1) as never));
    } catch (reason) {
      if (command !== 'check') {
        // Its log is stderr, where the error is printed anyway.
        session.logger.error(describeError(reason));
      }
      throw reason;
    } finally {
      session.close();
    }
  };
  program
    .command('version')
    .description('display version details')
    .option('--json', 'print it as JSON')
    .action((options: { json?: boolean }) => {
      const [version = '', commit = '', oci = ''] = versionText().trimEnd().split('\n').map((line) => line.slice(line.indexOf(':') + 1).trim());
      host.out(options.json === true ? `${JSON.stringify({ version, commit, oci })}\n` : versionText());
    });
  for (const register of REGISTRARS) {
    register(program, run);
  }
  inherit(program, program);
  return program;
}

/** Subcommands made with `command()` inherit most settings; those added later do not. */
function inherit(program: Command, parent: Command): void {
  for (const command of parent.commands) {
    command.copyInheritedSettings(program);
    command.helpOption('-h, --help', 'show help');
    inherit(program, command);
  }
}

/** `<message> (<remedy>)`, in one line. */
export function errorLine(reason: unknown): string {
  return `kata-runtime: ${describeError(reason).replaceAll('\n', ' ')}\n`;
}

/** `kata-runtime factory status`: the command that the words mean, as far as they mean one. */
function commandOf(program: Command, args: readonly string[]): string {
  let [command, name] = [program, program.name()];
  for (const word of args.filter((arg) => !arg.startsWith('-'))) {
    const next = command.commands.find((one) => one.name() === word || one.aliases().includes(word));
    if (next !== undefined) {
      [command, name] = [next, `${name} ${next.name()}`];
    }
  }
  return name;
}

/** What commander says of a wrong command line, in one line, with where to look. */
function usageLine(program: Command, args: readonly string[], said: string): string {
  const line = said.trim().replaceAll('\n', ' ');
  return `${line}${line.endsWith('?)') ? '' : ` (see ${commandOf(program, args)} --help)`}\n`;
}

function wantsDefaultPaths(args: readonly string[]): boolean {
  const first = args.findIndex((arg) => !arg.startsWith('-'));
  const globals = first < 0 ? args : args.slice(0, first);
  return globals.some((arg) => /^--(kata-)?show-default-config-paths$/.test(arg));
}

/** Runs one command line; resolves with the exit code: 0 only for success. Never rejects. */
export async function runCli(argv: readonly string[], host: CliHost): Promise<number> {
  const args = normalizeDashes(argv);
  if (wantsDefaultPaths(args)) {
    host.out(defaultConfigPaths().map((path) => `${path}\n`).join(''));
    return 0;
  }
  const said: string[] = [];
  const program = makeProgram(host, { out: (text) => host.out(text), err: (text) => said.push(text) });
  if (args.length === 0) {
    program.outputHelp();
    return 0;
  }
  try {
    await program.parseAsync(args, { from: 'user' });
    return 0;
  } catch (reason) {
    if (!(reason instanceof CommanderError)) {
      host.err(errorLine(reason));
      return 1;
    }
    const help = reason.code === 'commander.help';
    if (help || reason.exitCode === 0) {
      host.out(said.join(''));
      return 0;
    }
    host.err(usageLine(program, args, said.join('')));
    return 1;
  }
}
