import { KataError } from '../../base/errors';
import { checkAbsolute } from '../../base/ids';

/** Where one stream of a process goes to or comes from, as the host names it. */
export type StreamTarget =
  | { readonly kind: 'none' }
  | { readonly kind: 'path'; readonly path: string }
  | { readonly kind: 'file'; readonly path: string }
  | { readonly kind: 'binary'; readonly path: string; readonly args: readonly string[]; readonly readiness: 'close' | 'byte'; readonly uri: string };

/**
 * Reads a stdio string: nothing; a path or `fifo://`; `file://`; `binary://` and `binary-v2://` with arguments as a
 * query, flattened to key, value, key, value in the URI's order (the first value of each key).
 */
export function parseStream(uri: string, what: string): StreamTarget {
  if (uri === '') {
    return { kind: 'none' };
  }
  const scheme = /^([a-z][a-z0-9+.-]*):\/\//i.exec(uri)?.[1]?.toLowerCase();
  if (scheme === undefined) {
    return { kind: 'path', path: checkAbsolute(uri, what) };
  }
  const rest = uri.slice(scheme.length + 3);
  const query = rest.indexOf('?');
  const path = checkAbsolute(decode(query < 0 ? rest : rest.slice(0, query), what), what);
  switch (scheme) {
    case 'fifo':
      return { kind: 'path', path };
    case 'file':
      return { kind: 'file', path };
    case 'binary':
    case 'binary-v2':
      return { kind: 'binary', path, args: queryArgs(query < 0 ? '' : rest.slice(query + 1), what), readiness: scheme === 'binary' ? 'close' : 'byte', uri };
    default:
      throw new KataError('InvalidArgument', `${what}: unknown STDIO scheme ${JSON.stringify(scheme)}`, { hint: 'known are fifo, file, binary and binary-v2' });
  }
}

function queryArgs(query: string, what: string): string[] {
  const values = new Map<string, string>();
  for (const part of query.split('&')) {
    if (part !== '') {
      const equals = part.indexOf('=');
      const key = decode((equals < 0 ? part : part.slice(0, equals)).replace(/\+/g, ' '), what);
      if (!values.has(key)) {
        values.set(key, equals < 0 ? '' : decode(part.slice(equals + 1).replace(/\+/g, ' '), what));
      }
    }
  }
  return [...values].flatMap(([key, value]) => (value === '' ? [key] : [key, value]));
}

function decode(text: string, what: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    throw new KataError('InvalidArgument', `${what}: ${JSON.stringify(text)} has a broken percent escape`);
  }
}
