/** What crashes left behind: found, explained, and how each is removed. Nothing of a living sandbox is ever in the list. */
import { readdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import { removeShareFolders } from '../../virtcontainers/fs-share/share';
import { mountPointsBelow } from '../../virtcontainers/fs-share/mounts';
import { sharePaths } from '../../virtcontainers/fs-share/paths';
import { cleanupContainer } from '../../virtcontainers/sandbox/cleanup';
import { DEFAULT_DEPS, type SandboxDeps } from '../../virtcontainers/sandbox/deps';
import type { Logger } from '../../base/log';
import type { CliHost } from '../host';
import { readSandbox, sandboxIds, type DiskSandbox } from '../sandboxes';

export interface Leftover {
  readonly kind: 'sandbox' | 'state folder' | 'VM folder' | 'share' | 'volume note';
  readonly path: string;
  /** One sentence for the user. */
  readonly why: string;
  readonly remove: () => Promise<void> | void;
}

/** A folder that is younger may belong to a sandbox that is being made this moment. */
const GRACE_MS = 60_000;
/** Folder of the VM factory below the VM root, as upstream has it; templates are the factory's own to remove. */
const TEMPLATES = 'template';

interface Survey {
  readonly host: CliHost;
  readonly logger: Logger;
  readonly deps: SandboxDeps;
  readonly sandboxes: ReadonlyMap<string, DiskSandbox>;
  /** Folders that are somebody else's to remove. */
  readonly keep: ReadonlySet<string>;
  /** Command lines of all processes, by pid. */
  readonly commands: ReadonlyMap<number, string>;
}

function commandLines(proc: string): Map<number, string> {
  const commands = new Map<number, string>();
  for (const name of readdirSync(proc)) {
    if (/^\d+$/.test(name)) {
      try {
        commands.set(Number(name), readFileSync(join(proc, name, 'cmdline'), 'latin1').replaceAll('\0', ' '));
      } catch {
        // it has ended
      }
    }
  }
  return commands;
}

function isOld(survey: Survey, path: string): boolean {
  const info = statSync(path, { throwIfNoEntry: false });
  return info !== undefined && survey.host.now().getTime() - Math.max(info.mtimeMs, info.ctimeMs) > GRACE_MS;
}

/** A process whose command line names the folder. */
function userOf(survey: Survey, folder: string): number | undefined {
  for (const [pid, command] of survey.commands) {
    if (pid !== process.pid && (command.includes(`${folder}/`) || command.split(' ').includes(folder))) {
      return pid;
    }
  }
  return undefined;
}

async function serves(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(path);
    const settle = (answer: boolean): void => {
      socket.destroy();
      resolve(answer);
    };
    socket.on('connect', () => settle(true));
    socket.on('error', () => settle(false));
    socket.setTimeout(1_000, () => settle(true));
  });
}

function deadSandbox(survey: Survey, sandbox: DiskSandbox): Leftover {
  const { own, id } = sandbox;
  const { roots } = survey.deps;
  const containers = Object.entries(own?.containers ?? {});
  return {
    kind: 'sandbox',
    path: join(roots.state, id),
    why: `its shim (pid ${String(own?.shim.pid)}) is gone without having cleaned up; ${String(containers.length)} container(s)`,
    remove: async () => {
      const requests = containers.length === 0 ? [[id, { bundle: '' }] as const] : containers;
      for (const [containerId, { bundle }] of requests) {
        await cleanupContainer({ sandboxId: id, containerId, bundle: bundle === '' ? join(roots.state, id) : bundle, logger: survey.logger }, survey.deps);
      }
      rmSync(join(roots.state, id), { recursive: true, force: true });
    },
  };
}

