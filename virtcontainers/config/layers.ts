/** Files to checked values: every key of the main file and its drop-ins, the later file wins per key. */
import { KataError } from '../../base/errors';
import { HYPERVISOR_KEYS } from './hypervisor-keys';
import { asksForMore, checkValue, LETTER, nearest, type ConfigValue, type KeySpec } from './schema';
import { AGENT_KEYS, FACTORY_KEYS, OLD_SECTIONS, RUNTIME_KEYS } from './section-keys';
import type { TomlFile } from './toml-file';
import type { HypervisorType } from './types';

export interface GivenValue {
  readonly value: ConfigValue;
  /** `<file>:<line>`. */
  readonly where: string;
}
type Given = Map<string, GivenValue>;

/** What the files say, checked key by key; nothing is defaulted yet. */
export interface Layers {
  readonly type: HypervisorType;
  readonly agentName: string;
  readonly hypervisor: Given;
  readonly agent: Given;
  readonly factory: Given;
  readonly runtime: Given;
  /** Tables and keys -> `<file>:<line>`. */
  readonly sources: Map<string, string>;
  readonly warnings: string[];
}

export type SectionName = 'hypervisor' | 'agent' | 'factory' | 'runtime';
const KEYS: Readonly<Record<SectionName, ReadonlyMap<string, KeySpec>>> = {
  hypervisor: byKey(HYPERVISOR_KEYS),
  agent: byKey(AGENT_KEYS),
  factory: byKey(FACTORY_KEYS),
  runtime: byKey(RUNTIME_KEYS),
};

function byKey(keys: readonly KeySpec[]): ReadonlyMap<string, KeySpec> {
  return new Map(keys.map((spec) => [spec.key, spec]));
}

/** The key of a section, by its name in lower case. */
export function keySpec(section: SectionName, key: string): KeySpec | undefined {
  return KEYS[section].get(key);
}

/** Checks and merges files, lowest first. InvalidArgument names file, line, section and key. */
export function mergeFiles(files: readonly TomlFile[]): Layers {
  const sources = new Map<string, string>();
  const warnings: string[] = [];
  const sections = { hypervisor: new Map<string, Given>(), agent: new Map<string, Given>(), factory: new Map<string, Given>(), runtime: new Map<string, Given>() };
  for (const file of files) {
    refuseRuntimeRs(file);
    for (const [name, table] of entriesOf(file, file.root, '')) {
      if (name === 'hypervisor' || name === 'agent') {
        for (const [instance, keys] of Object.entries(asTable(table, name, file))) {
          const full = `${name}.${instance}`;
          mergeKeys(name, full, asTable(keys, full, file), file, givenOf(sections[name], instance), sources);
        }
      } else if (name === 'factory' || name === 'runtime') {
        mergeKeys(name, name, asTable(table, name, file), file, givenOf(sections[name], ''), sources);
      } else {
        otherSection(name, file, warnings);
      }
    }
  }
  const type = onlyHypervisor([...sections.hypervisor.keys()], sources, files);
  const layers = {
    type,
    agentName: onlyAgent([...sections.agent.keys()], sources),
    hypervisor: givenOf(sections.hypervisor, type),
    agent: [...sections.agent.values()][0] ?? new Map<string, GivenValue>(),
    factory: givenOf(sections.factory, ''),
    runtime: givenOf(sections.runtime, ''),
    sources,
    warnings,
  };
  warnings.push(...unsupported(layers));
  return layers;
}

function givenOf(map: Map<string, Given>, name: string): Given {
  const given = map.get(name) ?? new Map<string, GivenValue>();
  map.set(name, given);
  return given;
}

/** Keys match without regard to case, as upstream's parser does it; the same key in two spellings is an error. */
function entriesOf(file: TomlFile, table: Readonly<Record<string, unknown>>, section: string): [string, unknown][] {
  const entries = Object.entries(table).map(([key, value]): [string, unknown] => [key.toLowerCase(), value]);
  const seen = new Set<string>();
  for (const [key] of entries) {
    if (seen.has(key)) {
      const full = section === '' ? key : `${section}.${key}`;
      throw new KataError('InvalidArgument', `read configuration ${file.where(full)}: ${full} is given twice, in different case`, { hint: 'keep one of the two' });
    }
    seen.add(key);
  }
  return entries;
}

function asTable(value: unknown, name: string, file: TomlFile): Readonly<Record<string, unknown>> {
  if (typeof value !== 'object' || value === null || Array.isArray(value) || value instanceof Date) {
    throw new KataError('InvalidArgument', `read configuration ${file.where(name)}: ${name} is a single value, wanted a table`, { hint: `write [${name}] and the keys below it` });
  }
  return value as Readonly<Record<string, unknown>>;
}

function otherSection(name: string, file: TomlFile, warnings: string[]): void {
  const old = OLD_SECTIONS[name];
  if (old === undefined) {
    const near = nearest(name, ['hypervisor', 'agent', 'factory', 'runtime']);
    throw new KataError('InvalidArgument', `read configuration ${file.where(name)}: unknown section [${name}]`, {
      hint: near[0] === undefined ? 'the sections are [hypervisor.<name>], [agent.<name>], [factory] and [runtime]' : `did you mean [${near[0]}]?`,
    });
  }
  warnings.push(`[${name}] (${file.where(name)}) is ignored: ${old}`);
}

/**
 * The Rust runtime has a schema of its own below the same names, with keys that this one cannot have: said once, instead
 * of for the first of its keys that is not known here.
 */
