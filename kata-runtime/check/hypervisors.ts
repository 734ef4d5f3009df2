/** What each hypervisor can do with this runtime: the table of their drivers. */
import { describeError } from '../../base/errors';
import { parseConfig } from '../../virtcontainers/config/load';
import type { HypervisorConfig, HypervisorType, RuntimeConfig } from '../../virtcontainers/config/types';
import { driverFor } from '../../virtcontainers/hypervisor/registry';
import type { DriverCapabilities } from '../../virtcontainers/hypervisor/types';

/** Each with the machine types that differ in what they can do. */
const KINDS: readonly { readonly type: HypervisorType; readonly machine?: string }[] = [
  { type: 'qemu', machine: 'q35' },
  { type: 'qemu', machine: 'microvm' },
  { type: 'clh' },
  { type: 'firecracker' },
  { type: 'dragonball' },
  { type: 'stratovirt' },
  { type: 'acrn' },
  { type: 'remote' },
  { type: 'mock' },
];

export interface HypervisorRow {
  readonly name: string;
  /** The one that the configuration names, with the configuration's own settings. */
  readonly configured: boolean;
  /** Undefined: this version cannot drive it. */
  readonly can: DriverCapabilities | undefined;
  /** Why it cannot be driven; '' otherwise. */
  readonly lacks: string;
}

function defaultsOf(type: HypervisorType, machine: string | undefined): HypervisorConfig {
  const text = `[hypervisor.${type}]\npath = "/${type}"\nkernel = "/kernel"\ninitrd = "/initrd"\n${machine === undefined ? '' : `machine_type = "${machine}"\n`}`;
  return parseConfig(text, `defaults of ${type}`).hypervisor;
}

/** One row for each hypervisor of the configuration format. Never throws for one that cannot be driven. */
export async function hypervisorTable(config: RuntimeConfig | undefined): Promise<HypervisorRow[]> {
  const rows: HypervisorRow[] = [];
  for (const { type, machine } of KINDS) {
    const own = config?.hypervisor;
    const configured = own?.type === type && (machine === undefined || (own.machineType === 'microvm') === (machine === 'microvm'));
    const name = machine === undefined ? type : `${type} (${configured && own.machineType !== '' ? own.machineType : machine})`;
    try {
      const driver = await driverFor(type);
      const can = driver.capabilities(configured ? own : defaultsOf(type, machine));
      rows.push({ name, configured, can, lacks: '' });
    } catch (reason) {
      rows.push({ name, configured, can: undefined, lacks: describeError(reason) });
    }
  }
  return rows;
}

const COLUMNS: readonly { readonly title: string; readonly key: keyof DriverCapabilities }[] = [
  { title: 'disks', key: 'blockHotplug' },
  { title: 'NICs', key: 'netHotplug' },
  { title: 'shared folder', key: 'fsShare' },
  { title: 'template', key: 'template' },
  { title: 'resize', key: 'resize' },
];

/** The table as text: what can be driven first, the others in one line. */
export function hypervisorLines(rows: readonly HypervisorRow[]): string[] {
  const width = Math.max(...rows.map(({ name }) => name.length)) + 2;
  const driven = rows.flatMap(({ name, configured, can }) =>
    can === undefined ? [] : [`${configured ? '*' : ' '} ${name.padEnd(width)}${COLUMNS.map(({ title, key }) => (can[key] ? 'yes' : '-').padEnd(title.length + 2)).join('').trimEnd()}`],
  );
  const others = rows.filter(({ can }) => can === undefined).map(({ name, configured }) => `${configured ? '*' : ''}${name}`);
  return [
    `  ${''.padEnd(width)}${COLUMNS.map(({ title }) => title.padEnd(title.length + 2)).join('').trimEnd()}`,
    ...driven,
    ...(others.length === 0 ? [] : [`  not driven by this version (no driver): ${others.join(', ')}`]),
  ];
}
