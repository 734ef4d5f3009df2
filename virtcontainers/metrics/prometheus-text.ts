/**
 * The Prometheus text format 0.0.4, read strictly and written again. Guests and shims are not trusted to write it well:
 * what is no valid line is dropped, and one family never comes twice.
 */

export interface Sample {
  readonly name: string;
  readonly labels: readonly (readonly [name: string, value: string])[];
  /** As it was written; it is a number of the format. */
  readonly value: string;
}

export type FamilyType = 'counter' | 'gauge' | 'histogram' | 'summary' | 'untyped';

export interface Family {
  readonly name: string;
  readonly type: FamilyType;
  readonly help: string;
  readonly samples: readonly Sample[];
}

const NAME = /^[a-zA-Z_:][a-zA-Z0-9_:]*/;
const LABEL = /^\s*([a-zA-Z_][a-zA-Z0-9_]*)\s*=\s*"((?:[^"\\\n]|\\["\\n])*)"\s*(,|(?=\}))/;
const VALUE = /^\s+([+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?|NaN|[+-]?Inf)(?:\s+-?\d+)?\s*$/;
const COMMENT = /^#\s+(HELP|TYPE)\s+([a-zA-Z_:][a-zA-Z0-9_:]*)\s?(.*)$/;
const TYPES: ReadonlySet<string> = new Set(['counter', 'gauge', 'histogram', 'summary', 'untyped']);
const SUFFIXES = ['_bucket', '_sum', '_count'] as const;

const unescape = (text: string): string => (text.includes('\\') ? unescapeAll(text) : text);
const unescapeAll = (text: string): string => text.replace(/\\(["\\n])/g, (_, char: string) => (char === 'n' ? '\n' : char));
const escapeLabel = (text: string): string => (/[\\"\n]/.test(text) ? escapeAll(text) : text);
const escapeAll = (text: string): string => text.replace(/[\\"\n]/g, (char) => (char === '\n' ? '\\n' : `\\${char}`));
const escapeHelp = (text: string): string => text.replace(/[\\\n]/g, (char) => (char === '\n' ? '\\n' : '\\\\'));

/** One sample line; undefined for what is none. */
export function parseSample(line: string): Sample | undefined {
  const name = NAME.exec(line)?.[0];
  if (name === undefined) {
    return undefined;
  }
  let rest = line.slice(name.length);
  const labels: [string, string][] = [];
  if (rest.startsWith('{')) {
    rest = rest.slice(1);
    for (let match = LABEL.exec(rest); match !== null; match = LABEL.exec(rest)) {
      const [whole, label = '', value = ''] = match;
      if (labels.some(([known]) => known === label)) {
        return undefined;
      }
      labels.push([label, unescape(value)]);
      rest = rest.slice(whole.length);
    }
    rest = rest.trimStart();
    if (!rest.startsWith('}')) {
      return undefined;
    }
    rest = ` ${rest.slice(1)}`;
  }
  const value = VALUE.exec(rest)?.[1];
  return value === undefined ? undefined : { name, labels, value };
}

/** The same text for the same sample only: each value comes with its length. */
function identityOf({ name, labels }: Sample): string {
  let text = name;
  for (const [label, value] of labels) {
    text += `\0${label}\0${String(value.length)}\0${value}`;
  }
  return text;
}

interface Draft {
  type: FamilyType;
  help: string;
  samples: Sample[];
  seen: Set<string>;
}

/** Text to families, in the order in which they come first. At most `maxLines` lines are looked at. Never throws. */
export function parseMetrics(text: string, maxLines = 100_000): Family[] {
  const drafts = new Map<string, Draft>();
  const draftOf = (name: string): Draft => {
    const draft = drafts.get(name) ?? { type: 'untyped', help: '', samples: [], seen: new Set<string>() };
    drafts.set(name, draft);
    return draft;
  };
  for (const line of text.split('\n', maxLines)) {
    const comment = line.startsWith('#') ? COMMENT.exec(line) : null;
    if (comment !== null) {
      const [, what, name = '', rest = ''] = comment;
      if (what === 'HELP') {
        draftOf(name).help = rest.replace(/\\([\\n])/g, (_, char: string) => (char === 'n' ? '\n' : '\\'));
      } else if (TYPES.has(rest.trim())) {
        draftOf(name).type = rest.trim() as FamilyType;
      }
      continue;
    }
    const sample = parseSample(line);
    if (sample !== undefined) {
      const draft = draftOf(familyOf(sample.name, drafts));
      const identity = identityOf(sample);
      if (!draft.seen.has(identity)) {
        draft.seen.add(identity);
        draft.samples.push(sample);
      }
    }
  }
  return [...drafts].filter(([, draft]) => draft.samples.length > 0).map(([name, { type, help, samples }]) => ({ name, type, help, samples }));
}

/** A sample of a histogram or summary belongs to the family without the suffix. */
function familyOf(sample: string, drafts: ReadonlyMap<string, Draft>): string {
  for (const suffix of SUFFIXES) {
    if (sample.endsWith(suffix)) {
      const name = sample.slice(0, -suffix.length);
      const type = drafts.get(name)?.type;
      if (type === 'histogram' || (type === 'summary' && suffix !== '_bucket')) {
        return name;
      }
    }
  }
  return sample;
}

export function formatFamily({ name, type, help, samples }: Family): string {
  const lines = samples.map(({ name: sample, labels, value }) => {
    const list = labels.map(([label, text]) => `${label}="${escapeLabel(text)}"`).join(',');
    return `${sample}${list === '' ? '' : `{${list}}`} ${value}\n`;
  });
  return `${help === '' ? '' : `# HELP ${name} ${escapeHelp(help)}\n`}# TYPE ${name} ${type}\n${lines.join('')}`;
}

/** The family under another name; the suffixes of its samples stay. */
export function renameFamily(family: Family, name: string): Family {
  return { ...family, name, samples: family.samples.map((sample) => ({ ...sample, name: `${name}${sample.name.slice(family.name.length)}` })) };
}

/** Families of one name become one, of the first one's type; those of another type under that name are dropped. */
export function mergeFamilies(families: Iterable<Family>): Family[] {
  const merged = new Map<string, Family>();
  for (const family of families) {
    const known = merged.get(family.name);
    if (known === undefined) {
      merged.set(family.name, family);
    } else if (known.type === family.type) {
      merged.set(family.name, { ...known, samples: [...known.samples, ...family.samples] });
    }
  }
  return [...merged.values()];
}
