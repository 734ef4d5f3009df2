/**
 * Annotations `io.katacontainers.*` of a sandbox, applied to its configuration. Those of the hypervisor only where
 * `enable_annotations` allows the name and, for paths, `valid_*` allows the value. Patterns must match the whole name:
 * upstream's match anywhere, so that its default `enable_iommu` also admits `enable_iommu_platform`.
 */
import { lstatSync } from 'node:fs';
import { isAbsolute, normalize } from 'node:path';
import { KataError } from '../../base/errors';
import { ANNOTATIONS, CONFIG_PREFIX, type AnnotationSpec } from './annotation-keys';
import { annotationValue, badAnnotation, globMatches, mergeParams, patternMatches } from './annotation-values';
import { checkFiles, checkRules } from './checks';
import { normaliseHypervisor, replaceKey } from './complete';
import { archMaxVcpus, hostFacts, type HostFacts } from './host-facts';
import { HYPERVISOR_FIELDS } from './hypervisor-keys';
import { keySpec } from './layers';
import { asksForMore, defaultOf, fieldOf, isZero, nearest, type ConfigValue, type KeySpec } from './schema';
import { AGENT_FIELDS, RUNTIME_FIELDS } from './section-keys';
import type { RuntimeConfig } from './types';

export interface AnnotateOptions {
  readonly host?: HostFacts;
  /** For tests: whether a path is there. */
  readonly exists?: (path: string) => boolean;
}

export interface Annotated {
  readonly config: RuntimeConfig;
  /** Files whose SHA-512 must be looked at before they are used. */
  readonly hashes: readonly { readonly annotation: string; readonly path: string; readonly sha512: string }[];
}

type Annotations = Readonly<Record<string, string>>;
const HYPERVISOR_PREFIX = `${CONFIG_PREFIX}hypervisor.`;
const HASH_TYPE = 'io.katacontainers.asset_hash_type';
const CONFIG_PATH = 'io.katacontainers.config_path';

/**
 * The configuration of one sandbox: annotations applied, all rules and files checked again, hashes of assets compared.
 * Only for the annotations of the container that creates the sandbox.
 */
export async function applyAnnotations(config: RuntimeConfig, annotations: Annotations | undefined, options: AnnotateOptions = {}): Promise<RuntimeConfig> {
  const relevant = Object.keys(annotations ?? {}).some((name) => name.startsWith('io.katacontainers.'));
  if (annotations === undefined || !relevant) {
    return config;
  }
  const { config: annotated, hashes } = annotate(config, annotations, options);
  const checked = annotated === config ? config : checkFiles(annotated);
  for (const { annotation, path, sha512 } of hashes) {
    const { hashFile } = await import('./asset-hash');
    const is = await hashFile(path);
    if (is !== sha512.toLowerCase()) {
      throw new KataError('InvalidArgument', `annotation ${annotation}: SHA-512 of ${path} does not match: it is ${is}`, { hint: 'correct the annotation or the file' });
    }
  }
  return checked;
}

/** The part of `applyAnnotations` that opens no file. Errors name annotation, key and the line to change. */
export function annotate(config: RuntimeConfig, annotations: Annotations, options: AnnotateOptions = {}): Annotated {
  const host = options.host ?? hostFacts();
  const sources = new Map(config.sources);
  const warnings = [...config.warnings];
  const hashes: { annotation: string; path: string; sha512: string }[] = [];
  const hashed: [AnnotationSpec, string][] = [];
  let changed = config;
  for (const [name, text] of Object.entries(annotations)) {
    const spec = specOf(name, warnings, text);
    if (spec === undefined) {
      continue;
    }
    checkName(config, spec);
    if (spec.kind === 'refused') {
      throw new KataError('Unimplemented', `annotation ${name} is not supported`, { hint: 'it guards the pod, so it is not ignored: remove it to run without it' });
    }
    if (spec.kind === 'unread') {
      warnings.push(`annotation ${name} has no effect`);
    } else if (spec.kind === 'hash') {
      hashed.push([spec, text]);
    } else if (!(spec.skipEmpty === true && (text === '' || text === '0'))) {
      changed = applyOne(changed, spec, text, host, options.exists ?? isThere, warnings);
      sources.set(sourceName(config, spec), `annotation ${name}`);
    }
  }
  if (changed === config && hashed.length === 0 && warnings.length === config.warnings.length) {
    return { config, hashes };
  }
  const hypervisor = normaliseHypervisor(changed.hypervisor, host, warnings);
  const result: RuntimeConfig = { ...changed, hypervisor, sources, warnings };
  checkRules(result);
  for (const [spec, text] of hashed) {
    hashes.push({ annotation: spec.name, path: hashedPath(result, spec, text), sha512: text });
  }
  return { config: result, hashes };
}

