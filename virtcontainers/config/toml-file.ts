/** One configuration file: its tables as the TOML parser gives them, and the line that each key stands on. */
import { KataError } from '../../base/errors';

export interface TomlFile {
  readonly path: string;
  /** Integers are bigint, so that `1` and `1.0` stay apart. */
  readonly root: Readonly<Record<string, unknown>>;
  /** `<path>:<line>` of a table (`hypervisor.qemu`) or key (`hypervisor.qemu.kernel`), lower case; of an inline table if the key is in one; the path alone if not found. */
  readonly where: (name: string) => string;
}

/** Parses TOML text. A syntax error names file, line and column. */
export function parseToml(text: string, path: string): TomlFile {
  // Loaded late: a process that only reads a bundle never needs it.
  // eslint-disable-next-line @typescript-eslint/no-require-imports
  const { parse, TomlError } = require('smol-toml') as typeof import('smol-toml');
  let root: Record<string, unknown>;
  try {
    root = parse(text, { integersAsBigInt: true, unsafeKeyBehaviour: 'throw', maxDepth: 16 });
  } catch (reason) {
    if (reason instanceof TomlError) {
      const what = (reason.message.split('\n')[0] ?? '').replace(/^Invalid TOML document: /, '');
      const line = JSON.stringify(text.split('\n')[reason.line - 1]?.trim().slice(0, 80) ?? '').slice(1, -1).replaceAll('\\"', '"');
      throw new KataError('InvalidArgument', `read configuration ${path}:${String(reason.line)}: not valid TOML: ${what} at column ${String(reason.column)}: ${line}`, {
        hint: what.includes('redefine') ? 'it is there twice: keep one of the two' : 'strings need quotes, lists brackets; is the file complete?',
      });
    }
    throw KataError.from(reason, `read configuration ${path}`);
  }
  let lines: Map<string, number> | undefined;
  const where = (name: string): string => {
    lines ??= indexLines(text);
    // A key of an inline table stands on the line of the table.
    for (let known = name.toLowerCase(); known !== ''; known = known.slice(0, Math.max(0, known.lastIndexOf('.')))) {
      const line = lines.get(known);
      if (line !== undefined) {
        return `${path}:${String(line)}`;
      }
    }
    return path;
  };
  return { path, root, where };
}

/**
 * Finds the lines of tables and keys by their look. For messages only: the parser gives no positions, and a line that
 * looks like a key inside of a multi-line string is the worst that can be mistaken (such strings are skipped).
 */
function indexLines(text: string): Map<string, number> {
  const lines = new Map<string, number>();
  let table = '';
  let quote: string | undefined;
  text.split('\n').forEach((line, index) => {
    if (quote === undefined && !/^\s*#/.test(line)) {
      const header = /^\s*\[{1,2}([^[\]]+)\]/.exec(line)?.[1];
      const key = /^\s*([\w."' \t-]+?)\s*=/.exec(line)?.[1];
      if (header !== undefined) {
        table = plainName(header);
        note(lines, table, index + 1);
      } else if (key !== undefined) {
        note(lines, table === '' ? plainName(key) : `${table}.${plainName(key)}`, index + 1);
      }
    }
    for (const [found] of line.matchAll(/"""|'''/g)) {
      quote = quote === undefined ? found : quote === found ? undefined : quote;
    }
  });
  return lines;
}

function plainName(name: string): string {
  return name
    .split('.')
    .map((part) => part.trim().replace(/^["']|["']$/g, ''))
    .join('.')
    .toLowerCase();
}

function note(lines: Map<string, number>, name: string, line: number): void {
  if (!lines.has(name)) {
    lines.set(name, line);
  }
}
