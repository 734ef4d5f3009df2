/** A process that owns a VM and is killed: starts the VM of the spec in its argument, prints its state, waits. */
import { Logger } from '../../../base/log';
import { driverFor } from '../../../virtcontainers/hypervisor/registry';
import type { VmSpec } from '../../../virtcontainers/hypervisor/types';

async function main(): Promise<void> {
  const spec = { ...(JSON.parse(process.argv[2] ?? '') as Omit<VmSpec, 'logger'>), logger: Logger.none(), template: undefined };
  const vm = (await driverFor(spec.config.type)).createVm(spec);
  await vm.start({ timeoutMs: 60_000, signal: new AbortController().signal, onLaunched: () => undefined });
  process.stdout.write(`${JSON.stringify(vm.state())}\n`);
  setInterval(() => undefined, 60_000);
}

main().catch((reason: unknown) => {
  process.stderr.write(`${String(reason)}\n`);
  process.exit(1);
});
