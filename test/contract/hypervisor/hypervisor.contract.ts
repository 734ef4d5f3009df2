/** What every VMM driver must do, told as one suite; the test files beside run it on each. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { isProcessAlive } from '../../../base/child';
import { sleep } from '../../../base/deadline';
import { Logger } from '../../../base/log';
import type { HypervisorConfig } from '../../../virtcontainers/config/types';
import { driverFor } from '../../../virtcontainers/hypervisor/registry';
import type { HypervisorDriver, Vm, VmSpec, VmState } from '../../../virtcontainers/hypervisor/types';
import { completeConfig } from '../../../virtcontainers/config/complete';
import { hostFacts } from '../../../virtcontainers/config/host-facts';

/** A complete configuration with every key at its default, and `changes` over it. */
export function hypervisorConfig(type: 'qemu' | 'mock', changes: Partial<HypervisorConfig>): HypervisorConfig {
  const layers = { type, hypervisor: new Map(), agent: new Map(), factory: new Map(), runtime: new Map(), sources: new Map(), warnings: [] };
  const { hypervisor } = completeConfig(layers as never, '', [], { ...hostFacts(), cpus: 2, memoryMiB: 4096 });
  return { ...hypervisor, ...changes };
}

export interface Subject {
  readonly type: 'qemu' | 'mock';
  readonly config: Partial<HypervisorConfig>;
  /** Text why it cannot run here. */
  readonly skip: string | undefined;
  readonly timeoutMs: number;
}

export class Bench {
  readonly folder = mkdtempSync(join(tmpdir(), 'hv-'));
  private count = 0;

  constructor(private readonly subject: Subject, readonly driver: HypervisorDriver) {
    mkdirSync(join(this.folder, 'share'));
  }

  spec(changes: Partial<VmSpec> = {}, config: Partial<HypervisorConfig> = {}): VmSpec {
    const id = `vm${String(this.count++)}`;
    return {
      id, directory: join(this.folder, 'vm', id), config: hypervisorConfig(this.subject.type, { ...this.subject.config, ...config }), vcpus: 1, memoryMiB: 512,
      kernelParams: [], share: undefined, devices: [], netns: { kind: 'own' }, template: undefined, debug: false, logger: Logger.none(), ...changes,
    };
  }

  async start(vm: Vm, timeoutMs = this.subject.timeoutMs): Promise<VmState> {
    let launched: VmState | undefined;
    await vm.start({ timeoutMs, signal: new AbortController().signal, onLaunched: (state) => { launched = state; } });
    assert.ok(launched !== undefined);
    return launched;
  }

  /** Every process of the state is gone, and so is its folder. */
  assertGone(state: VmState): void {
    for (const { name, pid, startTime } of state.processes) {
      assert.equal(isProcessAlive(pid, startTime), false, `${name} still runs`);
    }
    assert.equal(existsSync(state.directory), false, `${state.directory} is left: ${existsSync(state.directory) ? readdirSync(state.directory).join(' ') : ''}`);
  }

  /** virtio-fs where there is a daemon of it: one process more that must not stay. */
  ownerShare(type: Subject['type']): Partial<VmSpec> {
    return type === 'qemu' ? { share: { kind: 'virtio-fs', tag: 'kataShared', source: join(this.folder, 'share') } } : {};
  }

  close(): void {
    rmSync(this.folder, { recursive: true, force: true });
  }
}

function childrenOf(pid: number): number[] {
  const own = readFileSync(`/proc/${String(pid)}/task/${String(pid)}/children`, 'latin1').split(' ').filter((word) => word.trim() !== '').map(Number);
  return [...own, ...own.flatMap(childrenOf)];
}

function isZombie(pid: number): boolean {
  try {
    return /\) [ZX] /.test(readFileSync(`/proc/${String(pid)}/stat`, 'latin1'));
  } catch {
    return true;
  }
}

