import { readdirSync, readFileSync } from 'node:fs';

let scrapes = 0;

function read(path: string): string {
  try {
    return readFileSync(path, 'latin1');
  } catch {
    return '';
  }
}

/** Prometheus text, written family by family. */
class Families {
  private readonly lines: string[] = [];

  add(name: string, help: string, samples: Iterable<readonly [Readonly<Record<string, string>>, number | string]>, type = 'gauge'): void {
    this.lines.push(`# HELP ${name} ${help}`, `# TYPE ${name} ${type}`);
    for (const [labels, value] of samples) {
      const text = Object.entries(labels).map(([key, label]) => `${key}="${label.replace(/[\\"\n]/g, '_')}"`).join(',');
      this.lines.push(`${name}${text === '' ? '' : `{${text}}`} ${String(value)}`);
    }
  }

  toString(): string {
    return `${this.lines.join('\n')}\n`;
  }
}

type Sample = readonly [Readonly<Record<string, string>>, number | string];

/** `kB` figures of a status file, names in lower case. */
function statusItems(text: string): Sample[] {
  return [...text.matchAll(/^(Vm\w+|Rss\w+|HugetlbPages):\s+(\d+) kB$/gm)].map(([, name = '', value = '0']): Sample => [{ item: name.toLowerCase() }, value]);
}

/** The names that /proc/meminfo's lines have as items: `MemTotal` is `mem_total`, `DirectMap4k` is `direct_map_4k`. */
export function memoryItem(name: string): string {
  const special: Readonly<Record<string, string>> = { Percpu: 'per_cpu', KReclaimable: 'k_reclaimable', SReclaimable: 's_reclaimable', SUnreclaim: 's_unreclaim' };
  return (
    special[name] ??
    name
      .replace(/\(([^)]*)\)/, '_$1')
      .replace(/^DirectMap(\w+)$/, 'direct_map_$1')
      .replace(/^(?!direct_map_).*$/, (text) => text.replace(/([a-z0-9])([A-Z])/g, '$1_$2').toLowerCase())
  );
}

const CPU_ITEMS = ['user', 'nice', 'system', 'idle', 'iowait', 'irq', 'softirq', 'steal', 'guest', 'guest_nice'];
const NET_ITEMS = [
  'recv_bytes', 'recv_packets', 'recv_errs', 'recv_drop', 'recv_fifo', 'recv_frame', 'recv_compressed', 'recv_multicast',
  'sent_bytes', 'sent_packets', 'sent_errs', 'sent_drop', 'sent_fifo', 'sent_colls', 'sent_carrier', 'sent_compressed',
];
const DISK_ITEMS = [
  'reads', 'merged', 'sectors_read', 'time_reading', 'writes', 'writes_merged', 'sectors_written', 'time_writing', 'in_progress', 'time_in_progress',
  'weighted_time_in_progress', 'discards', 'discards_merged', 'sectors_discarded', 'time_discarding', 'flushes', 'time_flushing',
];
const TICK_MS = 10;

function addAgent(families: Families): void {
  const stat = read('/proc/self/stat');
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ').map(Number);
  const at = (index: number): number => fields[index - 3] ?? 0;
  const io = [...read('/proc/self/io').matchAll(/^(\w+): (\d+)$/gm)].map(([, name = '', value = '0']): Sample => [{ item: name }, value]);
  families.add('kata_agent_scrape_count', 'Metrics scrape count', [[{}, ++scrapes]], 'counter');
  families.add('kata_agent_threads', 'Agent process threads', [[{}, at(20)]]);
  families.add('kata_agent_total_time', 'Agent process total time', [[{}, ((at(14) + at(15)) * TICK_MS) / 1000]]);
  families.add('kata_agent_total_vm', 'Agent process total VM size', [[{}, at(23)]]);
  families.add('kata_agent_total_rss', 'Agent process total RSS size', [[{}, at(24) * 4096]]);
  families.add('kata_agent_proc_status', 'Agent process status.', statusItems(read('/proc/self/status')));
  families.add('kata_agent_proc_stat', 'Agent process stat.', [
    [{ item: 'utime' }, at(14)], [{ item: 'stime' }, at(15)], [{ item: 'cutime' }, at(16)], [{ item: 'cstime' }, at(17)],
  ]);
  families.add('kata_agent_io_stat', 'Agent process IO statistics.', io);
}

