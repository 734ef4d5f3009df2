/**
 * Parsed configurations, kept as JSON below /run: a pod that starts with an unchanged configuration skips TOML and
 * schema (measured: see docs/configuration.md). Only a help: whatever is wrong with an entry, it is ignored.
 */
import { constants, lstatSync, mkdirSync, closeSync, fstatSync, openSync, readFileSync, statSync } from 'node:fs';
import { basename, join } from 'node:path';
import { writeFileAtomic } from '../../base/atomic-file';
import type { HostFacts } from './host-facts';
import type { RuntimeConfig } from './types';

export const CACHE_FOLDER = '/run/kata-containers/config-cache';
const FORMAT = 1;
const MAX_ENTRY_BYTES = 1024 * 1024;

/** What an entry stands for: it is good only as long as all of this is the same. */
export interface CacheKey {
  readonly path: string;
  readonly text: string;
}

/**
 * The key of a configuration: files by path, inode, size and times, the host, and the program that parses. Undefined
 * if the program cannot be told apart from other versions (run from sources) or a file is not there.
 */
export function cacheKey(files: readonly string[], host: HostFacts, program: string | undefined): CacheKey | undefined {
  const [path] = files;
  if (program === undefined || path === undefined) {
    return undefined;
  }
  try {
    const identity = (file: string): string => {
      const info = statSync(file, { bigint: true });
      return [file, info.dev, info.ino, info.size, info.mtimeNs, info.ctimeNs].map(String).join(' ');
    };
    return { path, text: JSON.stringify([FORMAT, host, [program, ...files].map(identity)]) };
  } catch {
    return undefined;
  }
}

/** The bundle that this code was built into; undefined when it runs from sources. */
export function ownProgram(): string | undefined {
  return __filename.endsWith('.cjs') ? __filename : undefined;
}

/** One entry per main file; two files that share an entry only push each other out. */
function entryPath(folder: string, path: string): string {
  let hash = 0xcbf29ce484222325n;
  for (const byte of Buffer.from(path)) {
    hash = BigInt.asUintN(64, (hash ^ BigInt(byte)) * 0x100000001b3n);
  }
  return join(folder, `${basename(path).replace(/[^\w.-]/g, '_').slice(0, 64)}-${hash.toString(16)}.json`);
}

/** Nobody but the owner of this process may have written it. */
function isOurs(info: { readonly uid: number; readonly mode: number }): boolean {
  return info.uid === process.geteuid?.() && (info.mode & 0o022) === 0;
}

/** The configuration of an entry that fits the key, else undefined. Never throws. */
export function readCache(folder: string, key: CacheKey): RuntimeConfig | undefined {
  let fd: number | undefined;
  try {
    const above = lstatSync(folder);
    fd = openSync(entryPath(folder, key.path), constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
    const info = fstatSync(fd);
    if (!above.isDirectory() || !isOurs(above) || !info.isFile() || !isOurs(info) || info.size > MAX_ENTRY_BYTES) {
      return undefined;
    }
    const entry = JSON.parse(readFileSync(fd, 'utf8')) as { key: string; config: Omit<RuntimeConfig, 'sources'>; sources: [string, string][] };
    return entry.key === key.text ? { ...entry.config, sources: new Map(entry.sources) } : undefined;
  } catch {
    return undefined;
  } finally {
    if (fd !== undefined) {
      closeSync(fd);
    }
  }
}

/** Keeps a configuration (0600 in a folder 0700). Never throws: a full disk or a missing right only means no cache. */
export function writeCache(folder: string, key: CacheKey, config: RuntimeConfig): void {
  try {
    mkdirSync(folder, { recursive: true, mode: 0o700 });
    const { sources, ...rest } = config;
    writeFileAtomic(entryPath(folder, key.path), JSON.stringify({ key: key.text, config: rest, sources: [...sources] }));
  } catch {
    // no cache then
  }
}
