/**
 * `KATA_TEST_FACTORY=template|cache` makes every sandbox of the integration suites on QEMU come from the factory, where
 * a suite does not configure one itself.
 */
import { spawn, type ChildProcess } from 'node:child_process';
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { ROOT } from '../../hack/private-containerd';
import { callCache } from '../../factory/grpc-cache/call';
import { RPC } from '../../factory/grpc-cache/wire';

const STOCK = 2;

export class FactoryMode {
  private server: ChildProcess | undefined;

  private constructor(
    private readonly folder: string,
    private readonly cached: boolean,
  ) {}

  static fromEnv(): FactoryMode | undefined {
    const mode = process.env['KATA_TEST_FACTORY'];
    if (mode !== 'template' && mode !== 'cache') {
      return undefined;
    }
    return new FactoryMode(`/run/kata-ts-mode-${String(process.pid)}-${process.hrtime.bigint().toString(36)}`, mode === 'cache');
  }

  /** Keys of `[factory]`. */
  get keys(): Readonly<Record<string, string>> {
    return {
      enable_template: 'true', template_path: `"${join(this.folder, 'template')}"`,
      vm_cache_number: this.cached ? String(STOCK) : '0', vm_cache_endpoint: `"${join(this.folder, 'cache.sock')}"`,
    };
  }

  /** Returns when there is something to take. */
  async begin(config: string): Promise<void> {
    if (!this.cached) {
      return;
    }
    this.server = this.command(config, 'init');
    for (let tries = 0; tries < 300; tries++) {
      const status = await callCache(join(this.folder, 'cache.sock'), RPC.Status, {}, { timeoutMs: 2000 }).catch(() => undefined);
      if ((status?.vmstatus.length ?? 0) > 0) {
        return;
      }
      await new Promise((resolve) => setTimeout(resolve, 200));
    }
    throw new Error('the cache server has nothing after 60 s');
  }

  async end(config: string): Promise<void> {
    const { server } = this;
    if (server !== undefined && server.exitCode === null) {
      await new Promise((resolve) => {
        server.once('close', resolve);
        server.kill('SIGTERM');
      });
    }
    await new Promise((resolve) => this.command(config, 'destroy').once('close', resolve));
    rmSync(this.folder, { recursive: true, force: true });
  }

  private command(config: string, verb: string): ChildProcess {
    return spawn(process.execPath, [join(ROOT, 'build/kata-runtime.cjs'), '--config', config, 'factory', verb], { stdio: 'ignore' });
  }
}