async function stateLeftovers(survey: Survey): Promise<Leftover[]> {
  const found: Leftover[] = [];
  for (const sandbox of survey.sandboxes.values()) {
    const folder = join(survey.host.roots.state, sandbox.id);
    if (sandbox.own !== undefined) {
      if (!sandbox.shimAlive) {
        found.push(deadSandbox(survey, sandbox));
      }
    } else if (isOld(survey, folder) && userOf(survey, folder) === undefined && !(await serves(join(folder, 'shim-monitor.sock')))) {
      found.push({
        kind: 'state folder',
        path: folder,
        why: `${sandbox.problem}, and nobody serves in it`,
        remove: () => rmSync(folder, { recursive: true, force: true }),
      });
    }
  }
  return found;
}

function orphanFolders(survey: Survey, root: string): string[] {
  return sandboxIds(root)
    .filter((id) => !survey.sandboxes.has(id))
    .map((id) => join(root, id))
    .filter((folder) => !survey.keep.has(folder))
    .filter((folder) => isOld(survey, folder) && userOf(survey, folder) === undefined);
}

/** Sockets of the factory's VMs are served by a VMM whose command line names another folder after a hand-over: ask them too. */
async function anySocketServed(folder: string): Promise<boolean> {
  for (const name of readdirSync(folder)) {
    if (name.endsWith('.sock') && (await serves(join(folder, name)))) {
      return true;
    }
  }
  return false;
}

async function vmLeftovers(survey: Survey): Promise<Leftover[]> {
  const found: Leftover[] = [];
  for (const folder of orphanFolders(survey, survey.host.roots.vm)) {
    if (!(await anySocketServed(folder)) && mountPointsBelow(folder).length === 0) {
      found.push({
        kind: 'VM folder',
        path: folder,
        why: 'no sandbox of this name, and no process uses it',
        remove: () => rmSync(folder, { recursive: true, force: true }),
      });
    }
  }
  return found;
}

function shareLeftovers(survey: Survey): Leftover[] {
  return orphanFolders(survey, survey.host.roots.share).map((folder) => ({
    kind: 'share' as const,
    path: folder,
    why: `no sandbox of this name${mountPointsBelow(folder).length > 0 ? '; things are still mounted in it' : ''}`,
    remove: () => {
      for (const point of mountPointsBelow(folder)) {
        survey.deps.mounts.unmountAll(point);
      }
      removeShareFolders(sharePaths(survey.host.roots.share, folder.slice(folder.lastIndexOf('/') + 1)));
    },
  }));
}

/** The volume itself stays: only `direct-volume remove` forgets that. */
function volumeLeftovers(survey: Survey): Leftover[] {
  const root = survey.host.roots.directVolumes;
  let names: string[];
  try {
    names = readdirSync(root);
  } catch {
    return [];
  }
  return names.flatMap((name) => {
    const notes = statSync(join(root, name), { throwIfNoEntry: false })?.isDirectory() === true ? readdirSync(join(root, name)) : [];
    return notes
      .filter((note) => note !== 'mountInfo.json' && !note.startsWith('.') && !survey.sandboxes.has(note) && isOld(survey, join(root, name, note)))
      .map((note) => ({
        kind: 'volume note' as const,
        path: join(root, name, note),
        why: `notes a sandbox "${note}" that is gone, for the volume ${Buffer.from(name, 'base64url').toString()}`,
        remove: () => rmSync(join(root, name, note), { force: true }),
      }));
  });
}

/**
 * Everything that is left, sandboxes first: removing one removes its folders too. `templatePath`: where this host's
 * configuration keeps templates.
 */
export async function findLeftovers(host: CliHost, logger: Logger, templatePath = '', base: SandboxDeps = DEFAULT_DEPS): Promise<Leftover[]> {
  const { state, vm } = host.roots;
  const sandboxes = new Map(sandboxIds(state).map((id) => [id, readSandbox(state, id)]));
  const survey: Survey = { host, logger, deps: { ...base, roots: host.roots }, sandboxes, keep: new Set([join(vm, TEMPLATES), templatePath.replace(/\/+$/, '')]), commands: commandLines(host.roots.proc) };
  return [...(await stateLeftovers(survey)), ...(await vmLeftovers(survey)), ...shareLeftovers(survey), ...volumeLeftovers(survey)];
}
