/** Who we are: for `version`, `env` and the release check. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';

/** The version of the OCI runtime specification that bundles are read by. */
export const OCI_VERSION = '1.0.2-dev';
export const UNKNOWN = '<<unknown>>';

declare const KATA_TS_COMMIT: string | undefined;
declare const KATA_TS_VERSION: string | undefined;

/** SemVer of this build; the bundle has it as a constant, the sources read package.json. */
export function ownVersion(): string {
  if (typeof KATA_TS_VERSION === 'string') {
    return KATA_TS_VERSION;
  }
  for (const folder of ['..', '.']) {
    try {
      const parsed: unknown = JSON.parse(readFileSync(join(__dirname, folder, 'package.json'), 'utf8'));
      if (typeof parsed === 'object' && parsed !== null && 'version' in parsed && typeof parsed.version === 'string') {
        return parsed.version;
      }
    } catch {
      // the next one
    }
  }
  return UNKNOWN;
}

export function ownCommit(): string {
  return typeof KATA_TS_COMMIT === 'string' && KATA_TS_COMMIT !== '' ? KATA_TS_COMMIT : UNKNOWN;
}

/** The three lines of upstream's `version`. */
export function versionText(): string {
  return `kata-runtime  : ${ownVersion()}\n   commit   : ${ownCommit()}\n   OCI specs: ${OCI_VERSION}\n`;
}
