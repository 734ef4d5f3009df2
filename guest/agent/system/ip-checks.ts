import { isIP } from 'node:net';
import { KataError } from '../../../base/errors';

/** An interface name that may stand in a command of `ip`. */
export function checkDevice(name: string): string {
  if (!/^[a-zA-Z0-9_.][a-zA-Z0-9_.:@-]{0,14}$/.test(name) || name === '.' || name === '..') {
    throw new KataError('InvalidArgument', `interface name ${JSON.stringify(name.slice(0, 40))} is not valid`);
  }
  return name;
}

/** An address, without or with a prefix length. */
export function checkAddress(text: string): string {
  const [address = '', prefix, ...rest] = text.split('/');
  if (isIP(address) === 0 || rest.length > 0 || (prefix !== undefined && !/^\d{1,3}$/.test(prefix))) {
    throw new KataError('InvalidArgument', `address ${JSON.stringify(text.slice(0, 80))} is not valid`);
  }
  return text;
}

/** A hardware address. */
export function checkMac(text: string): string {
  if (!/^[0-9a-f]{2}(:[0-9a-f]{2}){5,19}$/i.test(text)) {
    throw new KataError('InvalidArgument', `hardware address ${JSON.stringify(text.slice(0, 80))} is not valid`);
  }
  return text.toLowerCase();
}
