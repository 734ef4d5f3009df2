/** Where shared things are, on the host (virtcontainers-behaviour 1.6; the guest's paths are in agent-client/storage.ts). */
import { join } from 'node:path';

export interface SharePaths {
  readonly root: string;
  /** Mounts are made here; they appear in `shared`. */
  readonly mounts: string;
  /** What the VMM exports. */
  readonly shared: string;
  /** Stage for read-only binds. */
  readonly private: string;
}

/** The share folders of one sandbox; `sandboxId` is checked already. */
export function sharePaths(shareRoot: string, sandboxId: string): SharePaths {
  const root = join(shareRoot, sandboxId);
  return { root, mounts: join(root, 'mounts'), shared: join(root, 'shared'), private: join(root, 'private') };
}
