/**
 * Counts of what became of requests, shared by all shims of a host without a lock: one file per counter, one byte per
 * event (appending a byte is atomic), so a counter is a file's size.
 */
import { appendFileSync, mkdirSync, readdirSync, statSync, truncateSync } from 'node:fs';
import { join } from 'node:path';

/** Why a sandbox was booted although a factory is on. */
export type FallbackReason =
  | 'config-mismatch'
  | 'template-failed'
  | 'cache-unreachable'
  | 'cache-empty'
  | 'cache-failed'
  | 'prepare-failed';

export interface Counts {
  readonly hits: Readonly<Record<string, number>>;
  /** Requests that the cache could not serve and the template did, or nobody. */
  readonly misses: number;
  readonly fallbacks: Readonly<Record<string, number>>;
}

/** A counter that grew this large starts again at 0: it would only eat memory. */
const MAX_BYTES = 16 * 1024 * 1024;

export class Counters {
  /** @param folder made at the first count */
  constructor(private readonly folder: string) {}

  hit(source: 'template' | 'cache'): void {
    this.add(`hit.${source}`);
  }

  miss(): void {
    this.add('miss');
  }

  fallback(reason: FallbackReason): void {
    this.add(`fallback.${reason}`);
  }

  read(): Counts {
    const hits: Record<string, number> = { template: 0, cache: 0 };
    const fallbacks: Record<string, number> = {};
    let misses = 0;
    for (const name of this.names()) {
      const count = this.sizeOf(name);
      const [kind, what = ''] = name.split('.', 2);
      if (kind === 'hit') {
        hits[what] = count;
      } else if (kind === 'fallback') {
        fallbacks[what] = count;
      } else if (kind === 'miss') {
        misses = count;
      }
    }
    return { hits, misses, fallbacks };
  }

  /** Counting must never fail a start. */
  private add(name: string): void {
    try {
      mkdirSync(this.folder, { recursive: true, mode: 0o700 });
      if (this.sizeOf(name) >= MAX_BYTES) {
        truncateSync(join(this.folder, name), 0);
      }
      appendFileSync(join(this.folder, name), '.', { mode: 0o600 });
    } catch {
      // No room or no right: the count is lost, the sandbox is not.
    }
  }

  private names(): readonly string[] {
    try {
      return readdirSync(this.folder);
    } catch {
      return [];
    }
  }

  private sizeOf(name: string): number {
    return statSync(join(this.folder, name), { throwIfNoEntry: false })?.size ?? 0;
  }
}
