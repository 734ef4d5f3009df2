/** `kata-runtime ps`: the sandboxes of this machine. */
import type { CliHost } from './host';
import type { Registrar } from './registrar';
import { askSandbox, readSandbox, sandboxIds, startDate, type DiskSandbox, type LiveSandbox } from './sandboxes';
import type { Session } from './session';

export interface SandboxRow {
  readonly id: string;
  /** The sandbox's own (`creating`, `running`, ...), or `dead` (its shim is gone), `silent` (its shim lives and does not answer), `unknown`. */
  readonly state: string;
  readonly hypervisor: string;
  readonly vmSource: string;
  readonly vcpus: number | undefined;
  readonly memoryMiB: number | undefined;
  readonly startedAt: string | undefined;
  readonly shimPid: number | undefined;
  readonly vmPid: number | undefined;
  readonly containers: readonly { readonly id: string; readonly state: string }[];
}

/** The state where no shim tells it. A shim serves its monitor once its sandbox is made. */
function stateOnDisk({ own, shimAlive }: DiskSandbox): string {
  if (own === undefined) {
    return 'unknown';
  }
  if (!shimAlive) {
    return 'dead';
  }
  if (own.freed) {
    return 'stopped';
  }
  return Object.values(own.containers).every(({ state }) => state === 'creating') ? 'creating' : 'silent';
}

export function makeRow(host: CliHost, disk: DiskSandbox, live: LiveSandbox | undefined): SandboxRow {
  const { own } = disk;
  const started = own === undefined ? undefined : startDate(host, own.shim.startTime)?.toISOString();
  return {
    id: disk.id,
    state: live?.state ?? stateOnDisk(disk),
    hypervisor: live?.hypervisor ?? own?.vm?.type ?? '',
    vmSource: live?.vmSource ?? '',
    vcpus: live?.vcpus,
    memoryMiB: live?.memoryMiB,
    startedAt: live?.startedAt ?? started,
    shimPid: own?.shim.pid,
    vmPid: own?.vm?.processes[0]?.pid,
    containers: live?.containers ?? Object.entries(own?.containers ?? {}).map(([id, container]) => ({ id, state: container.state })),
  };
}

/** `3s`, `5m`, `2h`, `4d`. */
export function formatAge(milliseconds: number): string {
  const seconds = Math.max(0, Math.floor(milliseconds / 1000));
  const units: readonly [number, string][] = [[86_400, 'd'], [3_600, 'h'], [60, 'm']];
  const unit = units.find(([size]) => seconds >= size);
  return unit === undefined ? `${String(seconds)}s` : `${String(Math.floor(seconds / unit[0]))}${unit[1]}`;
}

/** Columns padded to their widest cell. */
export function formatTable(rows: readonly (readonly string[])[]): string {
  const widths = (rows[0] ?? []).map((_, column) => Math.max(...rows.map((row) => (row[column] ?? '').length)));
  return rows.map((row) => `${row.map((cell, column) => cell.padEnd(widths[column] ?? 0)).join('  ').trimEnd()}\n`).join('');
}

/** Every sandbox on disk, with what its shim says; all shims are asked at once. */
export async function sandboxRows(host: CliHost): Promise<SandboxRow[]> {
  const root = host.roots.state;
  return Promise.all(
    sandboxIds(root).map(async (id) => {
      const disk = readSandbox(root, id);
      return makeRow(host, disk, disk.own !== undefined && !disk.shimAlive ? undefined : await askSandbox(host, id));
    }),
  );
}

export interface PsOptions {
  readonly json?: boolean;
  readonly quiet?: boolean;
}

export async function runPs(session: Session, options: PsOptions): Promise<void> {
  const { host } = session;
  const rows = await sandboxRows(host);
  if (options.json === true) {
    host.out(`${JSON.stringify(rows, null, 2)}\n`);
    return;
  }
  if (options.quiet === true) {
    host.out(rows.map((row) => `${row.id}\n`).join(''));
    return;
  }
  const now = host.now().getTime();
  const cells = rows.map((row) => [
    row.id,
    row.state,
    row.hypervisor === '' ? '-' : row.hypervisor,
    row.vmSource === '' ? '-' : row.vmSource,
    row.vcpus === undefined ? '-' : String(row.vcpus),
    row.memoryMiB === undefined ? '-' : `${String(row.memoryMiB)} MiB`,
    row.startedAt === undefined ? '-' : formatAge(now - Date.parse(row.startedAt)),
    row.containers.map((container) => `${container.id} (${container.state})`).join(', '),
  ]);
  host.out(formatTable([['SANDBOX', 'STATE', 'HYPERVISOR', 'VM FROM', 'VCPUS', 'MEMORY', 'AGE', 'CONTAINERS'], ...cells]));
}

export const registerPs: Registrar = (program, run) => {
  program
    .command('ps')
    .description('list the sandboxes of this machine with their containers')
    .option('--json', 'print them as JSON')
    .option('-q, --quiet', 'print the ids only')
    .addHelpText('after', '\nStates: those of the sandbox; dead: its shim is gone (see gc); silent: its shim lives and does not answer.\n\nExamples:\n  kata-runtime exec $(kata-runtime ps -q | head -1)')
    .action(run('ps', (session, options: PsOptions) => runPs(session, options)));
};
