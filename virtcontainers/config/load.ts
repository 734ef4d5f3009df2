/** Finds, reads, merges and checks the configuration. */
import { readdirSync, realpathSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { KataError } from '../../base/errors';
import { CACHE_FOLDER, cacheKey, ownProgram, readCache, writeCache } from './cache';
import { checkFiles, checkRules, KNOWN_VIRTIOFSD } from './checks';
import { hostFacts, type HostFacts } from './host-facts';
import { readConfigFile } from './config-file';
import type { RuntimeConfig } from './types';

/** Tried in this order if nothing else names a file; the first that exists. */
export const DEFAULT_SEARCH_PATHS: readonly string[] = [
  '/etc/kata-containers/configuration.toml',
  '/opt/kata/share/defaults/kata-containers/configuration.toml',
  '/usr/local/share/defaults/kata-containers/configuration.toml',
  '/usr/share/defaults/kata-containers/configuration.toml',
];

export interface ParseOptions {
  readonly host?: HostFacts;
  /** Drop-ins in the order in which they apply. */
  readonly dropIns?: readonly { readonly path: string; readonly text: string }[];
}

export interface LoadOptions {
  /** From the runtime options of containerd (ConfigPath) or `--config`; wins over everything. */
  readonly configPath?: string;
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly searchPaths?: readonly string[];
  readonly host?: HostFacts;
  /** Where virtiofsd is looked for if the configuration names none. */
  readonly knownDaemons?: readonly string[];
  /** False: the files that the configuration names need not exist (for commands that only show it). Default true. */
  readonly checkFiles?: boolean;
  /** Where parsed configurations are kept; '' for not at all. */
  readonly cacheFolder?: string;
  /** The program that parses: entries of another one do not count. From sources there is none, hence no cache. */
  readonly program?: string;
}

/**
 * Text to configuration: syntax, keys, types, ranges, defaults, clamps and the rules between keys. Looks at no file;
 * `checkFiles` does. InvalidArgument names file, line, key and remedy.
 */
export function parseConfig(text: string, path: string, options: ParseOptions = {}): RuntimeConfig {
  // Loaded late: with a cached configuration none of it is needed.
  /* eslint-disable @typescript-eslint/no-require-imports */
  const { completeConfig } = require('./complete') as typeof import('./complete');
  const { mergeFiles } = require('./layers') as typeof import('./layers');
  const { parseToml } = require('./toml-file') as typeof import('./toml-file');
  /* eslint-enable @typescript-eslint/no-require-imports */
  const dropIns = options.dropIns ?? [];
  const files = [parseToml(text, path), ...dropIns.map((dropIn) => parseToml(dropIn.text, dropIn.path))];
  const config = completeConfig(mergeFiles(files), path, dropIns.map((dropIn) => dropIn.path), options.host ?? hostFacts());
  checkRules(config);
  return config;
}

/**
 * The configuration of this host. A file that is named (option, then KATA_CONF_FILE) must exist; else the first of the
 * search paths. Drop-ins are the entries of `config.d/` beside the file, symbolic links resolved, in byte order.
 */
export function loadConfig(options: LoadOptions): RuntimeConfig {
  const path = locate(options);
  const dropIns = dropInsOf(path);
  const host = options.host ?? hostFacts();
  const folder = options.cacheFolder ?? CACHE_FOLDER;
  // Before the files are read: if one changes meanwhile, the entry is already stale when it is written.
  const key = folder === '' ? undefined : cacheKey([path, ...dropIns], host, options.program ?? ownProgram());
  let config = key === undefined ? undefined : readCache(folder, key);
  if (config === undefined) {
    config = parseConfig(readConfigFile(path), path, { host, dropIns: dropIns.map((dropIn) => ({ path: dropIn, text: readConfigFile(dropIn) })) });
    if (key !== undefined) {
      writeCache(folder, key, config);
    }
  }
  return options.checkFiles === false ? config : checkFiles(config, options.knownDaemons ?? KNOWN_VIRTIOFSD);
}

/** The resolved path of the main file. */
export function locate(options: Pick<LoadOptions, 'configPath' | 'env' | 'searchPaths'>): string {
  const fromEnv = options.env['KATA_CONF_FILE'];
  const named: readonly [string | undefined, string][] = [
    [options.configPath, 'the runtime options (ConfigPath) or --config'],
    [fromEnv, 'KATA_CONF_FILE'],
  ];
  for (const [path, by] of named) {
    if (path !== undefined && path !== '') {
      try {
        return realpathSync(resolve(path));
      } catch (reason) {
        throw KataError.from(reason, `find configuration: file ${path} does not exist or cannot be reached`, { hint: `it is named by ${by}` });
      }
    }
  }
  const searchPaths = options.searchPaths ?? DEFAULT_SEARCH_PATHS;
  for (const path of searchPaths) {
    try {
      return realpathSync(path);
    } catch {
      // the next one
    }
  }
  throw new KataError('NotFound', `find configuration: Cannot find usable config file (${searchPaths.join(', ')})`, {
    hint: `copy configuration-qemu.toml to ${searchPaths[0] ?? '/etc/kata-containers/configuration.toml'}, or name a file with KATA_CONF_FILE`,
  });
}

/** Every entry of config.d in byte order, whatever its name, as upstream. No folder: none. */
function dropInsOf(path: string): string[] {
  const folder = join(dirname(path), 'config.d');
  try {
    return readdirSync(folder, 'buffer')
      .sort((a, b) => Buffer.compare(a, b))
      .map((name) => join(folder, name.toString()));
  } catch (reason) {
    const error = KataError.from(reason, `read configuration ${folder}`);
    if (error.code === 'NotFound') {
      return [];
    }
    throw error;
  }
}
