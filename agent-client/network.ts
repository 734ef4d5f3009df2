import { sleep } from '../base/deadline';
import { isCode, KataError } from '../base/errors';
import { AgentServiceDefinition } from '../gen/agent/agent';
import { IPFamily, type ARPNeighbor, type Interface, type IPAddress, type Route } from '../gen/agent/types';
import type { AgentChannel } from './channel';
import type { AgentClient, GuestAddress, GuestInterface, GuestNeighbor, GuestRoute } from './types';
import { saysNoSuchLink } from './wire-error';

const { fullName, methods } = AgentServiceDefinition;

/** A hot-plugged link may be late in the guest. */
const LINK_ATTEMPTS = 20;
const LINK_FIRST_DELAY_MS = 20;
const LINK_MAX_DELAY_MS = 500;

function toFamily(family: 'v4' | 'v6'): IPFamily {
  return family === 'v4' ? IPFamily.v4 : IPFamily.v6;
}

function fromFamily(family: IPFamily): 'v4' | 'v6' {
  return family === IPFamily.v6 ? 'v6' : 'v4';
}

function toWireAddress({ family, address, prefixLength }: GuestAddress): IPAddress {
  return { family: toFamily(family), address, mask: String(prefixLength) };
}

function toWireInterface(value: GuestInterface): Interface {
  const { device, name, addresses, mtu, hwAddr, devicePath, type, rawFlags } = value;
  return { device, name, ipAddresses: addresses.map(toWireAddress), mtu: BigInt(mtu), hwAddr, devicePath, type, rawFlags };
}

function fromWireAddress({ family, address, mask }: IPAddress): GuestAddress {
  const prefixLength = /^[0-9]{1,3}$/.test(mask) ? Number(mask) : 0;
  return { family: fromFamily(family), address, prefixLength };
}

function fromWireInterface(value: Interface): GuestInterface {
  const { device, name, ipAddresses, mtu, hwAddr, devicePath, type, rawFlags } = value;
  const addresses = ipAddresses.map(fromWireAddress);
  return { device, name, addresses, mtu: Number(mtu), hwAddr, devicePath, type, rawFlags };
}

function toWireRoute({ dest, gateway, device, source, scope, family, flags, mtu }: GuestRoute): Route {
  return { dest, gateway, device, source, scope, family: toFamily(family), flags: flags ?? 0, mtu: mtu ?? 0 };
}

function fromWireRoute({ dest, gateway, device, source, scope, family, flags, mtu }: Route): GuestRoute {
  return { dest, gateway, device, source, scope, family: fromFamily(family), flags, mtu };
}

function toWireNeighbor({ address, device, lladdr, state, flags }: GuestNeighbor): ARPNeighbor {
  return { toIpAddress: toWireAddress(address), device, lladdr, state, flags };
}

async function updateInterface(channel: AgentChannel, value: GuestInterface): Promise<void> {
  const message = { interface: toWireInterface(value) };
  let delayMs = LINK_FIRST_DELAY_MS;
  for (let attempt = 1; ; attempt++) {
    try {
      await channel.call(fullName, methods.updateInterface, message);
      return;
    } catch (reason) {
      if (attempt === LINK_ATTEMPTS || !(reason instanceof KataError && saysNoSuchLink(reason))) {
        throw reason;
      }
    }
    await sleep(delayMs);
    delayMs = Math.min(2 * delayMs, LINK_MAX_DELAY_MS);
  }
}

async function addArpNeighbors(channel: AgentChannel, neighbors: readonly GuestNeighbor[]): Promise<void> {
  if (neighbors.length === 0) {
    return;
  }
  try {
    await channel.call(fullName, methods.addARPNeighbors, { neighbors: { arpNeighbors: neighbors.map(toWireNeighbor) } });
  } catch (reason) {
    // Entries save the first packets a look-up; an agent that cannot set them is no reason to fail.
    if (!isCode(reason, 'Unimplemented')) {
      throw reason;
    }
  }
}

type NetworkCalls = Pick<
  AgentClient,
  | 'updateInterface'
  | 'updateRoutes'
  | 'listInterfaces'
  | 'listRoutes'
  | 'addArpNeighbors'
  | 'getIpTables'
  | 'setIpTables'
>;

/** The calls about the guest's network. */
export function networkCalls(channel: AgentChannel): NetworkCalls {
  return {
    updateInterface: async (value) => updateInterface(channel, value),
    updateRoutes: async (routes) => {
      await channel.call(fullName, methods.updateRoutes, { routes: { routes: routes.map(toWireRoute) } });
    },
    listInterfaces: async () =>
      (await channel.call(fullName, methods.listInterfaces, {})).interfaces.map(fromWireInterface),
    listRoutes: async () => (await channel.call(fullName, methods.listRoutes, {})).routes.map(fromWireRoute),
    addArpNeighbors: async (neighbors) => addArpNeighbors(channel, neighbors),
    getIpTables: async (isIpv6) => (await channel.call(fullName, methods.getIPTables, { isIpv6 })).data,
    setIpTables: async (isIpv6, data) => (await channel.call(fullName, methods.setIPTables, { isIpv6, data })).data,
  };
}
