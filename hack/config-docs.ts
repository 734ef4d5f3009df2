/**
 * Writes the tables of docs/configuration.md from the schema: `npx tsx hack/config-docs.ts`. With `--check` it changes
 * nothing and fails if the page is not up to date.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { ANNOTATIONS, type AnnotationSpec } from '../virtcontainers/config/annotation-keys';
import { HYPERVISOR_KEYS } from '../virtcontainers/config/hypervisor-keys';
import { keySpec } from '../virtcontainers/config/layers';
import { isZero, LETTER, type KeySpec, type KeyStatus } from '../virtcontainers/config/schema';
import { AGENT_KEYS, FACTORY_KEYS, OLD_SECTIONS, RUNTIME_KEYS } from '../virtcontainers/config/section-keys';

const PAGE = join(__dirname, '../docs/configuration.md');
const START = '<!-- made by hack/config-docs.ts from here -->';
const END = '<!-- to here -->';

const STATUS: Readonly<Record<KeyStatus, string>> = { yes: 'honoured', later: 'not yet', ignored: 'no effect', refused: 'refused' };

/** The page must not depend on the machine that writes it. */
function defaultText(spec: KeySpec): string {
  if (spec.key === 'path') {
    return '`/usr/bin/qemu-system-<arch>`';
  }
  if (spec.key === 'machine_type') {
    return '`q35` (x86_64), `virt`, `pseries`, `s390-ccw-virtio`';
  }
  const others = Object.entries(spec.defaults ?? {}).filter(([type]) => type !== 'mock');
  const text = isZero(spec.default) && spec.kind !== 'boolean' && spec.kind !== 'integer' && spec.kind !== 'number' ? '' : `\`${JSON.stringify(spec.default).replaceAll('"', '')}\``;
  return [text, ...others.filter(([, value]) => value !== '').map(([type, value]) => `${type}: \`${JSON.stringify(value).replaceAll('"', '')}\``)].filter((part) => part !== '').join(', ');
}

function refusalText(spec: KeySpec): string {
  return spec.refusal?.values === undefined ? '' : `refused: ${spec.refusal.values.map((value) => `\`${JSON.stringify(value).replaceAll('"', '')}\``).join(', ')}`;
}

function row(spec: KeySpec, withReaders: boolean): string {
  const kind = { string: 'string', boolean: 'bool', integer: 'integer', number: 'number', strings: 'list', tables: 'list of tables' }[spec.kind];
  const notes = [spec.about, spec.choices === undefined ? '' : `one of ${spec.choices.map((choice) => `\`${choice}\``).join(', ')}`, spec.removed ?? '', refusalText(spec)].filter((part) => part !== '');
  const cells = [`\`${spec.key}\``, spec.unit === undefined ? kind : `${kind}, ${spec.unit}`, defaultText(spec), ...(withReaders ? [spec.readBy] : []), spec.since, STATUS[spec.status], notes.join('; ')];
  return `| ${cells.map((cell) => cell.replaceAll('|', '\\|')).join(' | ')} |`;
}

function table(title: string, keys: readonly KeySpec[], withReaders = false): string {
  const heads = ['key', 'type', 'default', ...(withReaders ? ['read by'] : []), 'since', 'status', 'meaning'];
  return [`### ${title}`, '', `| ${heads.join(' | ')} |`, `|${heads.map(() => '---|').join('')}`, ...keys.map((spec) => row(spec, withReaders)), ''].join('\n');
}

function annotationRow(spec: AnnotationSpec): string {
  const status = spec.kind === 'refused' ? 'refused' : spec.kind === 'unread' ? 'no effect' : STATUS[keySpec(spec.section, spec.key)?.status ?? 'yes'];
  const how: Readonly<Record<AnnotationSpec['kind'], string>> = {
    value: 'replaces the key',
    asset: 'absolute path; replaces the key',
    gated: `path that \`${spec.validKey ?? ''}\` allows`,
    params: 'appended; parameters of the same name are replaced',
    json: 'JSON list, appended',
    words: 'words between blanks',
    modules: 'list between semicolons',
    hash: `SHA-512 of the file of \`${spec.key}\``,
    unread: '',
    refused: 'guards the pod, so it is not ignored',
  };
  return `| \`${spec.name}\` | ${spec.kind === 'unread' || spec.kind === 'refused' ? '' : `\`${spec.key}\``} | ${status} | ${how[spec.kind]} |`;
}

function generated(): string {
  const letters = Object.entries(LETTER).map(([type, letter]) => `${letter} ${type}`).join(', ');
  return [
    '## Keys',
    '',
    `Read by: ${letters}. Honoured: has its effect. Not yet: checked, and reported when it asks for something. No effect: accepted, and reported when it asks for something. Refused: asks for a protection that is not given here, so the configuration is refused.`,
    '',
    table('[hypervisor.*]', HYPERVISOR_KEYS, true),
    table('[agent.kata]', AGENT_KEYS),
    table('[factory]', FACTORY_KEYS),
    table('[runtime]', RUNTIME_KEYS),
    '### Sections of old versions',
    '',
    ...Object.entries(OLD_SECTIONS).map(([name, why]) => `- \`[${name}]\`: accepted and ignored; ${why}.`),
    '',
    '## Annotations',
    '',
    '| annotation | key | status | how |',
    '|---|---|---|---|',
    ...[...ANNOTATIONS.values()].map(annotationRow),
    '',
  ].join('\n');
}

function main(): void {
  const page = readFileSync(PAGE, 'utf8');
  const [before, rest] = page.split(START);
  const after = rest?.split(END)[1];
  if (before === undefined || after === undefined) {
    throw new Error(`${PAGE}: the two marks are missing`);
  }
  const wanted = `${before}${START}\n${generated()}${END}${after}`;
  if (process.argv.includes('--check')) {
    if (wanted !== page) {
      console.error('docs/configuration.md is not up to date: run npx tsx hack/config-docs.ts');
      process.exitCode = 1;
    }
    return;
  }
  writeFileSync(PAGE, wanted);
}

main();
