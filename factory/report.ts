/** What there is of the factory on this host. Only looks: it has no handle that could destroy anything. */
import { readFileSync } from 'node:fs';
import { describeError, isCode } from '../base/errors';
import type { RuntimeConfig } from '../virtcontainers/config/types';
import type { Counts } from './counters';
import { baseConfigOf, countersOf } from './create';
import { callCache } from './grpc-cache/call';
import { RPC } from './grpc-cache/wire';
import { templateKey } from './template/key';
import { TemplateStore } from './template/store';
import { hostTemplateMounts } from './template/tmpfs';

export interface CachedVmReport {
  readonly pid: number;
  readonly cpu: number;
  readonly memoryMiB: number;
  /** Proportional set size; undefined where the kernel does not tell. */
  readonly pssBytes: number | undefined;
}

export interface CacheReport {
  readonly endpoint: string;
  /** VMs wanted in stock. */
  readonly wanted: number;
  readonly pid: number | undefined;
  readonly vms: readonly CachedVmReport[];
  /** Why the server could not be asked. */
  readonly error: string | undefined;
  readonly running: boolean;
}

export interface TemplateReport {
  readonly key: string;
  readonly path: string;
  /** It is the one that this configuration's sandboxes use. */
  readonly current: boolean;
  readonly complete: boolean;
  readonly createdAt: string | undefined;
  readonly ageSeconds: number | undefined;
  readonly vcpus: number | undefined;
  readonly memoryMiB: number | undefined;
  readonly usedBytes: number;
  readonly mounted: boolean;
  readonly users: readonly { readonly pid: number; readonly pssBytes: number | undefined }[];
}

export interface FactoryReport {
  readonly kind: 'template' | 'cache' | 'cache over template' | 'none';
  readonly cache: CacheReport | undefined;
  readonly templatePath: string;
  readonly templates: readonly TemplateReport[];
  readonly counts: Counts;
}

const CALL_TIMEOUT_MS = 3000;

export function pssBytes(pid: number): number | undefined {
  try {
    const kib = /^Pss:\s+(\d+) kB/m.exec(readFileSync(`/proc/${String(pid)}/smaps_rollup`, 'latin1'))?.[1];
    return kib === undefined ? undefined : Number(kib) * 1024;
  } catch {
    return undefined;
  }
}

async function cacheReport(endpoint: string, wanted: number): Promise<CacheReport> {
  try {
    const status = await callCache(endpoint, RPC.Status, {}, { timeoutMs: CALL_TIMEOUT_MS });
    const vms = status.vmstatus.map(({ pid, cpu, memory }) => ({ pid: Number(pid), cpu, memoryMiB: memory, pssBytes: pssBytes(Number(pid)) }));
    return { endpoint, wanted, pid: Number(status.pid), vms, error: undefined, running: true };
  } catch (reason) {
    return { endpoint, wanted, pid: undefined, vms: [], error: describeError(reason), running: !isCode(reason, 'Unavailable') };
  }
}

export function templateReports(config: RuntimeConfig): TemplateReport[] {
  const { templatePath } = config.factory;
  const current = templateKey(baseConfigOf(config));
  return new TemplateStore(templatePath, hostTemplateMounts(false)).list().map(({ key, files, meta, usedBytes, mounted, users }) => ({
    key,
    path: files.folder,
    current: key === current,
    complete: meta !== undefined,
    createdAt: meta?.createdAt,
    ageSeconds: meta === undefined ? undefined : Math.max(0, Math.round((Date.now() - Date.parse(meta.createdAt)) / 1000)),
    vcpus: meta?.vcpus,
    memoryMiB: meta?.memoryMiB,
    usedBytes,
    mounted,
    users: users.map((pid) => ({ pid, pssBytes: pssBytes(pid) })),
  }));
}

export async function reportFactory(config: RuntimeConfig): Promise<FactoryReport> {
  const { enableTemplate, templatePath, vmCacheNumber, vmCacheEndpoint } = config.factory;
  const cached = vmCacheNumber > 0;
  return {
    kind: cached ? (enableTemplate ? 'cache over template' : 'cache') : enableTemplate ? 'template' : 'none',
    cache: cached ? await cacheReport(vmCacheEndpoint, vmCacheNumber) : undefined,
    templatePath,
    templates: templateReports(config),
    counts: countersOf(templatePath).read(),
  };
}
