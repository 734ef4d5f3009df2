import type { Code } from 'ttrpc-ts';
import { codeOf, describeError, errnoOf } from '../../base/errors';

/** What an error looks like to the host. */
export interface WireStatus {
  readonly code: Code;
  readonly message: string;
}

/**
 * Any error of ours as a ttrpc status: the whole chain of causes in one text. Hosts derive exit codes from it (126 for
 * "permission denied", 127 for "executable file not found" and "no such file or directory"), so the words of the
 * guest's runtime are kept, and added where only an errno tells.
 */
export function toWireStatus(reason: unknown): WireStatus {
  const code = codeOf(reason);
  const text = describeError(reason);
  const phrase = phraseOf(errnoOf(reason));
  return { code, message: phrase === undefined || text.toLowerCase().includes(phrase) ? text : `${text}: ${phrase}` };
}

function phraseOf(errno: string | undefined): string | undefined {
  switch (errno) {
    case 'ENOENT':
      return 'no such file or directory';
    case 'EACCES':
    case 'EPERM':
      return 'permission denied';
    default:
      return undefined;
  }
}
