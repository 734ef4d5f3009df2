/** What a factory may leave behind on the host, told exactly: by the folder of its templates and by the ids of its VMs. */
import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { leftOf } from './leaks';

const VM_FOLDER = '/run/vc/vm';
/** What may lie in the folder of a template that is whole: its files, its lock. */
const WHOLE = ['lock', 'vm'];

export interface Expected {
  /** Sandboxes that existed; nothing of them may be left. */
  readonly ids: readonly string[];
  /** Templates that are whole and stay. */
  readonly templates?: readonly string[];
  /** Templates whose making failed: nothing is left but the reason. */
  readonly failed?: readonly string[];
  /** Pids of VMMs that are meant to run on, such as those in stock. */
  readonly running?: readonly number[];
}

function processes(): { readonly pid: number; readonly command: string }[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .flatMap((name) => {
      try {
        return [{ pid: Number(name), command: readFileSync(`/proc/${name}/cmdline`, 'latin1').replaceAll('\0', ' ') }];
      } catch {
        return [];
      }
    });
}

function processesIn(folder: string, but: readonly number[]): string[] {
  return processes()
    .filter(({ pid, command }) => /qemu|virtiofsd/.test(command) && command.includes(folder) && !but.includes(pid))
    .map(({ pid, command }) => `process ${String(pid)} ${command.slice(0, 120)}`);
}

/** Mounts below the folder, but for those of templates that stay. */
function mountsIn(folder: string, templates: readonly string[]): string[] {
  return readFileSync('/proc/self/mountinfo', 'utf8')
    .split('\n')
    .map((line) => line.split(' ')[4] ?? '')
    .filter((path) => path.startsWith(`${folder}/`) && !templates.some((key) => path === join(folder, 'template', key, 'vm')))
    .map((path) => `mount ${path}`);
}

/** Locks that somebody still holds on files of the folder. */
function locksIn(folder: string): string[] {
  const root = join(folder, 'template');
  const locks = existsSync(root) ? readdirSync(root).map((key) => join(root, key, 'lock')).filter((path) => existsSync(path)) : [];
  const held = readFileSync('/proc/locks', 'utf8').split('\n');
  return locks.filter((path) => held.some((line) => line.includes(`:${String(statSync(path).ino)} `))).map((path) => `lock ${path}`);
}

function filesIn(folder: string, { templates = [], failed = [] }: Expected): string[] {
  const root = join(folder, 'template');
  const keys = existsSync(root) ? readdirSync(root).filter((name) => name !== 'counts') : [];
  return keys.flatMap((key) => {
    const allowed = templates.includes(key) ? WHOLE : failed.includes(key) ? ['failed', 'lock'] : [];
    return readdirSync(join(root, key)).filter((name) => !allowed.includes(name)).map((name) => `file ${join(root, key, name)}`);
  });
}

/** Folders of VMs of factories in which no process runs. */
function orphanFolders(): string[] {
  const commands = processes().map(({ command }) => command).join('\n');
  const names = existsSync(VM_FOLDER) ? readdirSync(VM_FOLDER) : [];
  return names.filter((name) => /^(cache|template)-[0-9a-f]{16}$/.test(name) && !commands.includes(join(VM_FOLDER, name))).map((name) => `file ${join(VM_FOLDER, name)}`);
}

/** Of others, before us. */
const orphansBefore = new Set(orphanFolders());

/** Empty: nothing is left but what is expected. Waits a while for it to go away. */
export async function factoryLeftovers(folder: string, expected: Expected, timeoutMs = 8000): Promise<string[]> {
  const end = Date.now() + timeoutMs;
  for (;;) {
    const left = [
      ...processesIn(folder, expected.running ?? []), ...mountsIn(folder, expected.templates ?? []), ...locksIn(folder), ...filesIn(folder, expected), ...orphanFolders().filter((line) => !orphansBefore.has(line)),
      ...(expected.ids.length === 0 ? [] : await leftOf(expected.ids, 0)),
    ];
    if (left.length === 0 || Date.now() > end) {
      return left;
    }
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}
