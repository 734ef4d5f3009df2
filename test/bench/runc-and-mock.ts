/** `ctr run` over the mock hypervisor (the shim alone) against the same container under runc, interleaved. */
import { Host, IMAGE, RUNTIME } from '../support/host';
import { repeat, row, timed, type Row } from './row';

const RUNS = 11;

export async function runcAndMockRows(): Promise<Row[]> {
  const host = await Host.start('mock');
  try {
    const run = async (runtime: string, id: string): Promise<number> =>
      timed(async () => {
        const done = await host.ctr(['run', '--rm', '--runtime', runtime, IMAGE, id, 'true']);
        if (done.code !== 0) {
          throw new Error(`${runtime}: ${done.stderr}\n${host.containerd.log.slice(-2000)}`);
        }
      });
    await run('io.containerd.runc.v2', 'warm-runc');
    await run(RUNTIME, 'warm-mock');
    const runc: number[] = [];
    const mock = await repeat(RUNS, async (n) => {
      runc.push(await run('io.containerd.runc.v2', `runc${String(n)}`));
      return run(RUNTIME, `mock${String(n)}`);
    });
    return [
      row({ id: 'runc-run', what: 'yardstick: ctr run of `true` under runc', unit: 'ms', samples: runc }),
      row({ id: 'mock-run', what: 'the shim alone: the same over the mock hypervisor', unit: 'ms', samples: mock, yardstick: runc, budget: 2.0 }),
    ];
  } finally {
    await host.stop();
  }
}