function addGuest(families: Families): void {
  const [load1 = '0', load5 = '0', load15 = '0', tasks = '0/0'] = read('/proc/loadavg').split(' ');
  const [current = '0', max = '0'] = tasks.split('/');
  families.add('kata_guest_load', 'Guest system load.', [[{ item: 'load1' }, load1], [{ item: 'load5' }, load5], [{ item: 'load15' }, load15]]);
  families.add('kata_guest_tasks', 'Guest system load.', [[{ item: 'cur' }, current], [{ item: 'max' }, max]]);
  const cpu = [...read('/proc/stat').matchAll(/^cpu(\d*)\s+(.*)$/gm)].flatMap(([, number = '', values = '']) =>
    CPU_ITEMS.map((item, index): Sample => [{ cpu: number === '' ? 'total' : number, item }, Number(values.split(' ')[index] ?? 0) * TICK_MS]),
  );
  families.add('kata_guest_cpu_time', 'Guest CPU statistics.', cpu);
  const vm = [...read('/proc/vmstat').matchAll(/^(\w+) (\d+)$/gm)].map(([, item = '', value = '0']): Sample => [{ item }, value]);
  families.add('kata_guest_vm_stat', 'Guest virtual memory statistics.', vm);
  const net = [...read('/proc/net/dev').matchAll(/^\s*([^:\s]+):\s*(.*)$/gm)].flatMap(([, name = '', values = '']) =>
    NET_ITEMS.map((item, index): Sample => [{ interface: name, item }, values.trim().split(/\s+/)[index] ?? '0']),
  );
  families.add('kata_guest_netdev_stat', 'Guest net devices statistics.', net);
  const disks = read('/proc/diskstats').split('\n').map((line) => line.trim().split(/\s+/)).filter((words) => words.length > 3).flatMap((words) =>
    DISK_ITEMS.map((item, index): Sample => [{ disk: words[2] ?? '', item }, words[index + 3] ?? '0']),
  );
  families.add('kata_guest_diskstat', 'Disks statistics in system.', disks);
  const memory = [...read('/proc/meminfo').matchAll(/^([^:]+):\s+(\d+)(?: kB)?$/gm)].map(([line, name = '', value = '0']): Sample =>
    [{ item: memoryItem(name) }, line.endsWith('kB') ? Number(value) * 1024 : value]);
  families.add('kata_guest_meminfo', 'Statistics about memory usage on the system.', memory);
}

function openFiles(): number {
  try {
    return readdirSync('/proc/self/fd').length;
  } catch {
    return 0;
  }
}

/** The families that an agent of the 3.0 era has from its metrics library. */
function addProcess(families: Families): void {
  const { user, system } = process.cpuUsage();
  const openLimit = /^Max open files\s+(\d+)/m.exec(read('/proc/self/limits'))?.[1] ?? '+Inf';
  families.add('kata_agent_process_cpu_seconds_total', 'Total user and system CPU time spent in seconds.', [[{}, (user + system) / 1e6]], 'counter');
  families.add('kata_agent_process_max_fds', 'Maximum number of open file descriptors.', [[{}, openLimit]]);
  families.add('kata_agent_process_open_fds', 'Number of open file descriptors.', [[{}, openFiles()]]);
  families.add('kata_agent_process_resident_memory_bytes', 'Resident memory size in bytes.', [[{}, process.memoryUsage.rss()]]);
  families.add('kata_agent_process_start_time_seconds', 'Start time of the process since unix epoch in seconds.', [[{}, (Date.now() - process.uptime() * 1000) / 1000]]);
  families.add('kata_agent_process_virtual_memory_bytes', 'Virtual memory size in bytes.', [[{}, Number(read('/proc/self/statm').split(' ')[0]) * 4096]]);
}

/** All families of the agent and the guest. */
export function guestMetrics(): string {
  const families = new Families();
  addAgent(families);
  addGuest(families);
  addProcess(families);
  return families.toString();
}
