/** The sandboxes of the node as they come and go, and the pods that they belong to. */
import { readdirSync, watch, type FSWatcher } from 'node:fs';
import { describeError } from '../../base/errors';
import type { Logger } from '../../base/log';
import type { PodLabels } from './cri';

const RESCAN_MS = 5_000;
const CRI_DELAY_MS = 5_000;
const ID = /^[a-zA-Z0-9][a-zA-Z0-9_.-]{1,127}$/;

export type PodLister = () => Promise<ReadonlyMap<string, PodLabels>>;

/**
 * Watches the state folders. They may come and go themselves: a slow rescan finds that, so that nothing waits for a
 * minute. Pods are asked for a while after a sandbox came, and again until all have their names.
 */
export class Discovery {
  private readonly known = new Map<string, PodLabels | undefined>();
  private readonly watchers = new Map<string, FSWatcher>();
  private rescan: NodeJS.Timeout | undefined;
  private pods: NodeJS.Timeout | undefined;
  private lastError = '';

  constructor(
    private readonly roots: readonly string[],
    private readonly listPods: PodLister,
    private readonly logger: Logger,
    private readonly podDelayMs = CRI_DELAY_MS,
  ) {}

  start(): void {
    this.scan();
    this.rescan = setInterval(() => this.scan(), RESCAN_MS);
  }

  stop(): void {
    clearInterval(this.rescan);
    clearTimeout(this.pods);
    this.pods = undefined;
    for (const watcher of this.watchers.values()) {
      watcher.close();
    }
    this.watchers.clear();
  }

  /** Sorted ids with the pod of each; undefined while it is not known. */
  get sandboxes(): readonly (readonly [id: string, pod: PodLabels | undefined])[] {
    return [...this.known].sort(([a], [b]) => (a < b ? -1 : 1));
  }

  /** Looks at the folders now. */
  scan(): void {
    const present = new Set<string>();
    for (const root of this.roots) {
      for (const entry of this.entries(root)) {
        present.add(entry);
      }
    }
    for (const id of this.known.keys()) {
      if (!present.has(id)) {
        this.known.delete(id);
      }
    }
    for (const id of present) {
      if (!this.known.has(id)) {
        this.known.set(id, undefined);
      }
    }
    if ([...this.known.values()].includes(undefined)) {
      this.askPodsLater();
    }
  }

  private entries(root: string): string[] {
    try {
      const names = readdirSync(root, { withFileTypes: true }).filter((entry) => entry.isDirectory() && ID.test(entry.name)).map((entry) => entry.name);
      this.watchRoot(root);
      return names;
    } catch {
      this.watchers.get(root)?.close();
      this.watchers.delete(root);
      return [];
    }
  }

  private watchRoot(root: string): void {
    if (this.watchers.has(root)) {
      return;
    }
    const watcher = watch(root, { persistent: false }, () => this.scan());
    watcher.on('error', () => {
      watcher.close();
      this.watchers.delete(root);
    });
    this.watchers.set(root, watcher);
  }

  private askPodsLater(): void {
    this.pods ??= setTimeout(() => {
      void this.askPods();
    }, this.podDelayMs);
  }

  private async askPods(): Promise<void> {
    try {
      const pods = await this.listPods();
      this.lastError = '';
      for (const [id, labels] of pods) {
        if (this.known.has(id)) {
          this.known.set(id, labels);
        }
      }
    } catch (reason) {
      // Once for each reason: it is asked again and again, also on a node without a CRI.
      const error = describeError(reason);
      if (error !== this.lastError) {
        this.logger.warn('pods are not known', { error });
      }
      this.lastError = error;
    }
    this.pods = undefined;
  }
}
