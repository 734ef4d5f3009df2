/** `kata-runtime factory init | destroy | status`. */
import { closeSync, mkdirSync, openSync, readFileSync, rmSync } from 'node:fs';
import { dirname } from 'node:path';
import { writeFileAtomic } from '../base/atomic-file';
import { KataError } from '../base/errors';
import type { CachedVmReport, FactoryReport, TemplateReport } from '../factory/report';
import type { PreflightPoint } from '../factory/preflight';
import type { Registrar } from './registrar';
import type { Session } from './session';

const DETACH_WAIT_MS = 30_000;
const DETACH_POLL_MS = 50;

const load = {
  operate: () => import('../factory/operate'),
  preflight: () => import('../factory/preflight'),
  report: () => import('../factory/report'),
  create: () => import('../factory/create'),
};

interface InitOptions {
  readonly detach?: boolean;
  readonly pidFile?: string;
}

/** Fires at SIGTERM or SIGINT. */
function endSignal(): AbortSignal {
  const controller = new AbortController();
  for (const name of ['SIGTERM', 'SIGINT'] as const) {
    process.once(name, () => { controller.abort(new KataError('Canceled', `ended by ${name}`)); });
  }
  return controller.signal;
}

function preflightLine({ name, ok, detail, remedy }: PreflightPoint): string {
  return `${ok ? 'pass' : 'FAIL'}  ${name}: ${detail}${remedy === '' ? '' : ` (${remedy})`}\n`;
}

async function runPreflight(session: Session): Promise<void> {
  const { preflight } = await load.preflight();
  const { hostDeps } = await load.create();
  const points = await preflight(session.loadConfig(), hostDeps(session.logger));
  session.host.out(points.map(preflightLine).join(''));
  const failed = points.filter(({ ok }) => !ok);
  const [first] = failed;
  if (first !== undefined) {
    throw new KataError('FailedPrecondition', `initialize the factory: ${failed.map(({ name, detail }) => `${name}: ${detail}`).join('; ')}`, { hint: first.remedy });
  }
}

function pidFileOf(endpoint: string, options: InitOptions): string {
  return options.pidFile ?? `${endpoint}.pid`;
}

async function serve(session: Session, options: InitOptions): Promise<void> {
  const { serveCache } = await load.operate();
  const config = session.loadConfig();
  const pidFile = pidFileOf(config.factory.vmCacheEndpoint, options);
  process.on('SIGPIPE', () => undefined);
  await serveCache(config, {
    logger: session.logger,
    signal: endSignal(),
    onListening: (endpoint) => {
      writeFileAtomic(pidFile, `${String(process.pid)}\n`, 0o644);
      session.host.out(`VM cache server pid = ${String(process.pid)}, listening on ${endpoint}\n`);
    },
  });
  rmSync(pidFile, { force: true });
}

/** Starts this command once more in the background, and returns when it serves. */
async function detach(session: Session, options: InitOptions): Promise<void> {
  const { factory } = session.loadConfig();
  const { reportFactory } = await load.report();
  const { spawn } = await import('node:child_process');
  const [program = '', ...args] = process.argv.slice(1);
  // A file, not a pipe: the server goes on when nobody reads any more.
  const said = `${factory.vmCacheEndpoint}.err`;
  mkdirSync(dirname(said), { recursive: true, mode: 0o755 });
  const fd = openSync(said, 'w+', 0o600);
  try {
    const child = spawn(process.execPath, [program, ...args.filter((arg) => !/^--?detach$/.test(arg))], { detached: true, stdio: ['ignore', 'ignore', fd] });
    child.unref();
    const end = performance.now() + DETACH_WAIT_MS;
    while (child.exitCode === null && child.signalCode === null && performance.now() < end) {
      const { cache } = await reportFactory(session.loadConfig());
      if (cache?.pid === child.pid) {
        session.host.out(`VM cache server pid = ${String(child.pid)}, listening on ${factory.vmCacheEndpoint}, pid file ${pidFileOf(factory.vmCacheEndpoint, options)}\n`);
        return;
      }
      await new Promise((resolve) => setTimeout(resolve, DETACH_POLL_MS));
    }
    child.kill();
    throw new KataError('Unavailable', `start the VM cache server in the background: ${readFileSync(said, 'utf8').trim().replace(/^kata-runtime: /, '') || 'it does not answer'}`);
  } finally {
    closeSync(fd);
    rmSync(said, { force: true });
  }
}

/** Makes the template, or serves the cache until it is told to end. */
export async function runInit(session: Session, options: InitOptions): Promise<void> {
  const { factory } = session.loadConfig();
  if (factory.vmCacheNumber === 0 && !factory.enableTemplate) {
    throw new KataError('FailedPrecondition', 'vm factory or VMCache is not enabled', { hint: 'set enable_template = true or vm_cache_number in [factory]' });
  }
  await runPreflight(session);
  if (factory.vmCacheNumber > 0) {
    await (options.detach === true ? detach(session, options) : serve(session, options));
    return;
  }
  const { initTemplate } = await load.operate();
  const made = await initTemplate(session.loadConfig(), session.logger, endSignal());
  session.host.out(`template ${made.key} in ${made.folder}\nvm factory initialized\n`);
}

