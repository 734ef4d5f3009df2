import { TtrpcError, type Code } from 'ttrpc-ts';
import { codeOf, type ErrorCode, type KataError } from '../base/errors';

function toErrorCode(code: Code): ErrorCode {
  return code === 'Unauthenticated' ? 'PermissionDenied' : code;
}

/** The code of what a ttrpc call rejected with. */
export function wireCodeOf(reason: unknown): ErrorCode {
  return reason instanceof TtrpcError ? toErrorCode(reason.code) : codeOf(reason);
}

/** The text of what a ttrpc call rejected with: the agent's own words if it answered. */
export function wireTextOf(reason: unknown): string {
  return reason instanceof Error ? reason.message : String(reason);
}

// Agents before 4.x tell some outcomes by their text only; the code is Internal or InvalidArgument.

/** True if a read failed because the stream is at its end (3.x; a later agent answers with no data). */
export function saysEndOfStream(error: KataError): boolean {
  return /\beof\b/i.test(wireTextOf(error.cause));
}

/** True if a signal had nobody to go to: the process has ended already. */
export function saysNoSuchProcess(error: KataError): boolean {
  return /\bESRCH\b|no such process/i.test(wireTextOf(error.cause));
}

/** True if an interface has not shown up in the guest yet. */
export function saysNoSuchLink(error: KataError): boolean {
  return /link not found/i.test(wireTextOf(error.cause));
}
