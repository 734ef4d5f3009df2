import { KataError } from '../base/errors';

/** Where an agent listens, taken apart. */
export type AgentEndpoint =
  | { readonly kind: 'vsock'; readonly cid: number; readonly port: number }
  | { readonly kind: 'hvsock'; readonly path: string; readonly port: number }
  | { readonly kind: 'unix'; readonly path: string }
  | { readonly kind: 'serial'; readonly path: string };

const MAX_U32 = 0xffff_ffff;
const MAX_SOCKET_PATH_BYTES = 107;

/**
 * Takes an agent URL apart: `vsock://<cid>:<port>`, `hvsock://<path>:<port>`, `unix://<path>`, `mock://<path>` and
 * `remote://<path>` (unix sockets too), `serial://<path>` (ours: the host socket of a virtio-serial port). Anything else
 * is InvalidArgument.
 */
export function parseAgentUrl(url: string): AgentEndpoint {
  const match = /^([a-z]+):\/\/(.+)$/s.exec(url);
  const scheme = match?.[1] ?? '';
  const rest = match?.[2] ?? '';
  switch (scheme) {
    case 'vsock': {
      const [cid, port, ...more] = rest.split(':');
      if (more.length > 0) {
        throw invalid(url, 'wanted vsock://<cid>:<port>');
      }
      return { kind: 'vsock', cid: parseNumber(url, cid, 'CID'), port: parseNumber(url, port, 'port') };
    }
    case 'hvsock': {
      const colon = rest.lastIndexOf(':');
      if (colon < 0) {
        throw invalid(url, 'wanted hvsock://<path>:<port>');
      }
      const port = parseNumber(url, rest.slice(colon + 1), 'port');
      return { kind: 'hvsock', path: checkPath(url, rest.slice(0, colon)), port };
    }
    case 'unix':
    case 'mock':
    case 'remote':
      return { kind: 'unix', path: checkPath(url, rest) };
    case 'serial':
      return { kind: 'serial', path: checkPath(url, rest) };
    default:
      throw invalid(url, 'the scheme is none of vsock, hvsock, unix, serial, mock, remote');
  }
}

/** The URL of an endpoint; `parseAgentUrl` reads it back. */
export function formatAgentUrl(endpoint: AgentEndpoint): string {
  switch (endpoint.kind) {
    case 'vsock':
      return `vsock://${endpoint.cid}:${endpoint.port}`;
    case 'hvsock':
      return `hvsock://${endpoint.path}:${endpoint.port}`;
    case 'unix':
    case 'serial':
      return `${endpoint.kind}://${endpoint.path}`;
  }
}

function parseNumber(url: string, text: string | undefined, what: string): number {
  const value = text !== undefined && /^[0-9]{1,10}$/.test(text) ? Number(text) : NaN;
  if (!(value <= MAX_U32)) {
    throw invalid(url, `the ${what} is no number of 32 bits`);
  }
  return value;
}

function checkPath(url: string, path: string): string {
  if (!path.startsWith('/') || path.includes('\0')) {
    throw invalid(url, 'the path is not absolute');
  }
  if (Buffer.byteLength(path) > MAX_SOCKET_PATH_BYTES) {
    throw invalid(url, `the path is longer than the ${MAX_SOCKET_PATH_BYTES} bytes of a socket address`);
  }
  return path;
}

function invalid(url: string, why: string): KataError {
  return new KataError('InvalidArgument', `parse agent URL ${JSON.stringify(url.slice(0, 200))}: ${why}`);
}
