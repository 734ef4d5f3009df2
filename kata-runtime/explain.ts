/** `kata-runtime explain --bundle DIR`: how the size of a VM comes about, step by step. */
import { readBundle } from '../virtcontainers/bundle/bundle';
import { containerType } from '../virtcontainers/bundle/container-type';
import { annotate } from '../virtcontainers/config/annotations';
import type { RuntimeConfig } from '../virtcontainers/config/types';
import { bootSize, cpusOfQuota, grownSize, limitBytes, sandboxWorkload } from '../virtcontainers/resources/vm-sizing';
import type { Registrar } from './registrar';
import type { Session } from './session';

const MIB = 1048576;

export interface Explanation {
  readonly containerType: string;
  readonly static: boolean;
  readonly base: { readonly vcpus: number; readonly memoryMiB: number; readonly vcpusFrom: string; readonly memoryFrom: string };
  readonly asked: { readonly cpus: number; readonly memoryMiB: number };
  readonly boot: { readonly vcpus: number; readonly memoryMiB: number; readonly maxVcpus: number };
  /** Undefined: the VM stays as it booted. */
  readonly grown: { readonly vcpus: number; readonly memoryMiB: number } | undefined;
  readonly warnings: readonly string[];
}

function source(config: RuntimeConfig, key: string): string {
  return config.sources.get(`hypervisor.${config.hypervisor.type}.${key}`) ?? 'default';
}

/** NotFound or InvalidArgument for a bundle that cannot be read, PermissionDenied-like refusals for its annotations. */
export async function explainBundle(config: RuntimeConfig, bundlePath: string): Promise<{ readonly config: RuntimeConfig; readonly explanation: Explanation }> {
  const { spec } = await readBundle(bundlePath);
  const type = containerType(spec.annotations);
  // Files that are named may be missing here: nothing is booted.
  const applied = annotate(config, spec.annotations ?? {}).config;
  const resources = spec.linux?.resources;
  const workload = sandboxWorkload(type, spec.annotations, resources);
  const explanation: Explanation = {
    containerType: type,
    static: applied.runtime.staticSandboxResourceMgmt,
    base: {
      vcpus: applied.hypervisor.defaultVcpus,
      memoryMiB: applied.hypervisor.defaultMemory,
      vcpusFrom: source(applied, 'default_vcpus'),
      memoryFrom: source(applied, 'default_memory'),
    },
    asked: {
      cpus: workload.cpus > 0 ? workload.cpus : cpusOfQuota(resources?.cpu?.quota, resources?.cpu?.period),
      memoryMiB: workload.memoryMiB > 0 ? workload.memoryMiB : Math.ceil(limitBytes(resources?.memory?.limit) / MIB),
    },
    boot: bootSize(applied, workload),
    grown: grownSize(applied, [{ resources }]),
    warnings: workload.warnings,
  };
  return { config: applied, explanation };
}

export function formatExplanation(config: RuntimeConfig, explanation: Explanation): string {
  const { base, asked, boot, grown } = explanation;
  const size = (value: { readonly vcpus: number; readonly memoryMiB: number }): string => `${String(value.vcpus)} vCPU, ${String(value.memoryMiB)} MiB`;
  const lines = [
    `configuration       ${config.path}`,
    `container           ${explanation.containerType}`,
    `base                ${size(base)}   (default_vcpus: ${base.vcpusFrom}; default_memory: ${base.memoryFrom})`,
    `the workload asks   ${String(asked.cpus)} CPU, ${String(asked.memoryMiB)} MiB   (0: no limit given)`,
    explanation.static
      ? `at boot             ${size(boot)}   = base + workload, rounded up (static_sandbox_resource_mgmt = true: it stays so)`
      : `at boot             ${size(boot)}   = base (static_sandbox_resource_mgmt = false: it grows with its containers)`,
    ...(grown === undefined ? [] : [`with this container ${size(grown)}   = base + its limits, at most ${String(config.hypervisor.defaultMaxvcpus)} vCPU (default_maxvcpus), ${String(config.hypervisor.defaultMaxmemory)} MiB (default_maxmemory)`]),
    ...explanation.warnings.map((warning) => `warning             ${warning}`),
  ];
  return `${lines.join('\n')}\n`;
}

export interface ExplainOptions {
  readonly bundle: string;
  readonly json?: boolean;
}

export async function runExplain(session: Session, options: ExplainOptions): Promise<void> {
  const { config, explanation } = await explainBundle(session.loadConfigUnchecked(), options.bundle);
  session.host.out(options.json === true ? `${JSON.stringify(explanation, null, 2)}\n` : formatExplanation(config, explanation));
}

export const registerExplain: Registrar = (program, run) => {
  program
    .command('explain')
    .description('explain how the vCPUs and the memory of a VM are computed')
    .requiredOption('--bundle <folder>', 'folder with the config.json of the container (pod: of its sandbox container)')
    .option('--json', 'print it as JSON')
    .addHelpText('after', '\nExamples:\n  kata-runtime explain --bundle /run/containerd/io.containerd.runtime.v2.task/k8s.io/<id>')
    .action(run('explain', (session, options: ExplainOptions) => runExplain(session, options)));
};
