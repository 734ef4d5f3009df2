/**
 * Templates on disk: `<root>/<key>/vm/{memory,state,meta.json}`, `vm` being a tmpfs of its own where possible, and
 * `<root>/<key>/lock`: shared while a clone loads, exclusive while a template is made or destroyed. A clone that runs
 * has the memory mapped and needs the files no more.
 */
import { mkdirSync, readdirSync, readFileSync, rmdirSync, rmSync, statfsSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { writeFileAtomic } from '../../base/atomic-file';
import { describeError, isCode, KataError } from '../../base/errors';
import { DEFAULT_ROOTS } from '../../virtcontainers/sandbox/roots';
import { removeVmFolder } from '../../virtcontainers/hypervisor/vm-folder';
import { FileLock, type LockOptions } from '../../base/file-lock';
import { makerId } from './key';
import { isMountPoint, slackMiB, type TemplateMounts } from './tmpfs';

/** What is known of a saved template. JSON. */
export interface TemplateMeta {
  readonly version: 1;
  readonly key: string;
  /** ISO 8601. */
  readonly createdAt: string;
  readonly vcpus: number;
  readonly memoryMiB: number;
  /** Sizes of the two files when they were saved: a shorter one was truncated. */
  readonly memoryBytes: number;
  readonly stateBytes: number;
  readonly hypervisor: string;
  readonly kernel: string;
  readonly initrd: string;
  /** `templateFamily`. */
  readonly family?: string;
}

export interface TemplateFiles {
  readonly folder: string;
  readonly memory: string;
  readonly state: string;
  readonly meta: string;
}

export interface StoredTemplate {
  readonly key: string;
  readonly files: TemplateFiles;
  /** Undefined: unfinished or damaged. */
  readonly meta: TemplateMeta | undefined;
  /** Allocated, of both files. */
  readonly usedBytes: number;
  readonly mounted: boolean;
  /** VMMs that were started from it and still run. */
  readonly users: readonly number[];
}

/** A failed creation is not tried again for this long, so that many waiting sandboxes boot instead of failing one by one. */
const RETRY_AFTER_MS = 30_000;
const KEY = /^[0-9a-f]{16}$/;

function sizeOf(path: string): number {
  return statSync(path, { throwIfNoEntry: false })?.size ?? -1;
}

function allocatedBytes(path: string): number {
  return (statSync(path, { throwIfNoEntry: false })?.blocks ?? 0) * 512;
}

/** Pids of the processes that have `path` in their command line. Facts of the moment, so nothing has to be kept true. */
export function usersOf(path: string): number[] {
  const needle = Buffer.from(`mem-path=${path}`);
  return readdirSync('/proc').flatMap((name) => {
    if (!/^\d+$/.test(name)) {
      return [];
    }
    try {
      return readFileSync(`/proc/${name}/cmdline`).includes(needle) ? [Number(name)] : [];
    } catch {
      return [];
    }
  });
}

export class TemplateStore {
  constructor(
    readonly root: string,
    private readonly mounts: TemplateMounts,
    private readonly vmRoot: string = DEFAULT_ROOTS.vm,
  ) {}

  /** The VM that becomes the template: its id and its folder. */
  maker(key: string): { readonly id: string; readonly directory: string } {
    const id = makerId(this.root, key);
    return { id, directory: join(this.vmRoot, id) };
  }

  files(key: string): TemplateFiles {
    const folder = join(this.root, key, 'vm');
    return { folder, memory: join(folder, 'memory'), state: join(folder, 'state'), meta: join(folder, 'meta.json') };
  }

  lockPath(key: string): string {
    return join(this.root, key, 'lock');
  }

  /** The meta data if the template is whole; undefined if there is none, it is unfinished, or a file is not as it was saved. */
  check(key: string): TemplateMeta | undefined {
    const files = this.files(key);
    try {
      const meta = JSON.parse(readFileSync(files.meta, 'utf8')) as Partial<TemplateMeta>;
      const whole = meta.version === 1 && meta.key === key && sizeOf(files.memory) === meta.memoryBytes && sizeOf(files.state) === meta.stateBytes;
      return whole ? (meta as TemplateMeta) : undefined;
    } catch {
      return undefined;
    }
  }

  /** The lock for loading a clone. */
  async share(key: string, options: LockOptions): Promise<FileLock> {
    return FileLock.take(this.lockPath(key), 'shared', options);
  }

  /** Throws if making this template failed a moment ago. */
  checkRetry(key: string): void {
    const path = join(this.root, key, 'failed');
    const failed = statSync(path, { throwIfNoEntry: false });
    const age = failed === undefined ? Infinity : Date.now() - failed.mtimeMs;
    if (age >= 0 && age < RETRY_AFTER_MS) {
      throw new KataError('FailedPrecondition', `template ${key}: making it failed ${String(Math.round(age / 1000))} s ago: ${readFileSync(path, 'utf8')}`);
    }
  }

  /**
   * Makes a template under its exclusive lock, which the caller holds: an empty folder of the right size is there when
   * `fill` is called, which returns when memory and state are saved. On failure nothing is left but the reason.
   */
  async create(key: string, size: { readonly memoryMiB: number }, fill: (files: TemplateFiles) => Promise<Omit<TemplateMeta, 'version' | 'key' | 'createdAt' | 'memoryBytes' | 'stateBytes'>>): Promise<TemplateMeta> {
    const files = this.files(key);
    try {
      await this.clear(key);
      mkdirSync(files.folder, { recursive: true, mode: 0o700 });
      const mounted = await this.mounts.mount(files.folder, size.memoryMiB + slackMiB());
      if (!mounted) {
        this.checkRoom(files.folder, size.memoryMiB);
      }
      writeFileSync(files.memory, '', { mode: 0o600 });
      const facts = await fill(files);
      const meta: TemplateMeta = {
        version: 1, key, createdAt: new Date().toISOString(), ...facts,
        memoryBytes: sizeOf(files.memory), stateBytes: sizeOf(files.state),
      };
      if (meta.memoryBytes <= 0 || meta.stateBytes <= 0) {
        throw new KataError('DataLoss', `save template ${key}: memory has ${String(meta.memoryBytes)} bytes, state ${String(meta.stateBytes)}`);
      }
      writeFileAtomic(files.meta, `${JSON.stringify(meta)}\n`);
      return meta;
    } catch (reason) {
      await this.clear(key);
      if (!isCode(reason, 'Canceled')) {
        this.noteFailure(key, describeError(reason));
      }
      throw reason;
    }
  }

  list(): StoredTemplate[] {
    return this.keys().map((key) => {
      const files = this.files(key);
      return {
        key,
        files,
        meta: this.check(key),
        usedBytes: allocatedBytes(files.memory) + allocatedBytes(files.state),
        mounted: isMountPoint(files.folder),
        users: usersOf(files.memory),
      };
    });
  }

  keys(): string[] {
    try {
      return readdirSync(this.root).filter((name) => KEY.test(name)).sort();
    } catch {
      return [];
    }
  }

  /** Removes one template, waiting for clones that are being loaded. Running clones live on. Nothing there: fine. */
  async destroy(key: string, options: LockOptions): Promise<void> {
    if (!this.keys().includes(key)) {
      return;
    }
    const lock = await FileLock.take(this.lockPath(key), 'exclusive', options);
    try {
      await this.clear(key);
      rmSync(join(this.root, key), { recursive: true, force: true });
    } finally {
      lock.release();
    }
  }

  /** Removes the templates that `key` has taken the place of. One that a clone loads right now stays until the next time. */
  async removeSuperseded(key: string, family: string): Promise<readonly string[]> {
    const removed: string[] = [];
    for (const other of this.keys()) {
      if (other !== key && this.check(other)?.family === family) {
        const done = await this.destroy(other, { timeoutMs: 0 }).then(() => true, () => false);
        removed.push(...(done ? [other] : []));
      }
    }
    return removed;
  }

  /** Removes the root if nothing of ours is in it. */
  removeRoot(): void {
    try {
      rmdirSync(this.root);
    } catch {
      // Somebody else's files, or a template that was made meanwhile.
    }
  }

  private async clear(key: string): Promise<void> {
    const { folder } = this.files(key);
    await this.mounts.unmount(folder);
    rmSync(folder, { recursive: true, force: true });
    // What a maker that was killed could not remove: we hold the lock that it held, so it is dead.
    const { id, directory } = this.maker(key);
    removeVmFolder(directory, id);
    rmSync(join(this.root, key, 'failed'), { force: true });
  }

  private noteFailure(key: string, reason: string): void {
    try {
      writeFileSync(join(this.root, key, 'failed'), reason, { mode: 0o600 });
    } catch {
      // A full disk: then the next one finds out by itself.
    }
  }

  /** Without an own tmpfs: enough for what a booted guest touches. */
  private checkRoom(folder: string, memoryMiB: number): void {
    const { bavail, bsize } = statfsSync(folder);
    const neededMiB = Math.min(memoryMiB, 192) + slackMiB();
    const freeMiB = Math.floor((bavail * bsize) / 1048576);
    if (freeMiB < neededMiB) {
      throw new KataError('ResourceExhausted', `make a template in ${folder}: ${String(freeMiB)} MiB are free, ${String(neededMiB)} MiB are needed`, {
        hint: 'free some, or set template_path to a larger file system',
      });
    }
  }
}
