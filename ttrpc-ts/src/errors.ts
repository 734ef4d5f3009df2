/** gRPC status codes by name; the index is the number on the wire. */
const CODE_NAMES = [
  'OK',
  'Canceled',
  'Unknown',
  'InvalidArgument',
  'DeadlineExceeded',
  'NotFound',
  'AlreadyExists',
  'PermissionDenied',
  'ResourceExhausted',
  'FailedPrecondition',
  'Aborted',
  'OutOfRange',
  'Unimplemented',
  'Internal',
  'Unavailable',
  'DataLoss',
  'Unauthenticated',
] as const;

/** The closed set of codes that an error can have (gRPC's, without OK). */
export type Code = Exclude<(typeof CODE_NAMES)[number], 'OK'>;

/** The number of a code on the wire. */
export function codeToNumber(code: Code): number {
  return CODE_NAMES.indexOf(code);
}

/** The code of a number from the wire; numbers that no code has (and 0, which is no error) give `Unknown`. */
export function codeFromNumber(value: number): Code {
  const name = CODE_NAMES[value];
  return name === undefined || name === 'OK' ? 'Unknown' : name;
}

/** One `google.protobuf.Any` of a status. */
export interface StatusDetail {
  readonly typeUrl: string;
  readonly value: Uint8Array;
}

/** What else an error may carry. */
export interface TtrpcErrorOptions {
  readonly details?: readonly StatusDetail[];
  readonly cause?: unknown;
}

/**
 * The one error of this package: client calls reject with it, handlers throw it to choose the status that the peer
 * sees. `message` is exactly the status message.
 */
export class TtrpcError extends Error {
  override readonly name = 'TtrpcError';
  readonly code: Code;
  readonly details: readonly StatusDetail[];

  constructor(code: Code, message: string, options: TtrpcErrorOptions = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.code = code;
    this.details = options.details ?? [];
  }
}

/** The text of anything that was thrown. */
export function textOf(reason: unknown): string {
  return reason instanceof Error ? reason.message : String(reason);
}

/** Any thrown thing as a `TtrpcError`: itself, or one with the given code and the thing's text. */
export function toTtrpcError(reason: unknown, code: Code = 'Unknown'): TtrpcError {
  return reason instanceof TtrpcError ? reason : new TtrpcError(code, textOf(reason), { cause: reason });
}

/** The error of everything that was pending when a connection ended: Unavailable, the text ends in `ttrpc: closed`. */
export function closedError(cause?: Error): TtrpcError {
  const message = cause === undefined ? 'ttrpc: closed' : `${cause.message}: ttrpc: closed`;
  return new TtrpcError('Unavailable', message, { cause });
}

/** The error for a message over the limit, worded as other implementations do. */
export function oversizeError(sizeBytes: number, maxBytes: number): TtrpcError {
  return new TtrpcError(
    'ResourceExhausted',
    `message length ${String(sizeBytes)} exceed maximum message size of ${String(maxBytes)}`,
  );
}