/** Connects to the socket of a `unix` or `serial` agent URL. */
export async function dial(url: string): Promise<void> {
  const socket = connect(url.replace(/^[a-z]+:\/\//, ''));
  await new Promise<void>((resolve, reject) => { socket.on('connect', resolve).on('error', reject); });
  socket.destroy();
}

export function contract(subject: Subject): void {
  describe(`hypervisor contract: ${subject.type}`, { skip: subject.skip }, () => {
    let bench: Bench;
    before(async () => {
      bench = new Bench(subject, await driverFor(subject.type));
    });
    after(() => { bench.close(); });

    it('starts, can be dialled, stops twice and leaves nothing', async () => {
      const vm = bench.driver.createVm(bench.spec());
      assert.throws(() => vm.pid);
      const state = await bench.start(vm);
      assert.equal(vm.pid, state.processes[0]?.pid);
      assert.equal(vm.facts().alive, true);
      await vm.check();
      await dial(vm.agentUrl);
      const { processes } = await vm.threads();
      assert.deepEqual(processes, state.processes.map(({ pid }) => pid));
      await Promise.all([vm.stop(), vm.stop()]);
      await vm.stop();
      bench.assertGone(state);
      assert.equal(vm.facts().alive, false);
      await vm.exited;
    });

    it('tells that the VMM was killed', async () => {
      const vm = bench.driver.createVm(bench.spec());
      const state = await bench.start(vm);
      process.kill(vm.pid, 'SIGKILL');
      assert.deepEqual(await vm.exited, { code: null, signal: 'SIGKILL' });
      await assert.rejects(vm.check());
      await vm.stop();
      bench.assertGone(state);
    });

    it('is cleaned up from its state alone, twice', async () => {
      const vm = bench.driver.createVm(bench.spec());
      const state = JSON.parse(JSON.stringify(await bench.start(vm))) as VmState;
      await bench.driver.cleanup(state);
      bench.assertGone(state);
      await bench.driver.cleanup(state);
      await vm.stop();
    });

    it('stops while it starts', async () => {
      const vm = bench.driver.createVm(bench.spec());
      let state: VmState | undefined;
      const started = vm.start({ timeoutMs: subject.timeoutMs, signal: new AbortController().signal, onLaunched: (s) => { state = s; void vm.stop(); } });
      await assert.rejects(started, { name: 'KataError', code: 'Canceled' });
      await vm.stop();
      assert.ok(state !== undefined);
      bench.assertGone(state);
    });

    it('dies with its owner, however that dies', async () => {
      const spec = bench.spec(bench.ownerShare(subject.type));
      const owner = spawn(process.execPath, ['--import', 'tsx', join(__dirname, 'owner.ts'), JSON.stringify({ ...spec, logger: undefined })], { stdio: ['ignore', 'pipe', 'inherit'] });
      const text = await new Promise<string>((resolve, reject) => {
        let all = '';
        owner.stdout.on('data', (chunk: Buffer) => {
          all += chunk.toString();
          if (all.includes('\n')) {
            resolve(all);
          }
        });
        owner.on('exit', () => { reject(new Error('the owner ended')); });
      });
      const state = JSON.parse(text) as VmState;
      const inside = state.processes.flatMap(({ pid }) => childrenOf(pid));
      owner.kill('SIGKILL');
      const all = [...state.processes.map(({ pid }) => pid), ...inside];
      const left = (): number[] => all.filter((pid) => existsSync(`/proc/${String(pid)}`) && !isZombie(pid));
      for (const until = performance.now() + 2000; left().length > 0 && performance.now() < until; ) {
        await sleep(5);
      }
      assert.deepEqual(left(), []);
      await bench.driver.cleanup(state);
      bench.assertGone(state);
    });

    it('stops before it was started', async () => {
      const vm = bench.driver.createVm(bench.spec());
      await vm.stop();
      bench.assertGone(vm.state());
    });

    it('names the program that is not there', async () => {
      const spec = bench.spec({}, { path: '/nonexistent/vmm' });
      const vm = bench.driver.createVm(spec);
      await assert.rejects(bench.start(vm), /path \/nonexistent\/vmm: no such file/);
      await vm.stop();
      assert.equal(existsSync(spec.directory), false);
    });
  });
}
