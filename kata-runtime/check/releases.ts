/** The release check: only the official addresses, never as root, switched off by flag and environment. */
import { KataError } from '../../base/errors';
import type { CliHost } from '../host';
import { compareSemver, parseSemver, type SemVer } from './semver';

/** The release of Kata Containers whose behaviour this runtime follows: what newer ones are compared with. */
export const FOLLOWED_RELEASE = '3.0.0';

const URL_MAJOR_1 = 'https://api.github.com/repos/kata-containers/runtime/releases';
const URL_LATER = 'https://api.github.com/repos/kata-containers/kata-containers/releases';
const DOWNLOADS: readonly string[] = [
  'https://github.com/kata-containers/runtime/releases/download',
  'https://github.com/kata-containers/kata-containers/releases/download',
];
const FETCH_TIMEOUT_MS = 15_000;
const MAX_BYTES = 32 * 1024 * 1024;

export interface HttpReply {
  readonly status: number;
  readonly text: string;
}
export type Fetcher = (url: string) => Promise<HttpReply>;

export interface Release {
  readonly version: string;
  readonly semver: SemVer;
  readonly url: string;
  readonly date: string;
}

/** `KATA_RELEASE_URL`, else by major version. InvalidArgument for any other than the two official ones. */
export function releaseUrl(version: string, env: CliHost['env']): string {
  const own = parseSemver(version);
  if (own === undefined) {
    throw new KataError('Internal', `BUG: the version ${JSON.stringify(version)} is no SemVer`);
  }
  if (own.major === 0) {
    throw new KataError('InvalidArgument', `check releases: the version ${version} has the invalid major number 0`);
  }
  const url = env['KATA_RELEASE_URL'] ?? '';
  if (url === '') {
    return own.major === 1 ? URL_MAJOR_1 : URL_LATER;
  }
  if (url !== URL_MAJOR_1 && url !== URL_LATER) {
    throw new KataError('InvalidArgument', `Release URL ${JSON.stringify(url.slice(0, 200))} is not valid`, { hint: `unset KATA_RELEASE_URL, or set it to ${URL_LATER}` });
  }
  return url;
}

/** Malformed entries are left out, as are pre-releases unless wanted; oldest first. */
export function parseReleases(text: string, includeAll: boolean): Release[] {
  let parsed: unknown;
  try {
    parsed = JSON.parse(text);
  } catch (reason) {
    throw new KataError('DataLoss', 'check releases: the answer is not JSON', { cause: reason });
  }
  const releases = (Array.isArray(parsed) ? (parsed as unknown[]) : []).flatMap((entry): Release[] => {
    const fields = (typeof entry === 'object' && entry !== null ? entry : {}) as Readonly<Record<string, unknown>>;
    const assets: unknown = fields['assets'];
    const first: unknown = Array.isArray(assets) ? assets[0] : undefined;
    const url = typeof first === 'object' && first !== null && 'browser_download_url' in first ? first.browser_download_url : undefined;
    const [version, name, date] = [fields['tag_name'], fields['name'], fields['created_at']];
    const semver = typeof version === 'string' ? parseSemver(version) : undefined;
    if (semver === undefined || typeof version !== 'string' || typeof url !== 'string' || !DOWNLOADS.some((prefix) => url.startsWith(prefix))) {
      return [];
    }
    if (typeof name !== 'string' || name === '' || typeof date !== 'string' || date === '') {
      return [];
    }
    const pre = fields['prerelease'] === true || semver.pre !== '';
    return pre && !includeAll ? [] : [{ version, semver, url, date }];
  });
  return releases.sort((a, b) => compareSemver(a.semver, b.semver));
}

/** What is newer, in upstream's words. */
export function newestMessage(current: string, releases: readonly Release[]): string {
  const own = parseSemver(current);
  const newest = releases.at(-1);
  if (newest === undefined || own === undefined) {
    return 'No releases available';
  }
  if (compareSemver(newest.semver, own) <= 0) {
    return 'No newer release available';
  }
  return `Newer ${kindOf(own, newest.semver)} release available: ${newest.version} (url: ${newest.url}, date: ${newest.date})`;
}

function kindOf(own: SemVer, newest: SemVer): string {
  const suffix = newest.pre === '' ? '' : ' pre-release';
  if (newest.major !== own.major) {
    return `major${suffix}`;
  }
  if (newest.minor !== own.minor) {
    return `minor${suffix}`;
  }
  if (newest.patch !== own.patch) {
    return `patch${suffix}`;
  }
  // The final release of a number whose pre-release we are counts as a major one.
  return newest.pre === '' ? 'major' : 'pre-release';
}

/** Over the network, bounded in time and size. */
export const fetchOverNetwork: Fetcher = async (url) => {
  try {
    const response = await fetch(url, { signal: AbortSignal.timeout(FETCH_TIMEOUT_MS), headers: { 'user-agent': 'kata-runtime', accept: 'application/json' } });
    const bytes = Buffer.from(await response.arrayBuffer());
    if (bytes.length > MAX_BYTES) {
      throw new KataError('ResourceExhausted', `check releases: the answer is larger than ${String(MAX_BYTES)} bytes`);
    }
    return { status: response.status, text: bytes.toString('utf8') };
  } catch (reason) {
    throw KataError.from(reason, `check releases: ask ${url}`, { hint: 'use --no-network-checks on a machine without network' });
  }
};

export interface ReleaseOptions {
  readonly includeAll: boolean;
  readonly onlyList: boolean;
}

/** The lines to print. PermissionDenied as root. */
export async function checkReleases(host: CliHost, options: ReleaseOptions, fetcher: Fetcher, version = FOLLOWED_RELEASE): Promise<{ readonly lines: string[]; readonly warning: string }> {
  const url = releaseUrl(version, host.env);
  if (host.euid === 0) {
    throw new KataError('PermissionDenied', 'No network checks allowed running as super user', { hint: 'run it as another user, or with --no-network-checks' });
  }
  const reply = await fetcher(url);
  if (reply.status === 403 && reply.text.includes('limit exceeded')) {
    return { lines: options.onlyList ? [] : ['No releases available'], warning: 'the release server limits requests: rate limit exceeded; try again later' };
  }
  if (reply.status !== 200) {
    throw new KataError('Unavailable', `check releases: ${url} answered ${String(reply.status)}`, { hint: 'try again later, or use --no-network-checks' });
  }
  const releases = parseReleases(reply.text, options.includeAll);
  const lines = options.onlyList ? releases.map((release) => `${release.version};${release.date};${release.url}`) : [newestMessage(version, releases)];
  return { lines, warning: '' };
}
