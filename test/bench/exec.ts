/** Exec by RPC against the guest runtime's own exec in the same guest, interleaved. */
import { join } from 'node:path';
import type { ShimDriver } from '../support/shim-driver';
import { GuestShell } from './guest-shell';
import { BenchPods } from './pods';
import { row, type Row } from './row';

const ROUNDS = 7;
const PER_ROUND = 3;
/** The guest's clock has steps of 10 ms: many in one measurement. */
const LOOP = 20;
const LOOP_TIMEOUT_MS = 120_000;

/** Exec, Start and Wait of `true`, as containerd orders them, to Wait's answer. */
export async function execOnce(driver: ShimDriver, execId: string): Promise<number> {
  const value = Buffer.from(JSON.stringify({ args: ['true'], cwd: '/', env: ['PATH=/bin:/usr/bin'], user: { uid: 0, gid: 0 } }));
  const spec = { typeUrl: 'types.containerd.io/opencontainers/runtime-spec/1/Process', value };
  const { client, id } = driver;
  const stdout = driver.output(execId);
  try {
    const began = performance.now();
    await client.call('Exec', { id, execId, stdout: stdout.path, spec });
    const ended = client.call('Wait', { id, execId });
    await client.call('Start', { id, execId });
    const { exitStatus } = await ended;
    const tookMs = performance.now() - began;
    if (exitStatus !== 0) {
      throw new Error(`exec ${execId} ended with ${String(exitStatus)}`);
    }
    await client.call('Delete', { id, execId });
    return tookMs;
  } finally {
    stdout.close();
  }
}

/** Milliseconds of one exec by the guest's runtime, by the guest's own clock. */
async function guestExec(shell: GuestShell, id: string): Promise<number> {
  const exec = `crun --root /run/kata-containers/.crun exec ${id} true`;
  const loop = `read a x < /proc/uptime; i=0; while [ $i -lt ${String(LOOP)} ]; do ${exec} || exit 9; i=$((i+1)); done; read b x < /proc/uptime; echo "from=$a to=$b"`;
  const said = await shell.run(loop, LOOP_TIMEOUT_MS);
  const found = /from=([\d.]+) to=([\d.]+)/.exec(said);
  if (found === null) {
    throw new Error(`the loop in the guest said ${JSON.stringify(said)}`);
  }
  return ((Number(found[2]) - Number(found[1])) * 1000) / LOOP;
}

export async function execRows(): Promise<Row[]> {
  const pods = await BenchPods.open({ 'agent.kata': { debug_console_enabled: 'true' } });
  const driver = await pods.pod().catch((reason: unknown) => {
    pods.close();
    throw reason;
  });
  try {
    const shell = await GuestShell.open(join('/run/vc/vm', driver.id, 'debug-console.sock'));
    const own: number[] = [];
    const byRpc: number[] = [];
    await guestExec(shell, driver.id);
    await execOnce(driver, 'warm');
    for (let round = 0; round < ROUNDS; round++) {
      own.push(await guestExec(shell, driver.id));
      for (let n = 0; n < PER_ROUND; n++) {
        byRpc.push(await execOnce(driver, `e${String(round)}-${String(n)}`));
      }
    }
    shell.close();
    return [
      row({ id: 'guest-exec', what: 'yardstick: the guest runtime\'s exec, by the guest\'s clock', unit: 'ms', samples: own }),
      row({ id: 'exec', what: 'Exec and Start to the answer of Wait', unit: 'ms', samples: byRpc, yardstick: own, budget: 1.3 }),
    ];
  } finally {
    await driver.end();
    pods.close();
  }
}
