/** Renders /metrics in the Prometheus text format, families as upstream's (and a few more). */
import type { ProcFigures } from '../../virtcontainers/metrics/proc';
import { formatFamily, parseMetrics, renameFamily } from '../../virtcontainers/metrics/prometheus-text';
import type { Sandbox } from '../../virtcontainers/sandbox/types';
import type { Counts } from '../../factory/counters';
import type { ShimFigures } from './figures';
import type { Overhead } from './overhead';

export interface MetricsInput {
  readonly sandbox: Pick<Sandbox, 'vmSource' | 'vmFallback' | 'state' | 'containers'>;
  readonly figures: ShimFigures;
  readonly shim: ProcFigures | undefined;
  readonly hypervisor: ProcFigures | undefined;
  /** Undefined: the sandbox has none. */
  readonly virtiofsd?: ProcFigures | undefined;
  /** Of the sample that the scrape before started. */
  readonly overhead?: Overhead | undefined;
  /** Of all shims of the host; undefined where no factory is on. */
  readonly factory?: Counts | undefined;
  /** What the guest's agent answered; undefined if it did not. */
  readonly agentText: string | undefined;
}

type Family = readonly [name: string, type: string, help: string, lines: readonly string[]];

/** Everything, families in order of their names, the agent's after ours. */
export function renderMetrics(input: MetricsInput): string {
  const { figures, sandbox } = input;
  const families: Family[] = [
    histogram('kata_shim_rpc_durations_histogram_milliseconds', 'RPC latency distributions.', figures.rpcs),
    histogram('kata_shim_agent_rpc_durations_histogram_milliseconds', 'RPC latency distributions of calls to the agent.', figures.agentCalls),
    gauge('kata_shim_phase_milliseconds', 'Duration of each phase of the sandbox start.', [...figures.phases].map(([name, ms]) => [{ phase: name }, ms])),
    gauge('kata_shim_vm_source', 'What the virtual machine came from.', [[{ source: sandbox.vmSource }, 1]]),
    gauge('kata_shim_vm_fallback', 'Why the factory gave this sandbox no virtual machine.', sandbox.vmFallback === undefined ? [] : [[{ reason: sandbox.vmFallback }, 1]]),
    gauge('kata_shim_containers', 'Containers of the sandbox.', [[{}, sandbox.containers.size]]),
    ...processFamilies('kata_shim', input.shim),
    ...processFamilies('kata_hypervisor', input.hypervisor),
    ...processFamilies('kata_virtiofsd', input.virtiofsd),
    ...(input.overhead === undefined
      ? []
      : [
          gauge('kata_shim_pod_overhead_cpu', 'CPU of the pod beyond its containers, in percent of one CPU.', [[{}, input.overhead.cpuPercent]]),
          gauge('kata_shim_pod_overhead_memory_in_bytes', 'Memory of the pod beyond its containers.', [[{}, input.overhead.memoryBytes]]),
        ]),
    ...(input.factory === undefined ? [] : factoryFamilies(input.factory)),
    ...nodeFamilies(),
  ];
  const own = families
    .filter(([, , , lines]) => lines.length > 0)
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([name, type, help, lines]) => `# HELP ${name} ${help}\n# TYPE ${name} ${type}\n${lines.join('\n')}\n`);
  return own.join('') + (input.agentText === undefined ? '' : agentFamilies(input.agentText));
}

function histogram(name: string, help: string, source: ShimFigures['rpcs']): Family {
  return [name, 'histogram', help, source.lines(name)];
}

type Sample = readonly [labels: Readonly<Record<string, string>>, value: number];

function gauge(name: string, help: string, samples: readonly Sample[], type = 'gauge'): Family {
  const lines = samples.map(([labels, value]) => {
    const list = Object.entries(labels).map(([key, text]) => `${key}="${text.replace(/["\\\n]/g, '_')}"`);
    return `${name}${list.length === 0 ? '' : `{${list.join(',')}}`} ${String(value)}`;
  });
  return [name, type, help, lines];
}

function processFamilies(prefix: string, figures: ProcFigures | undefined): Family[] {
  if (figures === undefined) {
    return [];
  }
  const items = (map: ReadonlyMap<string, number>): Sample[] => [...map].map(([item, value]) => [{ item }, value]);
  return [
    gauge(`${prefix}_threads`, 'Threads of the process.', [[{}, figures.threads]]),
    gauge(`${prefix}_fds`, 'Open descriptors of the process.', [[{}, figures.fds]]),
    gauge(`${prefix}_proc_status`, 'Figures of /proc/PID/status.', items(figures.procStatus)),
    gauge(`${prefix}_proc_stat`, 'Figures of /proc/PID/stat.', items(figures.procStat)),
    gauge(`${prefix}_io_stat`, 'Figures of /proc/PID/io.', items(figures.ioStat)),
    gauge(`${prefix}_netdev`, 'Figures of /proc/PID/net/dev.', [...figures.netdev].flatMap(([name, values]) => [...values].map(([item, value]): Sample => [{ interface: name, item }, value]))),
  ];
}

function factoryFamilies({ hits, misses, fallbacks }: Counts): Family[] {
  return [
    gauge('kata_shim_factory_hits_total', 'Sandboxes of this host that got their VM from the factory.', Object.entries(hits).map(([source, count]): Sample => [{ source }, count]), 'counter'),
    gauge('kata_shim_factory_misses_total', 'Requests of this host that the VM cache could not serve.', [[{}, misses]], 'counter'),
    gauge('kata_shim_factory_fallbacks_total', 'Sandboxes of this host that were booted although a factory is on.', Object.entries(fallbacks).map(([reason, count]): Sample => [{ reason }, count]), 'counter'),
  ];
}

function nodeFamilies(): Family[] {
  const { rss } = process.memoryUsage();
  const { user, system } = process.cpuUsage();
  return [
    gauge('process_cpu_seconds_total', 'CPU time of the shim.', [[{}, (user + system) / 1e6]], 'counter'),
    gauge('process_resident_memory_bytes', 'Resident memory of the shim.', [[{}, rss]]),
    gauge('process_start_time_seconds', 'Start of the shim since the epoch.', [[{}, (Date.now() - process.uptime() * 1000) / 1000]]),
  ];
}

const MAX_AGENT_LINES = 50_000;
const RUNTIMES = /^(go|process)_/;
const AGENTS = /^kata_(agent|guest)_/;

/** The guest's families, read strictly: those of its own runtime get the agent's prefix, and none can pass for one of ours. */
function agentFamilies(text: string): string {
  return parseMetrics(text, MAX_AGENT_LINES)
    .map((family) => (RUNTIMES.test(family.name) ? renameFamily(family, `kata_agent_${family.name}`) : family))
    .filter((family, index, all) => AGENTS.test(family.name) && all.findIndex((other) => other.name === family.name) === index)
    .map(formatFamily)
    .join('');
}
