/** `env --sources`: every key of the configuration with its value and where that comes from. */
import { HYPERVISOR_KEYS } from '../../virtcontainers/config/hypervisor-keys';
import { AGENT_KEYS, FACTORY_KEYS, RUNTIME_KEYS } from '../../virtcontainers/config/section-keys';
import type { RuntimeConfig } from '../../virtcontainers/config/types';
import { tomlString } from './toml';

export interface SourcedValue {
  /** `hypervisor.qemu.kernel`. */
  readonly key: string;
  readonly value: unknown;
  readonly kind: 'default' | 'file' | 'drop-in' | 'annotation';
  /** `<file>:<line>`, the annotation's name, or ''. */
  readonly where: string;
}

function camel(key: string): string {
  return key.replace(/_([a-z0-9])/g, (_, letter: string) => letter.toUpperCase());
}

function kindOf(config: RuntimeConfig, where: string | undefined): SourcedValue['kind'] {
  if (where === undefined) {
    return 'default';
  }
  if (where.startsWith('annotation ')) {
    return 'annotation';
  }
  return config.dropIns.some((file) => where.startsWith(`${file}:`)) ? 'drop-in' : 'file';
}

/** In the order of the tables; a key whose value this configuration does not hold (another VMM's) is left out. */
export function sourcedValues(config: RuntimeConfig): SourcedValue[] {
  const sections = [
    { prefix: `hypervisor.${config.hypervisor.type}`, keys: HYPERVISOR_KEYS, values: config.hypervisor },
    { prefix: 'factory', keys: FACTORY_KEYS, values: config.factory },
    { prefix: 'agent.kata', keys: AGENT_KEYS, values: config.agent },
    { prefix: 'runtime', keys: RUNTIME_KEYS, values: config.runtime },
  ];
  return sections.flatMap(({ prefix, keys, values }) => {
    const record = values as unknown as Readonly<Record<string, unknown>>;
    const other = (record['other'] ?? {}) as Readonly<Record<string, unknown>>;
    return keys.flatMap((spec): SourcedValue[] => {
      const value = camel(spec.key) in record ? record[camel(spec.key)] : other[spec.key];
      if (value === undefined) {
        return [];
      }
      const key = `${prefix}.${spec.key}`;
      const where = config.sources.get(key);
      return [{ key, value, kind: kindOf(config, where), where: (where ?? '').replace(/^annotation /, '') }];
    });
  });
}

function literal(value: unknown): string {
  return typeof value === 'string' ? tomlString(value) : JSON.stringify(value, (_, item: unknown) => (typeof item === 'bigint' ? Number(item) : item));
}

/** One line each, readable as TOML apart from the section, which is part of the key. */
export function formatSources(values: readonly SourcedValue[]): string {
  const lines = values.map((entry) => ({ left: `${entry.key} = ${literal(entry.value)}`, right: entry.where === '' ? entry.kind : `${entry.kind} ${entry.where}` }));
  const width = Math.min(72, Math.max(...lines.map((line) => line.left.length)));
  return lines.map((line) => `${line.left.padEnd(width)}  # ${line.right}\n`).join('');
}
