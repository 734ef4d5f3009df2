/**
 * What a key of configuration.toml is. The tables of keys are in hypervisor-keys.ts and section-keys.ts; facts follow
 * upstream's configuration of 3.0.0 and 4.1 (reference cli-and-config.md, sections 2.4, 2.5 and 2.7).
 */
import { KataError } from '../../base/errors';
import type { HypervisorType } from './types';

export type Kind = 'string' | 'boolean' | 'integer' | 'number' | 'strings' | 'tables';
export type ConfigValue = string | boolean | number | readonly string[] | readonly Readonly<Record<string, string>>[];

/**
 * `yes`: honoured. `later`: known, checked, reported when set, without effect so far. `ignored`: has no effect here for
 * good, reported when set. `refused`: asks for a protection that is not given here, so the configuration is refused.
 */
export type KeyStatus = 'yes' | 'later' | 'ignored' | 'refused';

/** What of a key is refused when the configuration is checked. */
export interface Refusal {
  /** These values; absent: whatever asks for more than the default. A value counts only if it was given. */
  readonly values?: readonly ConfigValue[];
  readonly why: string;
  readonly hint: string;
}

export interface KeySpec {
  readonly key: string;
  readonly kind: Kind;
  /** Letters of the hypervisors that read the key (`LETTER`), or `all`; '' outside of [hypervisor.*]. */
  readonly readBy: string;
  readonly about: string;
  readonly status: KeyStatus;
  /** The value when the key is absent or zero ('' and 0 and [] mean absent, as upstream). */
  readonly default: ConfigValue;
  /** Defaults that differ by hypervisor. */
  readonly defaults?: Partial<Record<HypervisorType, ConfigValue>>;
  readonly min?: number;
  readonly max?: number;
  readonly choices?: readonly string[];
  readonly unit?: string;
  readonly since: '3.0' | '4.1' | 'kata-ts' | 'before 3.0';
  /** Set if 4.1 no longer has the key: what became of it. */
  readonly removed?: string;
  /** Values that mean what we do anyway: no report for them although the key is not supported. */
  readonly inert?: readonly ConfigValue[];
  readonly refusal?: Refusal;
}

export const UINT32 = 0xffff_ffff;
export const INT32 = 0x7fff_ffff;
/** 64-bit keys are held as numbers: beyond 2^53 - 1 they are refused. */
export const UINT64 = Number.MAX_SAFE_INTEGER;

export const LETTER: Readonly<Record<HypervisorType, string>> = {
  qemu: 'Q',
  clh: 'C',
  firecracker: 'F',
  acrn: 'A',
  dragonball: 'D',
  stratovirt: 'S',
  remote: 'R',
  mock: 'M',
};

const ZERO: Readonly<Record<Kind, ConfigValue>> = { string: '', boolean: false, integer: 0, number: 0, strings: [], tables: [] };

/** One row of a table of keys. */
export function defineKey(key: string, kind: Kind, readBy: string, about: string, more: Partial<KeySpec> = {}): KeySpec {
  return { key, kind, readBy, about, status: 'yes', since: '3.0', default: ZERO[kind], ...more };
}

/** The same rows with what they have in common. */
export function defineKeys(common: Partial<KeySpec>, rows: readonly KeySpec[]): KeySpec[] {
  return rows.map((row) => ({ ...row, ...common }));
}

export function isZero(value: ConfigValue): boolean {
  return value === '' || value === 0 || value === false || (Array.isArray(value) && value.length === 0);
}

export function sameValue(a: ConfigValue, b: ConfigValue): boolean {
  return JSON.stringify(a) === JSON.stringify(b);
}

/** Templates of upstream spell every key out: only values that ask for something are worth a sentence. */
export function asksForMore(spec: KeySpec, type: HypervisorType, value: ConfigValue): boolean {
  return !(isZero(value) || sameValue(value, defaultOf(spec, type)) || (spec.inert ?? []).some((inert) => sameValue(inert, value)));
}

/** The default of a key for a hypervisor. */
export function defaultOf(spec: KeySpec, type: HypervisorType): ConfigValue {
  return spec.defaults?.[type] ?? spec.default;
}

/** `default_maxvcpus` -> `defaultMaxvcpus`, the name of the field in types.ts. */
export function fieldOf(key: string): string {
  return key.replace(/_([a-z0-9])/g, (_, letter: string) => letter.toUpperCase());
}

/** What a key takes, in words: `an integer from 0 to 5 (MiB)`. */
export function wanted(spec: KeySpec): string {
  const unit = spec.unit === undefined ? '' : ` (${spec.unit})`;
  if (spec.choices !== undefined) {
    return `one of ${spec.choices.map((choice) => JSON.stringify(choice)).join(', ')}`;
  }
  const names: Readonly<Record<Kind, string>> = {
    string: 'a string',
    boolean: 'true or false',
    integer: 'an integer',
    number: 'a number',
    strings: 'a list of strings',
    tables: 'a list of tables',
  };
  const range = spec.kind === 'integer' || spec.kind === 'number' ? ` from ${String(spec.min ?? 0)} to ${String(spec.max ?? UINT32)}` : '';
  return `${names[spec.kind]}${range}${unit}`;
}

