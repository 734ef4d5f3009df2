/** Everything that a sandbox needs, in a temporary folder and without root. */
import { mkdirSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { KataError } from '../../../base/errors';
import { Logger } from '../../../base/log';
import type { OciSpec } from '../../../base/oci-spec';
import type { RuntimeConfig } from '../../config/types';
import type { ContainerRequest } from '../../container/types';
import type { Mounts } from '../../fs-share/mounts';
import type { GuestStreams, ProcessIo } from '../../process/types';
import type { SandboxDeps } from '../deps';
import type { SandboxRequest } from '../types';
import { FakeAgent } from './fake-agent';
import { FakeDriver, type FakeVm } from './fake-vm';

export class FakeIo implements ProcessIo {
  opened = false;
  closed = false;
  openFault: KataError | undefined;

  open(): Promise<void> {
    this.opened = this.openFault === undefined;
    return this.openFault === undefined ? Promise.resolve() : Promise.reject(this.openFault);
  }

  async copy(streams: GuestStreams): Promise<void> {
    await streams.readStdout(4096).catch(() => undefined);
  }

  closeStdin(): void {
    // Nothing is written in these tests.
  }

  close(): void {
    this.closed = true;
  }
}

/** Mounts in memory: `points` is what is mounted now. */
export class FakeMounts implements Mounts {
  readonly points: string[] = [];
  readonly history: string[] = [];
  fault: KataError | undefined;

  mount(type: string, source: string, target: string): void {
    if (this.fault !== undefined) {
      throw this.fault;
    }
    this.history.push(`mount ${type} ${source}`);
    this.points.push(target);
  }

  bind(source: string, target: string, how: { readonly readOnly: boolean }): void {
    mkdirSync(target, { recursive: true });
    this.history.push(`bind ${how.readOnly ? 'ro' : 'rw'} ${source}`);
    this.points.push(target);
  }

  joinMount(pid: number, path: string, target: string): void {
    this.history.push(`join ${String(pid)} ${path}`);
    this.points.push(target);
  }

  propagate(): void {
    // Nothing to see in memory.
  }

  remountReadOnly(): void {
    // Nothing to see in memory.
  }

  unmountAll(target: string): void {
    for (let at = this.points.lastIndexOf(target); at >= 0; at = this.points.lastIndexOf(target)) {
      this.points.splice(at, 1);
    }
  }
}

const HYPERVISOR = {
  type: 'mock', path: '', defaultVcpus: 1, defaultMaxvcpus: 1, defaultMemory: 256, defaultMaxmemory: 256, sharedFs: 'virtio-fs', bootTimeout: 1,
  virtioFsCache: 'auto', virtioFsCacheSize: 0, guestHookPath: '', enableDebug: false, disableBlockDeviceUse: false, msize9p: 8192,
};
const RUNTIME = {
  disableNewNetns: false, sandboxBindMounts: [], disableGuestEmptyDir: false, sandboxCgroupOnly: false, disableGuestSeccomp: true,
  staticSandboxResourceMgmt: false, vfioMode: 'guest-kernel', createContainerTimeout: 60, danConf: '',
};

export class World {
  readonly root = mkdtempSync(join(tmpdir(), 'kata-sandbox-'));
  /** The agent of the last sandbox. */
  agent = new FakeAgent();
  private connected = false;
  readonly mounts = new FakeMounts();
  readonly driver: FakeDriver;
  readonly log: string[] = [];
  readonly logger = Logger.to((line) => this.log.push(line), 'debug');

  constructor(onStart?: (vm: FakeVm) => void) {
    this.driver = new FakeDriver(onStart);
    mkdirSync(join(this.root, 'cgroup'), { recursive: true });
    this.bundle('one');
  }

  get vm(): FakeVm {
    const [vm] = this.driver.vms;
    if (vm === undefined) {
      throw new KataError('Internal', 'no VM yet');
    }
    return vm;
  }

  get deps(): SandboxDeps {
    return {
      driverFor: () => Promise.resolve(this.driver),
      connectAgent: () => {
        this.agent = this.connected ? new FakeAgent() : this.agent;
        this.connected = true;
        return Promise.resolve(this.agent);
      },
      mounts: this.mounts,
      roots: { state: join(this.root, 'sbs'), vm: join(this.root, 'vm'), share: join(this.root, 'share'), starts: join(this.root, 'starts'), cgroup: join(this.root, 'cgroup') },
    };
  }

  bundle(id: string): string {
    const path = join(this.root, 'bundles', id);
    mkdirSync(join(path, 'rootfs'), { recursive: true });
    return path;
  }

  container(id: string, io: ProcessIo = new FakeIo(), spec: Partial<OciSpec> = {}): ContainerRequest {
    return {
      id,
      bundle: this.bundle(id),
      spec: {
        process: { args: ['sh'], cwd: '/' },
        root: { path: 'rootfs' },
        mounts: [],
        linux: { namespaces: [{ type: 'network' }, { type: 'mount' }], cgroupsPath: `/default/${id}` },
        ...spec,
      },
      rootfs: [{ type: 'overlay', source: 'overlay', target: '', options: ['lowerdir=/a:/b'] }],
      terminal: false,
      io,
    };
  }

  request(over: Partial<SandboxRequest> = {}): SandboxRequest {
    return {
      id: 'one',
      namespace: 'default',
      container: this.container('one'),
      config: {
        path: '', dropIns: [], sources: new Map(), warnings: [],
        hypervisor: HYPERVISOR,
        runtime: RUNTIME,
        agent: { enableDebug: false, enableTracing: false, debugConsoleEnabled: false, dialTimeout: 1, kernelModules: [], containerPipeSize: 0 },
        factory: {},
      } as unknown as RuntimeConfig,
      factory: undefined,
      logger: this.logger,
      observer: {},
      signal: new AbortController().signal,
      ...over,
    };
  }

  /** What is left of sandboxes: mounts, and files outside of the bundles. */
  leftovers(): string[] {
    const files = ['sbs', 'vm', 'share', 'cgroup'].flatMap((folder) => {
      try {
        return readdirSync(join(this.root, folder), { recursive: true }).map((name) => `${folder}/${String(name)}`);
      } catch {
        return [];
      }
    });
    return [...this.mounts.points.map((point) => `mount ${point}`), ...files];
  }

  dispose(): void {
    rmSync(this.root, { recursive: true, force: true });
  }
}
