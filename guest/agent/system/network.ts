import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { IPFamily, type ARPNeighbor, type Interface, type Route } from '../../../gen/agent/types';
import { isCode, KataError } from '../../../base/errors';
import { sleep } from '../../../base/deadline';
import { mustRun } from '../process/tool';
import { pciFolder } from '../storage/block-device';
import { checkAddress, checkDevice, checkMac } from './ip-checks';

const TIMEOUT_MS = 30_000;
const MAX_MTU = 65_536n;
const NUD_PERMANENT = 0x80;
const LINK_POLL_MS = 30;

interface Link {
  readonly ifname: string;
  readonly address?: string;
  readonly mtu?: number;
  readonly flags?: readonly string[];
  readonly addr_info?: readonly { readonly family: string; readonly local: string; readonly prefixlen: number }[];
}

interface RouteLine {
  readonly dst?: string;
  readonly gateway?: string;
  readonly dev?: string;
  readonly prefsrc?: string;
  readonly scope?: string;
  readonly protocol?: string;
  readonly flags?: readonly string[];
  readonly metrics?: readonly { readonly mtu?: number }[];
}

const SCOPES: Readonly<Record<string, number>> = { global: 0, site: 200, link: 253, host: 254, nowhere: 255 };

async function ipJson<T>(args: readonly string[]): Promise<T[]> {
  const text = (await mustRun('ip', ['-j', ...args], { timeoutMs: TIMEOUT_MS })).trim();
  const value: unknown = text === '' ? [] : JSON.parse(text);
  return Array.isArray(value) ? (value as T[]).filter((item) => Object.keys(item as object).length > 0) : [];
}

/** Runs commands of `ip` in one process, in order; stops at the first that fails. */
async function ipBatch(commands: readonly string[], family: readonly string[] = []): Promise<void> {
  if (commands.length > 0) {
    await mustRun('ip', [...family, '-batch', '-'], { timeoutMs: TIMEOUT_MS, input: `${commands.join('\n')}\n` });
  }
}

function nameAtPciPath(path: string): string | undefined {
  if (!/^[0-9a-f.]+(\/[0-9a-f.]+)*$/i.test(path)) {
    return undefined;
  }
  const folder = pciFolder(path);
  if (folder === undefined) {
    return undefined;
  }
  for (const child of readdirSync(folder).filter((name) => name === 'net' || /^virtio\d+$/.test(name))) {
    try {
      const name = readdirSync(child === 'net' ? join(folder, child) : join(folder, child, 'net'))[0];
      if (name !== undefined) {
        return name;
      }
    } catch {
      // A device of another kind.
    }
  }
  return undefined;
}

function findLink(links: readonly Link[], wanted: Interface): Link {
  const byPath = wanted.devicePath === '' ? undefined : nameAtPciPath(wanted.devicePath);
  const mac = wanted.hwAddr === '' ? undefined : checkMac(wanted.hwAddr);
  const link =
    links.find(({ ifname }) => ifname === byPath) ??
    links.find(({ address }) => mac !== undefined && address === mac) ??
    (mac === undefined ? links.find(({ ifname }) => ifname === wanted.name) : undefined);
  if (link === undefined) {
    throw new KataError('NotFound', `Link not found (${wanted.hwAddr} ${wanted.devicePath} ${wanted.name})`.trim());
  }
  return link;
}

/** The links, once the wanted one is among them: a device that is being plugged in may not have got there. */
async function waitForLink(wanted: Interface, timeoutMs: number): Promise<{ readonly links: readonly Link[]; readonly link: Link }> {
  const endsMs = performance.now() + timeoutMs;
  for (;;) {
    const links = await ipJson<Link>(['addr', 'show']);
    try {
      return { links, link: findLink(links, wanted) };
    } catch (reason) {
      if (!isCode(reason, 'NotFound') || performance.now() >= endsMs) {
        throw reason;
      }
    }
    await sleep(LINK_POLL_MS);
  }
}

/**
 * Gives an interface its name, hardware address, MTU and addresses, and sets it up. Found by PCI path or hardware
 * address; waits up to `timeoutMs` for it to show up.
 */
export async function updateInterface(wanted: Interface, timeoutMs: number): Promise<Interface> {
  const { links, link } = await waitForLink(wanted, timeoutMs);
  const name = wanted.name === '' ? link.ifname : checkDevice(wanted.name);
  const commands: string[] = [];
  const hasOtherMac = wanted.hwAddr !== '' && link.address !== checkMac(wanted.hwAddr);
  if (name !== link.ifname || hasOtherMac) {
    commands.push(`link set dev ${checkDevice(link.ifname)} down`);
  }
  if (name !== link.ifname) {
    const occupant = links.find(({ ifname }) => ifname === name);
    if (occupant !== undefined) {
      commands.push(`link set dev ${name} down`, `link set dev ${name} name ${name.slice(0, 11)}_old`);
    }
    commands.push(`link set dev ${link.ifname} name ${name}`);
  }
  if (hasOtherMac) {
    commands.push(`link set dev ${name} address ${checkMac(wanted.hwAddr)}`);
  }
  if (wanted.mtu > 0n && wanted.mtu <= MAX_MTU && BigInt(link.mtu ?? 0) !== wanted.mtu) {
    commands.push(`link set dev ${name} mtu ${String(wanted.mtu)}`);
  }
  const addresses = wanted.ipAddresses.map(({ address, mask }) => checkAddress(`${address}/${mask}`));
  const old = (link.addr_info ?? []).map(({ local, prefixlen }) => `${local}/${String(prefixlen)}`);
  for (const address of old.filter((text) => !addresses.includes(text) && !text.toLowerCase().startsWith('fe80:'))) {
    commands.push(`addr del ${address} dev ${name}`);
  }
  for (const address of addresses.filter((text) => !old.includes(text))) {
    commands.push(`addr add ${address} dev ${name}${address.includes(':') ? ' nodad' : ''}`);
  }
  commands.push(`link set dev ${name} ${(wanted.rawFlags & 0x80) === 0 ? '' : 'arp off '}up`);
  await ipBatch(commands);
  return { ...wanted, device: wanted.device === '' ? name : wanted.device, name };
}

