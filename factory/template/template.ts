/** Base VMs that are clones of a saved one. Whoever needs the template first makes it; all others wait for it. */
import { closeSync, openSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { SHARE_TAG } from '../../agent-client/storage';
import { run } from '../../base/child';
import { describeError, KataError } from '../../base/errors';
import { UndoStack } from '../../base/undo';
import { sleep } from '../../base/deadline';
import type { SharedFolder, VmSpec } from '../../virtcontainers/hypervisor/types';
import { bootTimeoutMs } from '../../virtcontainers/vm/time-outs';
import { bootBase } from '../boot';
import type { BaseConfig, BaseFactory, BaseVm, FactoryDeps, StockedVm } from '../types';
import { FileLock } from '../../base/file-lock';
import { templateFamily, templateKey } from './key';
import type { TemplateFiles, TemplateStore } from './store';

/** Waiting for another process that makes the template; its own boot ends earlier. */
const WAIT_MS = 90_000;
const SAVE_MS = 30_000;
const COPY_MS = 20_000;
/** A tmpfs on every host. */
const COPY_FOLDER = '/dev/shm';
const RECHECK_MS = 10;

/** The VMM gave up by itself while it loaded the template: no other clone will fare better. */
class LoadFailure extends KataError {}

interface LockedTemplate {
  readonly files: TemplateFiles;
  readonly lock: FileLock;
}

export class TemplateFactory implements BaseFactory {
  readonly kind = 'template';
  readonly key: string;

  constructor(
    readonly config: BaseConfig,
    private readonly store: TemplateStore,
    private readonly deps: FactoryDeps,
  ) {
    this.key = templateKey(config);
  }

  async getBaseVm(spec: VmSpec, signal: AbortSignal): Promise<BaseVm> {
    const { files, lock } = await this.locked(signal);
    try {
      return await this.clone(spec, files, signal);
    } catch (reason) {
      lock.release();
      if (reason instanceof LoadFailure) {
        await this.distrust(spec, reason);
      }
      throw KataError.from(reason, `clone template ${this.key} for "${spec.id}": ${describeError(reason)}`);
    } finally {
      lock.release();
    }
  }

  get isThere(): boolean {
    return this.store.check(this.key) !== undefined;
  }

  /** Makes the template unless it is there; false if it was. */
  async ensure(signal: AbortSignal): Promise<boolean> {
    const had = this.store.check(this.key) !== undefined;
    (await this.locked(signal)).lock.release();
    return !had;
  }

  stock(): readonly StockedVm[] {
    return [];
  }

  /** A template belongs to all: `kata-runtime factory destroy` ends it, not the one who used it. */
  async close(): Promise<void> {
    return Promise.resolve();
  }

  private async clone(spec: VmSpec, files: TemplateFiles, signal: AbortSignal): Promise<BaseVm> {
    return UndoStack.guard(async (undo) => {
      const { vcpus, memoryMiB } = this.config;
      const driver = await this.deps.driverFor(spec.config.type);
      const copyUndo = new UndoStack();
      undo.push('the copy of the memory', async () => {
        await copyUndo.unwind();
      });
      const memoryPath = await this.memoryFor(copyUndo, spec, files);
      const vm = driver.createVm({ ...spec, vcpus, memoryMiB, template: { use: 'clone', memoryPath, statePath: files.state } });
      undo.push(`virtual machine "${spec.id}"`, () => vm.stop());
      try {
        await vm.start({ timeoutMs: bootTimeoutMs(vm, spec.config.bootTimeout), signal, onLaunched: () => undefined });
      } catch (reason) {
        const code = vm.facts().exit?.code ?? 0;
        throw code === 0 ? reason : new LoadFailure('DataLoss', `load the template: ${describeError(reason)}`, { cause: reason });
      }
      await copyUndo.unwind();
      return { vm, source: 'template', vcpus, memoryMiB };
    });
  }

  /**
   * The file that the clone maps: the template's, privately. A vhost-user daemon sees only what is written to the file
   * itself, so with one the clone needs a copy of its own, which goes as soon as it is mapped.
   */
  private async memoryFor(undo: UndoStack, spec: VmSpec, files: TemplateFiles): Promise<string> {
    const { sharedFs, enableVhostUserStore } = this.config.hypervisor;
    if (!sharedFs.startsWith('virtio-fs') && !enableVhostUserStore) {
      return files.memory;
    }
    const name = join(COPY_FOLDER, `kata-${spec.id}`);
    const fd = openSync(name, 'wx+', 0o600);
    undo.push('the copy of the memory', () => {
      closeSync(fd);
    });
    // Without a name from the start: whatever ends us, nothing is left.
    rmSync(name);
    await run('cp', ['--sparse=always', '--', files.memory, '/dev/fd/3'], { timeoutMs: COPY_MS, stdout: 'ignore', extraFds: [fd] });
    return `/proc/${String(process.pid)}/fd/${String(fd)}`;
  }

  /** A whole template under its shared lock. */
  private async locked(signal: AbortSignal): Promise<LockedTemplate> {
    const end = performance.now() + WAIT_MS;
    for (;;) {
      const shared = await this.store.share(this.key, { timeoutMs: Math.max(end - performance.now(), 1), signal });
      if (this.store.check(this.key) !== undefined) {
        return { files: this.store.files(this.key), lock: shared };
      }
      shared.release();
      this.store.checkRetry(this.key);
      const exclusive = FileLock.tryTake(this.store.lockPath(this.key), 'exclusive');
      if (exclusive === undefined) {
        await sleep(RECHECK_MS, signal);
        continue;
      }
      try {
        if (this.store.check(this.key) === undefined) {
          await this.make(signal);
        }
      } finally {
        exclusive.release();
      }
    }
  }

  private async make(signal: AbortSignal): Promise<void> {
    const began = performance.now();
    const logger = this.deps.logger.with({ source: 'virtcontainers', subsystem: 'factory', template: this.key });
    const { hypervisor, vcpus, memoryMiB, kernelParams } = this.config;
    const family = templateFamily(this.config);
    logger.info('making the template');
    await this.store.create(this.key, { memoryMiB }, async (files) =>
      UndoStack.guard(async (undo) => {
        const { id, directory } = this.store.maker(this.key);
        const vm = await bootBase(
          undo,
          {
            id, directory, config: hypervisor, vcpus, memoryMiB, kernelParams,
            share: this.dummyShare(files), devices: [], netns: { kind: 'own' }, debug: hypervisor.enableDebug, logger,
            template: { use: 'become', memoryPath: files.memory, statePath: files.state },
          },
          this.deps,
          signal,
        );
        if (vm.snapshot === undefined) {
          throw new KataError('Unimplemented', `save template ${this.key}: ${hypervisor.type} cannot`);
        }
        await vm.snapshot.save(SAVE_MS);
        await vm.stop();
        const { path, kernel, initrd } = hypervisor;
        return { vcpus, memoryMiB, hypervisor: path, kernel, initrd, family };
      }).catch((reason: unknown) => {
        // What ended the sandbox that makes it says nothing about the template: the next one makes it at once.
        throw signal.aborted ? new KataError('Canceled', `make template ${this.key}: given up`, { cause: reason }) : reason;
      }),
    );
    const superseded = await this.store.removeSuperseded(this.key, family);
    logger.info('made the template', { ms: Math.round(performance.now() - began), superseded: superseded.join(' ') || undefined });
  }

  /**
   * The 9p device is part of the template, and each clone's command line gives it another folder. A device of virtio-fs
   * cannot be saved: clones get theirs when they run.
   */
  private dummyShare(files: TemplateFiles): SharedFolder | undefined {
    return this.config.hypervisor.sharedFs === 'virtio-9p' ? { kind: 'virtio-9p', tag: SHARE_TAG, source: files.folder } : undefined;
  }

  /** A template whose clones do not load is made anew by the next who needs it, unless others are loading it well. */
  private async distrust(spec: VmSpec, reason: unknown): Promise<void> {
    spec.logger.warn('a clone did not start: the template is destroyed', { template: this.key, error: describeError(reason) });
    await this.store.destroy(this.key, { timeoutMs: 1000 }).catch(() => undefined);
  }
}
