import { isAbsolute, join, normalize, sep } from 'node:path';
import { KataError } from './errors';

const ID = /^[a-zA-Z0-9][a-zA-Z0-9_.-]+$/;
const MAX_ID_LENGTH = 128;

/** Checks a sandbox, container or exec id from outside before it becomes part of a path; returns it. */
export function checkId(id: string, what: string): string {
  if (id === '') {
    throw new KataError('InvalidArgument', `${what} id cannot be blank`);
  }
  if (id.length > MAX_ID_LENGTH || !ID.test(id)) {
    throw new KataError('InvalidArgument', `invalid ${what} id ${JSON.stringify(id.slice(0, 80))}`, {
      hint: `an id is 2 to ${String(MAX_ID_LENGTH)} characters of a-z A-Z 0-9 _ . -, and starts with a letter or digit`,
    });
  }
  return id;
}

/** Joins a path from outside below `root`; refuses what would leave it. Symbolic links are the caller's matter. */
export function joinBelow(root: string, path: string, what: string): string {
  const joined = normalize(join(root, path));
  const base = normalize(root);
  if (joined !== base && !joined.startsWith(base.endsWith(sep) ? base : base + sep)) {
    throw new KataError('InvalidArgument', `${what}: ${JSON.stringify(path)} leaves ${root}`);
  }
  return joined;
}

/** An absolute, normalised path from outside, without `..` parts. */
export function checkAbsolute(path: string, what: string): string {
  if (!isAbsolute(path) || path.includes('\0') || path.split('/').includes('..')) {
    throw new KataError('InvalidArgument', `${what}: ${JSON.stringify(path)} is not a plain absolute path`);
  }
  return normalize(path);
}