/** All interfaces with their addresses. */
export async function listInterfaces(): Promise<Interface[]> {
  const links = await ipJson<Link>(['addr', 'show']);
  return links.map((link) => ({
    device: link.ifname,
    name: link.ifname,
    ipAddresses: (link.addr_info ?? []).map(({ family, local, prefixlen }) => ({
      family: family === 'inet6' ? IPFamily.v6 : IPFamily.v4, address: local, mask: String(prefixlen),
    })),
    mtu: BigInt(link.mtu ?? 0),
    hwAddr: link.address ?? '',
    devicePath: '',
    type: '',
    rawFlags: (link.flags ?? []).includes('NOARP') ? 0x80 : 0,
  }));
}

function toRoute(line: RouteLine, family: IPFamily): Route {
  return {
    dest: line.dst === 'default' ? '' : (line.dst ?? ''),
    gateway: line.gateway ?? '',
    device: line.dev ?? '',
    source: line.prefsrc ?? '',
    scope: SCOPES[line.scope ?? 'global'] ?? 0,
    family,
    flags: (line.flags ?? []).includes('onlink') ? 4 : 0,
    mtu: line.metrics?.find(({ mtu }) => mtu !== undefined)?.mtu ?? 0,
  };
}

async function routeLines(family: '-4' | '-6'): Promise<RouteLine[]> {
  return ipJson<RouteLine>([family, 'route', 'show', 'table', 'main']);
}

/** Routes of the main table, both families. */
export async function listRoutes(): Promise<Route[]> {
  const [v4, v6] = await Promise.all([routeLines('-4'), routeLines('-6')]);
  return [...v4.map((line) => toRoute(line, IPFamily.v4)), ...v6.map((line) => toRoute(line, IPFamily.v6))];
}

function isV6(route: Route): boolean {
  return route.family === IPFamily.v6 || route.dest.includes(':') || route.gateway.includes(':');
}

/** One route as `ip` takes it. */
export function routeCommand(route: Route, verb = 'replace'): string {
  const words = ['route', verb, route.dest === '' || route.dest === 'default' ? 'default' : checkAddress(route.dest)];
  if (route.gateway !== '') {
    words.push('via', checkAddress(route.gateway));
  }
  if (route.device !== '') {
    words.push('dev', checkDevice(route.device));
  }
  if (route.source !== '') {
    words.push('src', checkAddress(route.source));
  }
  // A gateway route has global scope; `ip` derives it.
  if (route.scope !== 0 && route.scope <= 255) {
    words.push('scope', String(route.scope));
  }
  if ((route.flags & 4) !== 0) {
    words.push('onlink');
  }
  if (route.mtu > 0) {
    words.push('mtu', String(route.mtu));
  }
  return words.join(' ');
}

/** Replaces the routes: first those on links, then those through gateways, which need the former. */
export async function updateRoutes(routes: readonly Route[]): Promise<Route[]> {
  for (const [family, isWanted] of [['-4', (route: Route) => !isV6(route)], ['-6', isV6]] as const) {
    const wanted = routes.filter((route) => isWanted(route) && !route.dest.toLowerCase().startsWith('fe80:'));
    const old = (await routeLines(family)).filter(({ protocol, dev, dst }) => protocol !== 'kernel' && dev !== 'lo' && dst?.startsWith('fe80:') !== true);
    if (wanted.length === 0 && old.length === 0) {
      continue;
    }
    const removals = old.map((line) => routeCommand({ ...toRoute(line, family === '-6' ? IPFamily.v6 : IPFamily.v4), source: '', scope: 0, mtu: 0, flags: 0 }, 'del'));
    const direct = wanted.filter(({ gateway }) => gateway === '');
    const through = wanted.filter(({ gateway }) => gateway !== '');
    await ipBatch([...removals, ...[...direct, ...through].map((route) => routeCommand(route))], [family]);
  }
  return listRoutes();
}

/** Adds neighbours. */
export async function addNeighbors(neighbors: readonly ARPNeighbor[]): Promise<void> {
  const commands = neighbors.flatMap(({ toIpAddress, device, lladdr, state }) => {
    if (toIpAddress === undefined || lladdr === '') {
      return [];
    }
    const kind = state === 0 || state === NUD_PERMANENT ? 'permanent' : 'reachable';
    return [`neigh replace ${checkAddress(toIpAddress.address.split('/')[0] ?? '')} lladdr ${checkMac(lladdr)} dev ${checkDevice(device)} nud ${kind}`];
  });
  await ipBatch(commands);
}
