/** All shims' metrics as one: every sample says which sandbox it is of. */
import { mergeFamilies, parseMetrics, renameFamily, type Family } from '../../virtcontainers/metrics/prometheus-text';
import type { PodLabels } from './cri';

const RUNTIMES = /^(go|process)_/;

/** One shim's text: labels added, families of its own runtime renamed to the shim's. */
export function labelled(text: string, sandboxId: string, pod: PodLabels | undefined): Family[] {
  const own: (readonly [string, string])[] = [['sandbox_id', sandboxId], ['cri_uid', pod?.uid ?? ''], ['cri_name', pod?.name ?? ''], ['cri_namespace', pod?.namespace ?? '']];
  const names = new Set(own.map(([name]) => name));
  return parseMetrics(text).map((family) => {
    const renamed = RUNTIMES.test(family.name) ? renameFamily(family, `kata_shim_${family.name}`) : family;
    return { ...renamed, samples: renamed.samples.map((sample) => ({ ...sample, labels: [...sample.labels.filter(([name]) => !names.has(name)), ...own] })) };
  });
}

/** Families of all sandboxes merged by name, sorted; with `filters` only those whose name starts with one. */
export function aggregate(perSandbox: readonly (readonly Family[])[], filters: readonly string[]): Family[] {
  return mergeFamilies(perSandbox.flat())
    .filter((family) => filters.length === 0 || filters.some((prefix) => family.name.startsWith(prefix)))
    .sort((a, b) => (a.name < b.name ? -1 : 1));
}
