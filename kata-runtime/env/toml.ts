/** Writes nested records as TOML in the form that upstream's `env` has: record order, two-space indent below the first depth. */

export type EnvValue = string | number | boolean | null | readonly EnvRecord[] | readonly string[] | EnvRecord;
export interface EnvRecord {
  readonly [key: string]: EnvValue;
}

function isRecord(value: EnvValue): value is EnvRecord {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function isRecordList(value: EnvValue): value is readonly EnvRecord[] {
  return Array.isArray(value) && value.length > 0 && typeof value[0] === 'object';
}

/** A TOML basic string. */
export function tomlString(text: string): string {
  // JSON escapes what TOML wants escaped, in the same letters; DEL is the one that it leaves.
  return JSON.stringify(text).replaceAll('\u007f', '\\u007F');
}

function scalar(value: string | number | boolean | readonly string[]): string {
  return typeof value === 'string' ? tomlString(value) : Array.isArray(value) ? `[${value.map((item) => tomlString(String(item))).join(', ')}]` : String(value);
}

function writeTable(path: readonly string[], table: EnvRecord, lines: string[]): void {
  const indent = '  '.repeat(Math.max(0, path.length - 1));
  if (path.length === 1 && lines.length > 0) {
    lines.push('');
  }
  lines.push(`${indent}[${path.join('.')}]`);
  const entries = Object.entries(table);
  for (const [key, value] of entries) {
    if (value !== null && !isRecord(value) && !isRecordList(value)) {
      lines.push(`${indent}  ${key} = ${scalar(value)}`);
    }
  }
  for (const [key, value] of entries) {
    if (isRecordList(value)) {
      for (const item of value) {
        lines.push(`${indent}  [[${[...path, key].join('.')}]]`, ...Object.entries(item).map(([name, field]) => `${indent}    ${name} = ${scalar(field as string)}`));
      }
    } else if (isRecord(value)) {
      writeTable([...path, key], value, lines);
    }
  }
}

/** Tables only at the top. Null values are left out. */
export function formatToml(document: EnvRecord): string {
  const lines: string[] = [];
  for (const [key, value] of Object.entries(document)) {
    if (isRecord(value)) {
      writeTable([key], value, lines);
    }
  }
  return `${lines.join('\n')}\n`;
}

/** JSON as Go writes it: two spaces, and `<`, `>`, `&` escaped. */
export function formatGoJson(document: EnvRecord): string {
  const escapes: Readonly<Record<string, string>> = { '<': '\\u003c', '>': '\\u003e', '&': '\\u0026', '\u2028': '\\u2028', '\u2029': '\\u2029' };
  return `${JSON.stringify(document, null, 2).replace(/[<>&\u2028\u2029]/g, (char) => escapes[char] ?? char)}\n`;
}