function refuseRuntimeRs(file: TomlFile): void {
  const runtime = entriesOf(file, file.root, '').find(([name]) => name === 'runtime')?.[1];
  const keys = typeof runtime === 'object' && runtime !== null ? Object.keys(runtime).map((key) => key.toLowerCase()) : [];
  const sign = RUNTIME_RS_SIGNS.find((key) => keys.includes(key));
  if (sign !== undefined) {
    throw new KataError('InvalidArgument', `read configuration ${file.where(`runtime.${sign}`)}: runtime.${sign}: this is a configuration of the Rust runtime (runtime-rs), whose keys differ`, {
      hint: 'use the configuration of the Go runtime: configuration-qemu.toml without "runtime-rs" in its path',
    });
  }
}

/** Keys of [runtime] that every configuration of runtime-rs has, and none of the Go runtime. */
const RUNTIME_RS_SIGNS = ['hypervisor_name', 'agent_name', 'name'] as const;
const RUNTIME_RS_KEYS = new Set(['dial_timeout_ms', 'reconnect_timeout_ms', 'cdh_api_timeout_ms', 'factory', 'mem_agent', 'vm_rootfs_driver', 'seccomp_sandbox', 'queue_size', 'num_queues', 'network_queues', 'log_level', 'overhead_vcpus', 'overhead_memory']);

function mergeKeys(section: SectionName, full: string, table: Readonly<Record<string, unknown>>, file: TomlFile, into: Given, sources: Map<string, string>): void {
  checkInstance(section, full, file);
  sources.set(full, file.where(full));
  for (const [key, raw] of entriesOf(file, table, full)) {
    const where = file.where(`${full}.${key}`);
    const spec = keySpec(section, key);
    if (spec === undefined) {
      const near = nearest(key, KEYS[section].keys());
      const hint = RUNTIME_RS_KEYS.has(key)
        ? 'this looks like a configuration of the Rust runtime (runtime-rs), whose keys differ; use the one of the Go runtime'
        : near.length > 0
          ? `did you mean ${near.join(' or ')}?`
          : 'docs/configuration.md lists every key; remove the line';
      throw new KataError('InvalidArgument', `read configuration ${where}: unknown key "${key}" in [${full}]`, { hint });
    }
    into.set(key, { value: checkValue(spec, raw, `read configuration ${where}: ${full}.${key}`), where });
    sources.set(`${full}.${key}`, where);
  }
}

function checkInstance(section: SectionName, full: string, file: TomlFile): void {
  const name = full.slice('hypervisor.'.length);
  if (section === 'hypervisor' && !Object.hasOwn(LETTER, name)) {
    const near = nearest(name, Object.keys(LETTER));
    throw new KataError('InvalidArgument', `read configuration ${file.where(full)}: configuration file contains invalid hypervisor section: "${name}"`, {
      hint: near[0] === undefined ? `known are ${Object.keys(LETTER).join(', ')}` : `did you mean [hypervisor.${near[0]}]?`,
    });
  }
}

function onlyHypervisor(names: readonly string[], sources: ReadonlyMap<string, string>, files: readonly TomlFile[]): HypervisorType {
  const [first, second] = names;
  if (first === undefined) {
    throw new KataError('InvalidArgument', `read configuration ${files[0]?.path ?? ''}: no hypervisor section`, { hint: 'add [hypervisor.qemu] with kernel and initrd' });
  }
  if (second !== undefined) {
    const places = names.map((name) => `[hypervisor.${name}] (${sources.get(`hypervisor.${name}`) ?? '?'})`);
    throw new KataError('InvalidArgument', `read configuration: more than one hypervisor: ${places.join(' and ')}`, { hint: 'keep one of them, in the file and its config.d' });
  }
  return first as HypervisorType;
}

function onlyAgent(names: readonly string[], sources: ReadonlyMap<string, string>): string {
  if (names.length > 1) {
    const places = names.map((name) => `[agent.${name}] (${sources.get(`agent.${name}`) ?? '?'})`);
    throw new KataError('InvalidArgument', `read configuration: more than one agent: ${places.join(' and ')}`, { hint: 'keep [agent.kata]' });
  }
  return names[0] ?? 'kata';
}

/** Where the key's readers are known well enough to say that one does not read it. */
const STRICT_READERS: ReadonlySet<HypervisorType> = new Set(['qemu', 'clh', 'firecracker', 'acrn']);

function unsupported(layers: Omit<Layers, 'sources' | 'warnings'>): string[] {
  const warnings: string[] = [];
  for (const section of ['hypervisor', 'agent', 'factory', 'runtime'] as const) {
    const name = section === 'hypervisor' ? `hypervisor.${layers.type}` : section === 'agent' ? `agent.${layers.agentName}` : section;
    for (const [key, { value, where }] of layers[section]) {
      const spec = keySpec(section, key);
      if (spec === undefined || !asksForMore(spec, layers.type, value)) {
        continue;
      }
      if (spec.status === 'later' || spec.status === 'ignored') {
        warnings.push(`${name}.${key} (${where}) ${spec.status === 'later' ? 'is not supported yet' : 'has no effect'}${spec.removed === undefined ? '' : `; upstream: ${spec.removed}`}`);
      } else if (spec.status === 'yes' && section === 'hypervisor' && spec.readBy !== 'all' && STRICT_READERS.has(layers.type) && !spec.readBy.includes(LETTER[layers.type])) {
        warnings.push(`${name}.${key} (${where}) has no effect: ${layers.type} does not read it`);
      }
    }
  }
  return warnings;
}