/** Undefined for what is not a setting. InvalidArgument for an unknown name under `io.katacontainers.config.`. */
function specOf(name: string, warnings: string[], text: string): AnnotationSpec | undefined {
  const spec = ANNOTATIONS.get(name);
  if (spec !== undefined) {
    return spec;
  }
  if (name === CONFIG_PATH) {
    warnings.push(`annotation ${name} is ignored: a pod may not choose the configuration; name it in the runtime options of containerd (ConfigPath)`);
  }
  if (name === HASH_TYPE && text !== 'sha512') {
    throw badAnnotation(name, `${JSON.stringify(text.slice(0, 80))} is not supported`, 'the only hash is sha512');
  }
  if (name.startsWith(CONFIG_PREFIX)) {
    const near = nearest(name, ANNOTATIONS.keys());
    throw new KataError('InvalidArgument', `unknown annotation ${name}`, {
      hint: near.length > 0 ? `did you mean ${near.join(' or ')}?` : 'docs/configuration.md lists every annotation; remove it',
    });
  }
  return undefined;
}

function sourceName(config: RuntimeConfig, spec: AnnotationSpec): string {
  if (spec.section === 'hypervisor') {
    return `hypervisor.${config.hypervisor.type}.${spec.key}`;
  }
  return spec.section === 'agent' ? `agent.kata.${spec.key}` : `${spec.section}.${spec.key}`;
}

/** Where a key of the hypervisor is to be changed: its line, else its table, else the file. */
function placeOf(config: RuntimeConfig, key: string): string {
  const table = `hypervisor.${config.hypervisor.type}`;
  const place = config.sources.get(`${table}.${key}`) ?? config.sources.get(table) ?? config.path;
  return `[${table}]${place === '' ? '' : `, ${place}`}`;
}

function checkName(config: RuntimeConfig, spec: AnnotationSpec): void {
  if (!spec.name.startsWith(HYPERVISOR_PREFIX)) {
    return;
  }
  const suffix = spec.name.slice(HYPERVISOR_PREFIX.length);
  if (!config.hypervisor.enableAnnotations.some((pattern) => patternMatches(pattern, suffix))) {
    throw new KataError('PermissionDenied', `annotation ${spec.name} is not enabled`, { hint: `add "${suffix}" to enable_annotations in ${placeOf(config, 'enable_annotations')}` });
  }
}

function isThere(path: string): boolean {
  return lstatSync(path, { throwIfNoEntry: false }) !== undefined;
}

function applyOne(config: RuntimeConfig, spec: AnnotationSpec, text: string, host: HostFacts, exists: (path: string) => boolean, warnings: string[]): RuntimeConfig {
  const key = keySpec(spec.section, spec.key);
  if (key === undefined) {
    throw new KataError('Internal', `annotation ${spec.name}: no key "${spec.key}" in the schema`);
  }
  const given = valueOf(config, spec, key, text, exists);
  const value = isZero(given) ? defaultOf(key, config.hypervisor.type) : given;
  checkBounds(config, spec, value, host);
  if ((key.status === 'later' || key.status === 'ignored') && asksForMore(key, config.hypervisor.type, value)) {
    warnings.push(`annotation ${spec.name} ${key.status === 'later' ? 'is not supported yet' : 'has no effect'}`);
  }
  if (spec.section === 'runtime') {
    return { ...config, runtime: replaceKey(config.runtime, RUNTIME_FIELDS, spec.key, value === 'default' ? 'tcfilter' : value) };
  }
  if (spec.section === 'agent') {
    return { ...config, agent: replaceKey(config.agent, AGENT_FIELDS, spec.key, value) };
  }
  let hypervisor = replaceKey(config.hypervisor, HYPERVISOR_FIELDS, spec.key, value);
  const excluded = EXCLUDES[spec.key];
  if (excluded !== undefined) {
    hypervisor = replaceKey(hypervisor, HYPERVISOR_FIELDS, excluded.key, excluded.to);
  }
  return { ...config, hypervisor };
}