/** The names nearest to a misspelt one, at most two; for hints. */
export function nearest(name: string, known: Iterable<string>): string[] {
  const limit = Math.max(1, Math.floor(name.length / 4));
  const found: { name: string; distance: number }[] = [];
  for (const candidate of known) {
    const distance = Math.min(editDistance(name, candidate), editDistance(name.replaceAll('_', ''), candidate.replaceAll('_', '')));
    if (distance <= limit) {
      found.push({ name: candidate, distance });
    }
  }
  return found
    .sort((a, b) => a.distance - b.distance)
    .slice(0, 2)
    .map((candidate) => candidate.name);
}

function editDistance(a: string, b: string): number {
  if (Math.abs(a.length - b.length) > 8 || a.length > 80) {
    return 99;
  }
  let row = Array.from({ length: b.length + 1 }, (_, i) => i);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      const replace = (row[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1);
      next.push(Math.min(replace, (row[j] ?? 0) + 1, (next[j - 1] ?? 0) + 1));
    }
    row = next;
  }
  return row[b.length] ?? 99;
}

/** Checks a value as the TOML reader gave it (integers as bigint) against its key; returns it in our form. */
export function checkValue(spec: KeySpec, raw: unknown, where: string): ConfigValue {
  const value = convert(spec, raw);
  if (value === undefined) {
    throw new KataError('InvalidArgument', `${where}: found ${found(raw)}, wanted ${wanted(spec)}`, { hint: remedy(spec, raw) });
  }
  return value;
}

function convert(spec: KeySpec, raw: unknown): ConfigValue | undefined {
  switch (spec.kind) {
    case 'string':
      return typeof raw === 'string' && !raw.includes('\0') && (spec.choices === undefined || raw === '' || spec.choices.includes(raw)) ? raw : undefined;
    case 'boolean':
      return typeof raw === 'boolean' ? raw : undefined;
    case 'integer':
    case 'number': {
      const value = typeof raw === 'bigint' ? Number(raw) : spec.kind === 'number' && typeof raw === 'number' ? raw : Number.NaN;
      return value >= (spec.min ?? 0) && value <= (spec.max ?? UINT32) ? value : undefined;
    }
    case 'strings':
      return Array.isArray(raw) && raw.every((item) => typeof item === 'string' && !item.includes('\0')) ? (raw as string[]) : undefined;
    case 'tables':
      return Array.isArray(raw) && raw.every(isNamedTable) ? (raw as Record<string, string>[]) : undefined;
  }
}

function isNamedTable(item: unknown): boolean {
  if (typeof item !== 'object' || item === null || !Object.values(item).every((value) => typeof value === 'string')) {
    return false;
  }
  const name: unknown = 'name' in item ? item.name : undefined;
  return typeof name === 'string' && /^[A-Za-z0-9_-]+$/.test(name) && Object.keys(item).every((key) => ['name', 'path', 'verity_params'].includes(key));
}

/** A found value in words, short enough for an error. */
function found(raw: unknown): string {
  if (typeof raw === 'bigint') {
    return `the integer ${String(raw)}`;
  }
  if (typeof raw === 'number') {
    return `the number ${Number.isInteger(raw) ? raw.toFixed(1) : String(raw)}`;
  }
  if (typeof raw === 'string') {
    return `the string ${JSON.stringify(raw.length > 60 ? `${raw.slice(0, 60)}...` : raw)}`;
  }
  if (typeof raw === 'boolean') {
    return `the boolean ${String(raw)}`;
  }
  if (raw instanceof Date) {
    return 'a date';
  }
  if (Array.isArray(raw)) {
    const odd: unknown = raw.find((item) => typeof item !== 'string');
    return odd === undefined ? 'a list of strings' : `a list with ${found(odd)} in it`;
  }
  return 'a table';
}

function remedy(spec: KeySpec, raw: unknown): string {
  if (typeof raw === 'string' && spec.kind !== 'string' && spec.kind !== 'strings' && spec.kind !== 'tables') {
    return `write the value without quotes: ${spec.key} = ${raw === '' ? JSON.stringify(spec.default) : raw}`;
  }
  if (typeof raw === 'string' && spec.kind === 'strings') {
    return `put it in brackets: ${spec.key} = [${JSON.stringify(raw)}]`;
  }
  if (spec.kind === 'string' && (typeof raw === 'bigint' || typeof raw === 'number' || typeof raw === 'boolean')) {
    return `put the value in quotes: ${spec.key} = "${String(raw)}"`;
  }
  return `correct ${spec.key}, or remove the line for the default`;
}
