/** What one scrape costs the shim: processor time of its main thread, which is its event loop, with 10 containers in the pod. */
import { readFileSync } from 'node:fs';
import { request } from 'node:http';
import { Host } from '../support/host';
import { row, type Row } from './row';

const CONTAINERS = 10;
const SCRAPES = 6;
/** A scrape also starts a sample of the pod's overhead, which ends a second later: all of it is counted. */
const SPACING_MS = 2_000;
const BUDGET_MS = 20;
const ID = `scrape${String(process.pid)}`;

/** Milliseconds that the main thread has been on a processor. */
function mainThreadMs(pid: number): number {
  return Number(readFileSync(`/proc/${String(pid)}/task/${String(pid)}/schedstat`, 'latin1').split(' ')[0]) / 1e6;
}

/** Length of /metrics in bytes. */
async function scrape(id: string): Promise<number> {
  return new Promise((resolve, reject) => {
    const asked = request({ socketPath: `/run/vc/sbs/${id}/shim-monitor.sock`, path: '/metrics', agent: false }, (response) => {
      let length = 0;
      response.on('data', (part: Buffer) => {
        length += part.length;
      });
      response.on('end', () => (response.statusCode === 200 ? resolve(length) : reject(new Error(`/metrics answered ${String(response.statusCode)}`))));
    });
    asked.on('error', reject);
    asked.end();
  });
}

const rest = async (): Promise<void> => new Promise((resolve) => setTimeout(resolve, SPACING_MS));

export async function scrapeRows(): Promise<Row[]> {
  const host = await Host.start('qemu');
  const annotate = (type: string): string[] => ['--annotation', `io.kubernetes.cri.container-type=${type}`, '--annotation', `io.kubernetes.cri.sandbox-id=${ID}`];
  try {
    await host.runDetached(ID, ['sleep', '100000'], { args: annotate('sandbox') });
    for (let n = 1; n < CONTAINERS; n++) {
      await host.runDetached(`${ID}-${String(n)}`, ['sleep', '100000'], { args: annotate('container') });
    }
    const pid = host.shimPid(ID);
    const cost = async (work: () => Promise<unknown>): Promise<number> => {
      const before = mainThreadMs(pid);
      await work();
      await rest();
      return mainThreadMs(pid) - before;
    };
    await rest();
    const first = await cost(() => scrape(ID));
    const samples: number[] = [];
    const idle: number[] = [];
    for (let n = 0; n < SCRAPES; n++) {
      idle.push(await cost(() => Promise.resolve()));
      samples.push(await cost(() => scrape(ID)));
    }
    return [
      row({ id: 'scrape', what: `event loop of the shim for one /metrics (${String(await scrape(ID))} bytes), ${String(CONTAINERS)} containers`, unit: 'ms', samples, budget: BUDGET_MS }),
      row({ id: 'scrape-first', what: 'the first one, which loads and compiles', unit: 'ms', samples: [first] }),
      row({ id: 'scrape-idle', what: 'the same time without a scrape', unit: 'ms', samples: idle }),
    ];
  } finally {
    for (let n = CONTAINERS - 1; n >= 0; n--) {
      await host.remove(n === 0 ? ID : `${ID}-${String(n)}`);
    }
    await host.stop();
  }
}
