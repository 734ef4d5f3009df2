/**
 * The families of a sandbox's /metrics: type, labels, and the values of `item` that must be there, as upstream documents
 * them; then ours. `kata_firecracker_*` come from Firecracker's own metrics file and exist with Firecracker only, which is
 * not driven. `go_*` tell of a runtime that is not ours.
 */
export interface Wanted {
  readonly type: 'counter' | 'gauge' | 'histogram';
  readonly labels: readonly string[];
  readonly items?: readonly string[];
}

const words = (text: string): string[] => text.split(' ');

const STATUS = words('vmpeak vmsize vmlck vmpin vmhwm vmrss rssanon rssfile rssshmem vmdata vmstk vmexe vmlib vmpte vmswap hugetlbpages');
const PROC_STATUS = [...STATUS, 'voluntary_ctxt_switches', 'nonvoluntary_ctxt_switches'];
const PROC_STAT = words('utime stime cutime cstime');
const IO = words('rchar wchar syscr syscw readbytes writebytes cancelledwritebytes');
const NET = [
  ...words('recv_bytes recv_packets recv_errs recv_drop recv_fifo recv_compressed recv_frame recv_multicast'),
  ...words('sent_bytes sent_packets sent_errs sent_drop sent_fifo sent_compressed sent_colls sent_carrier'),
];

const plain: Wanted = { type: 'gauge', labels: [] };
const count: Wanted = { type: 'counter', labels: [] };
const byItem = (items: readonly string[], ...more: string[]): Wanted => ({ type: 'gauge', labels: [...more, 'item'], items });
const durations: Wanted = { type: 'histogram', labels: ['action'] };

function ofProcess(prefix: string): Record<string, Wanted> {
  return {
    [`${prefix}_threads`]: plain,
    [`${prefix}_fds`]: plain,
    [`${prefix}_proc_status`]: byItem(PROC_STATUS),
    [`${prefix}_proc_stat`]: byItem(PROC_STAT),
    [`${prefix}_io_stat`]: byItem(IO),
  };
}

/** With the name that a shim gives; kata-monitor calls `process_*` `kata_shim_process_*`. */
export const UPSTREAM: Readonly<Record<string, Wanted>> = {
  kata_shim_rpc_durations_histogram_milliseconds: durations,
  kata_shim_agent_rpc_durations_histogram_milliseconds: durations,
  ...ofProcess('kata_shim'),
  kata_shim_netdev: byItem(NET, 'interface'),
  kata_shim_pod_overhead_cpu: plain,
  kata_shim_pod_overhead_memory_in_bytes: plain,
  ...ofProcess('kata_hypervisor'),
  kata_hypervisor_netdev: byItem(NET, 'interface'),
  process_cpu_seconds_total: count,
  process_open_fds: plain,
  process_max_fds: plain,
  process_resident_memory_bytes: plain,
  process_virtual_memory_bytes: plain,
  process_virtual_memory_max_bytes: plain,
  process_start_time_seconds: plain,
  kata_agent_scrape_count: count,
  kata_agent_threads: plain,
  kata_agent_total_time: plain,
  kata_agent_total_vm: plain,
  kata_agent_total_rss: plain,
  kata_agent_proc_status: byItem(STATUS),
  kata_agent_proc_stat: byItem(PROC_STAT),
  kata_agent_io_stat: byItem(words('rchar wchar syscr syscw read_bytes write_bytes cancelled_write_bytes')),
  kata_agent_process_cpu_seconds_total: count,
  kata_agent_process_max_fds: plain,
  kata_agent_process_open_fds: plain,
  kata_agent_process_resident_memory_bytes: plain,
  kata_agent_process_start_time_seconds: plain,
  kata_agent_process_virtual_memory_bytes: plain,
  kata_guest_load: byItem(words('load1 load5 load15')),
  kata_guest_tasks: byItem(words('cur max')),
  kata_guest_cpu_time: byItem(words('user nice system idle iowait irq softirq steal guest guest_nice'), 'cpu'),
  kata_guest_vm_stat: byItem(words('nr_free_pages pgfault pgmajfault')),
  kata_guest_netdev_stat: byItem(NET, 'interface'),
  kata_guest_meminfo: byItem(words('mem_total mem_free mem_available buffers cached active inactive dirty slab k_reclaimable per_cpu direct_map_4k')),
};

/** Where the sandbox has a virtiofsd. */
export const VIRTIOFSD: Readonly<Record<string, Wanted>> = ofProcess('kata_virtiofsd');

/** Where the guest has a disk. */
export const DISKS: Readonly<Record<string, Wanted>> = {
  kata_guest_diskstat: byItem(
    words('reads merged sectors_read time_reading writes writes_merged sectors_written time_writing in_progress time_in_progress weighted_time_in_progress discards discards_merged sectors_discarded time_discarding flushes time_flushing'),
    'disk',
  ),
};

/** What upstream has not. */
export const OURS: Readonly<Record<string, Wanted>> = {
  kata_shim_phase_milliseconds: { type: 'gauge', labels: ['phase'] },
  kata_shim_vm_source: { type: 'gauge', labels: ['source'] },
  kata_shim_containers: plain,
};

/** Where a factory is on. */
export const FACTORY: Readonly<Record<string, Wanted>> = {
  kata_shim_factory_hits_total: { type: 'counter', labels: ['source'] },
  kata_shim_factory_misses_total: count,
  kata_shim_factory_fallbacks_total: { type: 'counter', labels: ['reason'] },
};

/** Where this sandbox was to come from the factory and was booted. */
export const FALLBACK: Readonly<Record<string, Wanted>> = { kata_shim_vm_fallback: { type: 'gauge', labels: ['reason'] } };

/** kata-monitor's own, beside `kata_monitor_process_*` of its metrics library. */
export const MONITOR: Readonly<Record<string, Wanted>> = {
  kata_monitor_running_shim_count: plain,
  kata_monitor_scrape_count: count,
  kata_monitor_scrape_failed_count: count,
  kata_monitor_scrape_durations_histogram_milliseconds: { type: 'histogram', labels: [] },
};
