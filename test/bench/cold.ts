/** A cold start against the floor: the same QEMU with the same guest and nothing of ours around. Interleaved. */
import { FloorVm, programsOf, type VmPrograms } from './floor-vm';
import { BenchPods, phasesOf } from './pods';
import { median, row, type Row } from './row';

const SAMPLES = 5;

interface Cold {
  readonly firstOutputMs: number;
  readonly createMs: number;
  readonly phases: ReadonlyMap<string, number>;
  readonly programs: VmPrograms;
}

/** One pod from `Create` to the first byte in its stdout FIFO; its shim listens before the clock starts. */
async function coldStart(pods: BenchPods): Promise<Cold> {
  const driver = await pods.shim(['sh', '-c', 'echo up; exec sleep 1000']);
  const stdout = driver.output('init');
  try {
    // Who called `start` needs a moment to dial and to make ready what it asks for.
    await driver.client.call('Connect', { id: driver.id });
    await new Promise((resolve) => setTimeout(resolve, 50));
    const began = performance.now();
    await driver.client.call('Create', { id: driver.id, bundle: driver.bundle, stdout: stdout.path });
    const createMs = performance.now() - began;
    await driver.client.call('Start', { id: driver.id });
    const firstOutputMs = (await stdout.firstByte) - began;
    return { firstOutputMs, createMs, phases: phasesOf(driver), programs: programsOf(driver.pid) };
  } finally {
    stdout.close();
    await driver.end();
  }
}

export async function coldRows(): Promise<Row[]> {
  const pods = await BenchPods.open();
  try {
    const { programs } = await coldStart(pods);
    const floor: number[] = [];
    const cold: Cold[] = [];
    for (let n = 0; n < SAMPLES; n++) {
      const vm = await FloorVm.start(programs);
      floor.push(vm.firstAnswerMs);
      await vm.end();
      cold.push(await coldStart(pods));
    }
    const names = new Set(cold.flatMap(({ phases }) => [...phases.keys()]));
    const phaseRows = [...names]
      .map((name) => row({ id: `cold-${name}`, what: `phase ${name} of a cold start`, unit: 'ms', samples: cold.flatMap(({ phases }) => phases.get(name) ?? []) }))
      .filter(({ samples }) => median(samples) > 0);
    return [
      row({ id: 'floor', what: 'yardstick: bare QEMU, exec to the agent\'s first answer', unit: 'ms', samples: floor }),
      row({ id: 'cold', what: 'Create called to first output', unit: 'ms', samples: cold.map((one) => one.firstOutputMs), yardstick: floor, budget: 1.25 }),
      row({ id: 'cold-create', what: 'Create called to answered', unit: 'ms', samples: cold.map((one) => one.createMs) }),
      ...phaseRows,
    ];
  } finally {
    pods.close();
  }
}