export async function runDestroy(session: Session): Promise<void> {
  const { destroyFactory } = await load.operate();
  const { quit, destroyed, problems } = await destroyFactory(session.loadConfigUnchecked());
  if (quit) {
    session.host.out('the VM cache server ends\n');
  }
  for (const { key, users } of destroyed) {
    const still = users.length === 0 ? '' : `: ${String(users.length)} running virtual machine(s) keep its memory until they end (pid ${users.join(', ')})`;
    session.host.out(`template ${key} destroyed${still}\n`);
  }
  if (problems.length > 0) {
    throw new KataError('Unavailable', `destroy the factory: ${problems.join('; ')}`, { hint: 'something still loads it: try again' });
  }
  session.host.out('vm factory destroyed\n');
}

const MIB = 1048576;

function mebibytes(bytes: number | undefined): string {
  return bytes === undefined ? '?' : `${String(Math.round(bytes / MIB))}MiB`;
}

function vmLine({ pid, cpu, memoryMiB, pssBytes }: CachedVmReport): string {
  return `VM pid = ${String(pid)} Cpu = ${String(cpu)} Memory = ${String(memoryMiB)}MiB Pss = ${mebibytes(pssBytes)}\n`;
}

function templateLine(template: TemplateReport): string {
  const { key, current, complete, ageSeconds, vcpus, memoryMiB, usedBytes, users, path } = template;
  const what = complete ? `${String(vcpus)} Cpu ${String(memoryMiB)}MiB, age ${String(ageSeconds)}s` : 'unfinished';
  const using = users.map(({ pid, pssBytes }) => `${String(pid)} (${mebibytes(pssBytes)})`).join(' ');
  return `template ${key}${current ? ' (current)' : ''}: ${what}, uses ${mebibytes(usedBytes)}, ${String(users.length)} user(s)${using === '' ? '' : `: ${using}`}, ${path}\n`;
}

/** The lines of upstream first, then what upstream does not say. */
export function statusText(report: FactoryReport): string {
  const { cache, templates, counts } = report;
  const lines: string[] = [];
  if (cache !== undefined) {
    lines.push(cache.pid === undefined ? `VM cache server: ${cache.error ?? 'not running'}\n` : `VM cache server pid = ${String(cache.pid)}\n`);
    lines.push(...cache.vms.map(vmLine));
    lines.push(`VM cache: ${String(cache.vms.length)} of ${String(cache.wanted)} in stock\n`);
  }
  const isOn = templates.some(({ current, complete }) => current && complete);
  lines.push(report.kind === 'none' || report.kind === 'cache' ? 'vm factory not enabled\n' : `vm factory is ${isOn ? 'on' : 'off'}\n`);
  lines.push(...templates.map(templateLine));
  lines.push(`hits: template ${String(counts.hits['template'] ?? 0)}, cache ${String(counts.hits['cache'] ?? 0)}; cache misses: ${String(counts.misses)}\n`);
  const fallbacks = Object.entries(counts.fallbacks).map(([reason, count]) => `${reason} ${String(count)}`);
  lines.push(`fallbacks to a direct boot: ${fallbacks.length === 0 ? 'none' : fallbacks.join(', ')}\n`);
  return lines.join('');
}

export async function runStatus(session: Session, options: { readonly json?: boolean }): Promise<void> {
  const { reportFactory } = await load.report();
  const report = await reportFactory(session.loadConfigUnchecked());
  session.host.out(options.json === true ? `${JSON.stringify(report, null, 2)}\n` : statusText(report));
}

export const registerFactory: Registrar = (program, run) => {
  const factory = program.command('factory').description('manage the vm factory: templates and the VM cache');
  factory
    .command('init')
    .description('make the template, or run the VM cache server')
    .option('--detach', 'run the cache server in the background')
    .option('--pid-file <file>', 'where the cache server writes its pid (default: the endpoint with .pid)')
    .addHelpText('after', '\nExamples:\n  kata-runtime factory init            enable_template = true: makes the template\n  kata-runtime factory init --detach   vm_cache_number = 3: starts the cache server')
    .action(run('factory', (session, options: InitOptions) => runInit(session, options)));
  factory
    .command('destroy')
    .description('remove the templates and end the VM cache server')
    .action(run('factory', (session) => runDestroy(session)));
  factory
    .command('status')
    .description('show templates, cached VMs, hits and fallbacks')
    .option('--json', 'print it as JSON')
    .action(run('factory', (session, options: { json?: boolean }) => runStatus(session, options)));
};

