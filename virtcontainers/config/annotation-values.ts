/** The text of an annotation to the value of its key. */
import { KataError } from '../../base/errors';
import type { AnnotationSpec } from './annotation-keys';
import { checkValue, wanted, type ConfigValue, type KeySpec } from './schema';

const GO_TRUE = new Set(['1', 't', 'T', 'true', 'TRUE', 'True']);
const GO_FALSE = new Set(['0', 'f', 'F', 'false', 'FALSE', 'False']);

export function badAnnotation(name: string, what: string, hint: string): KataError {
  return new KataError('InvalidArgument', `Error parsing annotation for ${name}: ${what}`, { hint });
}

/** The value that `text` stands for, checked as the key of the file is. Lists are not merged here. */
export function annotationValue(spec: AnnotationSpec, key: KeySpec, text: string): ConfigValue {
  const narrowed: KeySpec = {
    ...key,
    ...(spec.min === undefined ? {} : { min: spec.min }),
    ...(spec.max === undefined ? {} : { max: spec.max }),
    ...(spec.choices === undefined ? {} : { choices: spec.choices }),
  };
  switch (key.kind) {
    case 'boolean':
      return parseBool(spec.name, text);
    case 'integer':
    case 'number':
      return parseNumber(spec.name, narrowed, text);
    case 'strings':
      return checkValue(narrowed, parseList(spec, text), `annotation ${spec.name}`);
    case 'string':
      if (text === '' && narrowed.choices !== undefined) {
        throw badAnnotation(spec.name, `"" is not allowed, wanted ${wanted(narrowed)}`, 'correct the annotation, or remove it');
      }
      return checkString(spec.name, narrowed, text);
    case 'tables':
      throw badAnnotation(spec.name, 'this key cannot be set by annotation', `set ${key.key} in configuration.toml`);
  }
}

function checkString(name: string, key: KeySpec, text: string): string {
  if (text.includes('\0') || (key.choices !== undefined && !key.choices.includes(text))) {
    throw badAnnotation(name, `${JSON.stringify(text.slice(0, 80))} is not allowed, wanted ${wanted(key)}`, 'correct the annotation, or remove it');
  }
  return text;
}

function parseBool(name: string, text: string): boolean {
  if (GO_TRUE.has(text)) {
    return true;
  }
  if (GO_FALSE.has(text)) {
    return false;
  }
  throw badAnnotation(name, `Please specify boolean value 'true|false', not ${JSON.stringify(text.slice(0, 80))}`, 'correct the annotation, or remove it');
}

/** Unsigned decimal; with a fraction where the key takes one. */
function parseNumber(name: string, key: KeySpec, text: string): number {
  const value = (key.kind === 'number' ? /^\d{1,20}(\.\d{1,9})?$/ : /^\d{1,20}$/).test(text) ? Number(text) : Number.NaN;
  if (!(value >= (key.min ?? 0) && value <= (key.max ?? 0xffff_ffff))) {
    const range = `from ${String(Math.max(0, key.min ?? 0))} to ${String(key.max ?? 0xffff_ffff)}`;
    throw badAnnotation(name, `Please specify positive numeric value, not ${JSON.stringify(text.slice(0, 80))}`, `a number ${range}, without unit`);
  }
  return value;
}

function parseList(spec: AnnotationSpec, text: string): unknown {
  if (spec.kind === 'json') {
    try {
      return JSON.parse(text) as unknown;
    } catch (reason) {
      throw new KataError('InvalidArgument', `Error parsing annotation for ${spec.name}: not valid JSON`, { hint: 'wanted is a JSON list of strings: ["--option"]', cause: reason });
    }
  }
  return text
    .split(spec.kind === 'modules' ? ';' : /\s+/)
    .map((word) => word.trim())
    .filter((word) => word !== '');
}

/** Appends kernel parameters; those of the same name in `first` go, so that each name is there once by one hand. */
export function mergeParams(first: string, second: string): string {
  const nameOf = (param: string): string => param.split('=', 1)[0] ?? '';
  const added = second.split(/\s+/).filter((param) => param !== '');
  const names = new Set(added.map(nameOf));
  const kept = first.split(/\s+/).filter((param) => param !== '' && !names.has(nameOf(param)));
  return [...kept, ...added].join(' ');
}

/** A pattern of Go's filepath.Match: `*` and `?` stop at a slash, `[a-z]`, `[^a]`, `\` escapes. A broken one matches nothing. */
export function globMatches(pattern: string, path: string): boolean {
  let source = '';
  for (let i = 0; i < pattern.length; i++) {
    const c = pattern[i] ?? '';
    if (c === '*') {
      source += '[^/]*';
    } else if (c === '?') {
      source += '[^/]';
    } else if (c === '\\') {
      i++;
      source += (pattern[i] ?? '').replace(/\W/g, '\\$&');
    } else if (c === '[') {
      const end = pattern.indexOf(']', i + 2);
      if (end < 0) {
        return false;
      }
      const body = pattern.slice(i + 1, end);
      const negated = body.startsWith('^');
      source += `(?!/)[${negated ? '^' : ''}${(negated ? body.slice(1) : body).replace(/[\\[\]^]/g, '\\$&')}]`;
      i = end;
    } else {
      source += c.replace(/[^\w/]/g, '\\$&');
    }
  }
  try {
    return new RegExp(`^${source}$`, 's').test(path);
  } catch {
    return false;
  }
}

/** The whole-name form of a pattern of enable_annotations; undefined for what is no regular expression. */
function compile(pattern: string): RegExp | undefined {
  const insensitive = pattern.startsWith('(?i)');
  try {
    return new RegExp(`^(?:${insensitive ? pattern.slice(4) : pattern})$`, insensitive ? 'i' : '');
  } catch {
    return undefined;
  }
}

export function isPattern(pattern: string): boolean {
  return compile(pattern) !== undefined;
}

/** A pattern of enable_annotations against a whole name. A broken one matches nothing, as upstream. */
export function patternMatches(pattern: string, name: string): boolean {
  return compile(pattern)?.test(name) ?? false;
}