/** Setting the one resets the other. */
const EXCLUDES: Readonly<Record<string, { readonly key: string; readonly to: string }>> = {
  image: { key: 'initrd', to: '' },
  initrd: { key: 'image', to: '' },
  hot_plug_vfio: { key: 'cold_plug_vfio', to: 'no-port' },
  cold_plug_vfio: { key: 'hot_plug_vfio', to: 'no-port' },
};

function valueOf(config: RuntimeConfig, spec: AnnotationSpec, key: KeySpec, text: string, exists: (path: string) => boolean): ConfigValue {
  if (spec.key === 'enable_pprof' && !/^(1|0|[tT](rue)?|[fF](alse)?|TRUE|FALSE)$/.test(text)) {
    return false;
  }
  const value = annotationValue(spec, key, text);
  switch (spec.kind) {
    case 'asset':
      if (!isAbsolute(text)) {
        throw badAnnotation(spec.name, `${JSON.stringify(text.slice(0, 200))} is not an absolute path`, 'write the whole path');
      }
      return value;
    case 'gated':
      checkPath(config, spec, text, exists);
      return value;
    case 'params':
      return mergeParams(config.hypervisor.kernelParams, text);
    case 'json':
      return [...config.hypervisor.virtioFsExtraArgs, ...(value as string[])];
    default:
      return value;
  }
}

/** The value must be a path that one of the globs finds on this host now. */
function checkPath(config: RuntimeConfig, spec: AnnotationSpec, path: string, exists: (path: string) => boolean): void {
  const validKey = spec.validKey ?? '';
  const field = fieldOf(validKey);
  const globs = (HYPERVISOR_FIELDS.has(field) ? config.hypervisor[field as keyof typeof config.hypervisor] : config.hypervisor.other[validKey]) ?? [];
  const allowed = (globs as readonly string[]).some((glob) => (path === '' ? glob === '' : globMatches(glob, path)));
  if (!allowed || (path !== '' && (normalize(path) !== path || !exists(path)))) {
    throw new KataError('PermissionDenied', `${spec.key} ${JSON.stringify(path.slice(0, 200))} required from annotation ${spec.name} is not valid`, {
      hint: allowed ? 'there is no such file on this host' : `add it to ${validKey} in ${placeOf(config, validKey)}`,
    });
  }
}

function checkBounds(config: RuntimeConfig, spec: AnnotationSpec, value: ConfigValue, host: HostFacts): void {
  if (config.hypervisor.type === 'remote' || typeof value !== 'number') {
    return;
  }
  if ((spec.key === 'default_vcpus' || spec.key === 'default_maxvcpus') && value > host.cpus) {
    throw badAnnotation(spec.name, `${String(value)} is more than the CPUs of the host, ${String(host.cpus)}`, 'ask for fewer');
  }
  if (spec.key === 'default_maxvcpus' && value > archMaxVcpus(host.arch)) {
    throw badAnnotation(spec.name, `${String(value)} is more than a VM can have, ${String(archMaxVcpus(host.arch))}`, 'ask for fewer');
  }
  if (spec.key === 'default_memory' && value < 256) {
    throw badAnnotation(spec.name, `${String(value)} MiB is less than 256`, 'ask for 256 or more');
  }
}

function hashedPath(config: RuntimeConfig, spec: AnnotationSpec, text: string): string {
  if (!/^[0-9a-fA-F]{128}$/.test(text)) {
    throw badAnnotation(spec.name, 'not the hexadecimal digits of a SHA-512', '128 digits, as sha512sum prints them');
  }
  const field = fieldOf(spec.key);
  const path: unknown = HYPERVISOR_FIELDS.has(field) ? config.hypervisor[field as keyof typeof config.hypervisor] : config.hypervisor.other[spec.key];
  if (typeof path !== 'string' || path === '') {
    throw badAnnotation(spec.name, `there is no ${spec.key} to compare it with`, `set ${spec.key}, or remove the annotation`);
  }
  return path;
}
