/** The `start` verb against a bare `node -e 0`, both in a clean environment. */
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { TaskClient } from '../support/shim-driver';
import { ROOT } from '../../hack/private-containerd';
import { repeat, row, timed, type Row } from './row';

const RUNS = 21;
const SHIM = join(ROOT, 'build/containerd-shim-kata-v2');
const ENV = { PATH: process.env['PATH'] ?? '/usr/bin:/bin' };

function killServer(bundle: string): void {
  const pid = Number(readFileSync(join(bundle, 'shim.pid'), 'utf8'));
  process.kill(pid, 'SIGKILL');
  const address = readFileSync(join(bundle, 'address'), 'utf8').replace('unix://', '');
  rmSync(address, { force: true });
}

async function firstRpc(address: string, id: string): Promise<void> {
  const client = await TaskClient.connect(address);
  await client.call('Connect', { id }, 10_000);
  client.close();
}

export async function startVerbRows(): Promise<Row[]> {
  const folder = mkdtempSync(join(tmpdir(), 'kata-ts-bench-'));
  try {
    const node: number[] = [];
    const toRpc: number[] = [];
    const start = await repeat(RUNS, async (n) => {
      node.push(await timed(() => void execFileSync(process.execPath, ['-e', '0'], { env: ENV })));
      const id = `bench-start-${String(n)}`;
      const bundle = join(folder, id);
      mkdirSync(bundle);
      writeFileSync(join(bundle, 'config.json'), JSON.stringify({ ociVersion: '1.0.2', process: { args: ['true'], cwd: '/' }, root: { path: 'rootfs' } }));
      const began = process.hrtime.bigint();
      const done = spawnSync(SHIM, ['-namespace', 'bench', '-address', '/run/kata-ts/bench.sock', '-publish-binary', 'true', '-id', id, 'start'], { cwd: bundle, env: ENV, encoding: 'utf8' });
      const tookMs = Number(process.hrtime.bigint() - began) / 1e6;
      if (done.status !== 0) {
        throw new Error(`start failed: ${done.stdout}${done.stderr}`);
      }
      await firstRpc(done.stdout.trim(), id);
      toRpc.push(Number(process.hrtime.bigint() - began) / 1e6);
      killServer(bundle);
      return tookMs;
    });
    return [
      row({ id: 'node', what: 'yardstick: node -e 0, clean environment', unit: 'ms', samples: node }),
      row({ id: 'start-verb', what: 'shim start: exec to exit, socket listening', unit: 'ms', samples: start, yardstick: node, budget: 1.5 }),
      row({ id: 'start-first-rpc', what: 'shim start: exec to the first RPC answered', unit: 'ms', samples: toRpc, yardstick: node, budget: 1.5 }),
    ];
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}
