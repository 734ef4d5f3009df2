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
    ...nodeFamilies(input.shim),
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

/** The format has words of its own for what is no finite number. */
function number(value: number): string {
  return Number.isFinite(value) ? String(value) : Number.isNaN(value) ? 'NaN' : value > 0 ? '+Inf' : '-Inf';
}

const labelText = (text: string): string => (/["\\\n]/.test(text) ? text.replace(/["\\\n]/g, '_') : text);

function gauge(name: string, help: string, samples: readonly Sample[], type = 'gauge'): Family {
  const lines = samples.map(([labels, value]) => {
    const list = Object.entries(labels).map(([key, text]) => `${key}="${labelText(text)}"`);
    return `${name}${list.length === 0 ? '' : `{${list.join(',')}}`} ${number(value)}`;
  });
  return [name, type, help, lines];
}

/** One sample for each item. Most samples of a scrape are such: no object is made for them. */
function items(name: string, help: string, values: ReadonlyMap<string, number>, label = ''): Family {
  const lines: string[] = [];
  for (const [item, value] of values) {
    lines.push(`${name}{${label}item="${item}"} ${number(value)}`);
  }
  return [name, 'gauge', help, lines];
}

function processFamilies(prefix: string, figures: ProcFigures | undefined): Family[] {
  if (figures === undefined) {
    return [];
  }
  const help = 'Figures of /proc/PID/net/dev.';
  const net = [...figures.netdev].flatMap(([name, values]) => items(`${prefix}_netdev`, help, values, `interface="${labelText(name)}",`)[3]);
  return [
    gauge(`${prefix}_threads`, 'Threads of the process.', [[{}, figures.threads]]),
    gauge(`${prefix}_fds`, 'Open descriptors of the process.', [[{}, figures.fds]]),
    items(`${prefix}_proc_status`, 'Figures of /proc/PID/status.', figures.procStatus),
    items(`${prefix}_proc_stat`, 'Figures of /proc/PID/stat.', figures.procStat),
    items(`${prefix}_io_stat`, 'Figures of /proc/PID/io.', figures.ioStat),
    [`${prefix}_netdev`, 'gauge', help, net],
  ];
}

function factoryFamilies({ hits, misses, fallbacks }: Counts): Family[] {
  return [
    gauge('kata_shim_factory_hits_total', 'Sandboxes of this host that got their VM from the factory.', Object.entries(hits).map(([source, count]): Sample => [{ source }, count]), 'counter'),
    gauge('kata_shim_factory_misses_total', 'Requests of this host that the VM cache could not serve.', [[{}, misses]], 'counter'),
    gauge('kata_shim_factory_fallbacks_total', 'Sandboxes of this host that were booted although a factory is on.', Object.entries(fallbacks).map(([reason, count]): Sample => [{ reason }, count]), 'counter'),
  ];
}

/** Upstream has them from its metrics library, by these names. Its `go_*` families have no meaning here. */
function nodeFamilies(shim: ProcFigures | undefined): Family[] {
  const { user, system } = process.cpuUsage();
  const limits = shim?.limits;
  return [
    gauge('process_cpu_seconds_total', 'Total user and system CPU time spent in seconds.', [[{}, (user + system) / 1e6]], 'counter'),
    gauge('process_resident_memory_bytes', 'Resident memory size in bytes.', [[{}, process.memoryUsage.rss()]]),
    gauge('process_start_time_seconds', 'Start time of the process since unix epoch in seconds.', [[{}, (Date.now() - process.uptime() * 1000) / 1000]]),
    gauge('process_virtual_memory_bytes', 'Virtual memory size in bytes.', [[{}, shim?.procStatus.get('vmsize') ?? 0]]),
    gauge('process_virtual_memory_max_bytes', 'Maximum amount of virtual memory available in bytes.', limits === undefined ? [] : [[{}, limits.addressSpaceBytes]]),
    gauge('process_open_fds', 'Number of open file descriptors.', [[{}, shim?.fds ?? 0]]),
    gauge('process_max_fds', 'Maximum number of open file descriptors.', limits === undefined ? [] : [[{}, limits.openFiles]]),
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
