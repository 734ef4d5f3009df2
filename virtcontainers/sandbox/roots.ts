/** The folders that everything of ours on the host lives under. Upstream's; tests use others. */
export interface Roots {
  /** One folder per sandbox with persist.json and shim-monitor.sock. */
  readonly state: string;
  /** One folder per VM with its sockets. */
  readonly vm: string;
  /** One folder per sandbox with what host and guest share. */
  readonly share: string;
  /** Locks of the sandboxes that are starting. */
  readonly starts: string;
  /** Where the cgroup hierarchies are mounted. */
  readonly cgroup: string;
}

export const DEFAULT_ROOTS: Roots = {
  state: '/run/vc/sbs',
  vm: '/run/vc/vm',
  share: '/run/kata-containers/shared/sandboxes',
  starts: '/run/kata-containers/starts',
  cgroup: '/sys/fs/cgroup',
};
