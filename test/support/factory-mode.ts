/**
 * `KATA_TEST_FACTORY=template|cache` makes every sandbox of the integration suites on QEMU come from the factory, where
 * a suite does not configure one itself. A suite fails if a sandbox booted all the same.
 */
import assert from 'node:assert/strict';
import { spawn, spawnSync, type ChildProcess } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ROOT } from '../../hack/private-containerd';
import { callCache } from '../../factory/grpc-cache/call';
import { RPC } from '../../factory/grpc-cache/wire';
import type { Counts, FallbackReason } from '../../factory/counters';
import type { FactoryReport } from '../../factory/report';
import { leakedSince, stockInventory, type Inventory } from './leaks';

const STOCK = 2;
const STOCK_TIMEOUT_MS = 90_000;
const COMMAND = join(ROOT, 'build/kata-runtime.cjs');

type Keys = Readonly<Record<string, string>>;

function kataRuntime(config: string, ...args: string[]): string {
  const done = spawnSync(process.execPath, [COMMAND, '--config', config, 'factory', ...args], { encoding: 'utf8', timeout: 60_000 });
  assert.equal(done.status, 0, `kata-runtime factory ${args.join(' ')}: ${done.stdout}${done.stderr}`);
  return done.stdout;
}

export class FactoryMode {
  private server: ChildProcess | undefined;
  private countsBefore: Counts | undefined;
  private stockBefore: Inventory = new Set();
  private readonly wanted = new Set<string>();

  private constructor(
    /** Of this host alone. */
    private readonly folder: string,
    private readonly templatePath: string,
    private readonly cached: boolean,
  ) {}

  get source(): 'template' | 'cache' {
    return this.cached ? 'cache' : 'template';
  }

  /** KATA_TEST_TEMPLATES is where templates are that several suites use; who sets it destroys them. */
  static fromEnv(): FactoryMode | undefined {
    const mode = process.env['KATA_TEST_FACTORY'];
    if (mode !== 'template' && mode !== 'cache') {
      return undefined;
    }
    const folder = `/run/kata-ts-mode-${String(process.pid)}-${process.hrtime.bigint().toString(36)}`;
    return new FactoryMode(folder, process.env['KATA_TEST_TEMPLATES'] ?? join(folder, 'template'), mode === 'cache');
  }

  /** Keys of `[factory]`. */
  get keys(): Keys {
    return this.keysFor(this.templatePath);
  }

  /** The same for a configuration that differs from the host's, and may be one that no VM comes of: counted apart. */
  get keysApart(): Keys {
    return this.keysFor(join(this.folder, 'apart'));
  }

  private keysFor(templatePath: string): Keys {
    return {
      enable_template: 'true', template_path: `"${templatePath}"`,
      vm_cache_number: this.cached ? String(STOCK) : '0', vm_cache_endpoint: `"${this.endpoint}"`,
    };
  }

  private get endpoint(): string {
    return join(this.folder, 'cache.sock');
  }

  /** @param config the file, with `keys` in it */
  async begin(config: string): Promise<void> {
    mkdirSync(this.folder, { recursive: true });
    this.countsBefore = this.counts(config);
    this.stockBefore = stockInventory();
    if (this.cached) {
      this.server = spawn(process.execPath, [COMMAND, '--config', config, '--log', join(this.folder, 'cache.log'), 'factory', 'init'], { stdio: 'ignore' });
    }
    await this.ready();
  }

  /** Fallbacks for this reason are what a test makes happen; its sandbox must not come up all the same. */
  expectFallback(reason: FallbackReason): void {
    this.wanted.add(reason);
  }

  /** Returns when there is something to take: what a test gets does not depend on how fast it is. */
  async ready(): Promise<void> {
    const end = Date.now() + STOCK_TIMEOUT_MS;
    while (this.cached) {
      const status = await callCache(this.endpoint, RPC.Status, {}, { timeoutMs: 5000 }).catch(() => undefined);
      if ((status?.vmstatus.length ?? 0) > 0) {
        return;
      }
      if (Date.now() > end || (this.server?.exitCode ?? null) !== null) {
        throw new Error(`the cache server has nothing after ${String(STOCK_TIMEOUT_MS)} ms, or it ended:\n${this.serverLog()}`);
      }
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }

  /**
   * Ends the server and removes what is of this host. Fails if a sandbox of the configuration booted, or none came from
   * where it should.
   * @param log of the shims; empty where there is but one sandbox, which the counts tell about
   */
  async end(config: string, log: string): Promise<void> {
    const { server, countsBefore } = this;
    try {
      const now = this.counts(config);
      const of = (counts: Counts | undefined, source: string): number => counts?.hits[source] ?? 0;
      assert.ok(of(now, this.source) > of(countsBefore, this.source), `no sandbox came from the ${this.source}: ${JSON.stringify(now)}`);
      const fallbacks = Object.entries(now.fallbacks).filter(([reason, count]) => !this.wanted.has(reason) && count > (countsBefore?.fallbacks[reason] ?? 0));
      const why = log.split('\n').filter((line) => /subsystem=factory/.test(line) && /level=warn|next base/.test(line));
      assert.deepEqual(fallbacks, [], `a sandbox fell back to a boot:\n${why.join('\n')}`);
      assert.deepEqual(log.split('\n').filter((line) => / vm=direct\b/.test(line)), []);
    } finally {
      if (server !== undefined && server.exitCode === null && server.signalCode === null) {
        const closed = new Promise((resolve) => server.once('close', resolve));
        server.kill('SIGTERM');
        await closed;
      }
      this.remove(config);
    }
    assert.deepEqual(await leakedSince(this.stockBefore, 5000, stockInventory), []);
  }

  private remove(config: string): void {
    const apart = join(this.folder, 'apart');
    if (existsSync(apart)) {
      const file = join(this.folder, 'apart.toml');
      writeFileSync(file, readFileSync(config, 'utf8').replaceAll(`"${this.templatePath}"`, `"${apart}"`));
      kataRuntime(file, 'destroy');
    }
    if (this.templatePath.startsWith(this.folder)) {
      kataRuntime(config, 'destroy');
    }
    rmSync(this.folder, { recursive: true, force: true });
  }

  private counts(config: string): Counts {
    return (JSON.parse(kataRuntime(config, 'status', '--json')) as FactoryReport).counts;
  }

  private serverLog(): string {
    try {
      return readFileSync(join(this.folder, 'cache.log'), 'utf8').slice(-3000);
    } catch {
      return '';
    }
  }
}

/** Destroys what suites left in KATA_TEST_TEMPLATES; what went wrong, if something did. */
export function destroyTemplates(path: string): string | undefined {
  const folder = mkdtempSync(join(tmpdir(), 'kata-ts-templates-'));
  const config = join(folder, 'configuration.toml');
  const guest = join(ROOT, 'build/guest');
  writeFileSync(config, `[hypervisor.qemu]\nkernel = "${guest}/vmlinux"\ninitrd = "${guest}/initrd.img"\n[factory]\nenable_template = true\ntemplate_path = "${path}"\n`);
  try {
    kataRuntime(config, 'destroy');
    return existsSync(path) ? `${path} is still there: ${readdirSync(path).join(' ')}` : undefined;
  } catch (reason) {
    return String(reason);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}
