/** Figures of a process from /proc, for kata_shim_*, kata_hypervisor_* and kata_virtiofsd_* (shim-behaviour 5.4, 5.5). */
import { readdirSync, readFileSync } from 'node:fs';

export interface ProcFigures {
  readonly threads: number;
  readonly fds: number;
  /** Bytes, and context switches; names as in the metrics, e.g. `vmrss`. */
  readonly procStatus: ReadonlyMap<string, number>;
  /** Clock ticks: utime stime cutime cstime. */
  readonly procStat: ReadonlyMap<string, number>;
  readonly ioStat: ReadonlyMap<string, number>;
  /** By interface, then `recv_bytes`, `sent_packets` ...; empty unless asked for. */
  readonly netdev: ReadonlyMap<string, ReadonlyMap<string, number>>;
  /** Soft limits; undefined unless asked for. Infinity where there is none. */
  readonly limits: { readonly openFiles: number; readonly addressSpaceBytes: number } | undefined;
}

export interface ProcQuery {
  /** The first interfaces of the process's network namespace, at most this many. Default: none. */
  readonly interfaces?: number;
  readonly limits?: boolean;
}

const IO_NAMES: Readonly<Record<string, string>> = {
  rchar: 'rchar', wchar: 'wchar', syscr: 'syscr', syscw: 'syscw', read_bytes: 'readbytes', write_bytes: 'writebytes', cancelled_write_bytes: 'cancelledwritebytes',
};
const STATUS_NAMES = [
  'vmpeak', 'vmsize', 'vmlck', 'vmpin', 'vmhwm', 'vmrss', 'rssanon', 'rssfile', 'rssshmem', 'vmdata', 'vmstk', 'vmexe', 'vmlib', 'vmpte', 'vmpmd',
  'vmswap', 'hugetlbpages', 'voluntary_ctxt_switches', 'nonvoluntary_ctxt_switches',
];
const NET_NAMES = [
  'recv_bytes', 'recv_packets', 'recv_errs', 'recv_drop', 'recv_fifo', 'recv_frame', 'recv_compressed', 'recv_multicast',
  'sent_bytes', 'sent_packets', 'sent_errs', 'sent_drop', 'sent_fifo', 'sent_colls', 'sent_carrier', 'sent_compressed',
];

/** /proc/PID/status: kB become bytes. */
export function parseStatus(text: string): Map<string, number> {
  const figures = new Map<string, number>();
  for (const line of text.split('\n')) {
    const match = /^(\w+):\s+(\d+)( kB)?$/.exec(line);
    const name = match?.[1]?.toLowerCase();
    if (name !== undefined && STATUS_NAMES.includes(name)) {
      figures.set(name, Number(match?.[2]) * (match?.[3] === undefined ? 1 : 1024));
    }
  }
  return figures;
}

/** /proc/PID/stat; the name in it may hold anything. */
export function parseStat(text: string): Map<string, number> {
  const fields = text.slice(text.lastIndexOf(')') + 2).split(' ');
  return new Map(['utime', 'stime', 'cutime', 'cstime'].map((name, index) => [name, Number(fields[11 + index] ?? 0)]));
}

/** /proc/PID/io. */
export function parseIo(text: string): Map<string, number> {
  return new Map(
    text.split('\n').flatMap((line) => {
      const [key = '', value = ''] = line.split(': ');
      const name = IO_NAMES[key];
      return name === undefined ? [] : [[name, Number(value)] as const];
    }),
  );
}

/** /proc/PID/net/dev, at most `most` interfaces. */
export function parseNetdev(text: string, most = Infinity): Map<string, Map<string, number>> {
  const devices = new Map<string, Map<string, number>>();
  for (const line of text.split('\n').slice(2)) {
    if (devices.size >= most) {
      break;
    }
    const at = line.indexOf(':');
    if (at > 0) {
      const values = line.slice(at + 1).trim().split(/\s+/);
      devices.set(line.slice(0, at).trim(), new Map(NET_NAMES.map((name, index) => [name, Number(values[index] ?? 0)])));
    }
  }
  return devices;
}

/** Soft limits of /proc/PID/limits. */
export function parseLimits(text: string): { readonly openFiles: number; readonly addressSpaceBytes: number } {
  const soft = (name: string): number => {
    const value = new RegExp(`^${name}\\s+(\\d+|unlimited)`, 'm').exec(text)?.[1];
    return value === undefined ? 0 : value === 'unlimited' ? Infinity : Number(value);
  };
  return { openFiles: soft('Max open files'), addressSpaceBytes: soft('Max address space') };
}

function read(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return '';
  }
}

function count(path: string): number {
  try {
    return readdirSync(path).length;
  } catch {
    return 0;
  }
}

const PAGE_BYTES = 4096;

/** Resident memory of a process, 0 if it is gone: the cheap way to one figure. */
export function residentBytes(pid: number): number {
  return Number(read(`/proc/${String(pid)}/statm`).split(' ')[1] ?? 0) * PAGE_BYTES;
}

/** Undefined if the process is gone. What may not be read is left out. */
export function procFigures(pid: number, { interfaces = 0, limits = false }: ProcQuery = {}): ProcFigures | undefined {
  const folder = `/proc/${String(pid)}`;
  const stat = read(`${folder}/stat`);
  if (stat === '') {
    return undefined;
  }
  return {
    threads: count(`${folder}/task`),
    fds: count(`${folder}/fd`),
    procStatus: parseStatus(read(`${folder}/status`)),
    procStat: parseStat(stat),
    ioStat: parseIo(read(`${folder}/io`)),
    netdev: interfaces > 0 ? parseNetdev(read(`${folder}/net/dev`), interfaces) : new Map(),
    limits: limits ? parseLimits(read(`${folder}/limits`)) : undefined,
  };
}
