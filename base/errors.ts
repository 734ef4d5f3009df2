/** The closed set of error codes. Names and meaning are gRPC's, so that they map one to one to the wire. */
export type ErrorCode =
  | 'Canceled'
  | 'Unknown'
  | 'InvalidArgument'
  | 'DeadlineExceeded'
  | 'NotFound'
  | 'AlreadyExists'
  | 'PermissionDenied'
  | 'ResourceExhausted'
  | 'FailedPrecondition'
  | 'Aborted'
  | 'OutOfRange'
  | 'Unimplemented'
  | 'Internal'
  | 'Unavailable'
  | 'DataLoss';

export interface ErrorOptions {
  /** What the user can do about it; one clause, printed after the message. */
  readonly hint?: string;
  /** What lies under this error; kept to the wire. */
  readonly cause?: unknown;
}

const CODE_OF_ERRNO: Readonly<Record<string, ErrorCode>> = {
  ENOENT: 'NotFound',
  ESRCH: 'NotFound',
  ENXIO: 'NotFound',
  ENODEV: 'NotFound',
  EEXIST: 'AlreadyExists',
  EACCES: 'PermissionDenied',
  EPERM: 'PermissionDenied',
  EROFS: 'PermissionDenied',
  EINVAL: 'InvalidArgument',
  ENAMETOOLONG: 'InvalidArgument',
  ENOTDIR: 'InvalidArgument',
  EISDIR: 'InvalidArgument',
  ENOSPC: 'ResourceExhausted',
  ENOMEM: 'ResourceExhausted',
  EMFILE: 'ResourceExhausted',
  ENFILE: 'ResourceExhausted',
  EDQUOT: 'ResourceExhausted',
  ECONNREFUSED: 'Unavailable',
  ECONNRESET: 'Unavailable',
  EPIPE: 'Unavailable',
  ENOTCONN: 'Unavailable',
  EBUSY: 'Unavailable',
  ETIMEDOUT: 'DeadlineExceeded',
  ENOSYS: 'Unimplemented',
  EOPNOTSUPP: 'Unimplemented',
};

/** The errno name (`ENOENT`) that an error or its cause chain carries, if any. */
export function errnoOf(reason: unknown): string | undefined {
  for (let e = reason; e instanceof Error; e = e.cause) {
    const code: unknown = 'code' in e ? e.code : undefined;
    if (typeof code === 'string' && /^E[A-Z0-9]+$/.test(code)) {
      return code;
    }
  }
  return undefined;
}

const BRAND = Symbol.for('kata-ts.KataError');

/**
 * The one error class of kata-ts. `instanceof` also knows the errors of another bundle in the same process. The message reads `<what was asked> <object>: <what happened>`: lower case, no
 * trailing dot, ids quoted, time-outs with value and configuration key.
 */
export class KataError extends Error {
  readonly code: ErrorCode;
  readonly hint: string | undefined;
  readonly [BRAND] = true;

  static override [Symbol.hasInstance](value: unknown): value is KataError {
    if (this !== KataError) {
      return Function.prototype[Symbol.hasInstance].call(this, value);
    }
    return typeof value === 'object' && value !== null && BRAND in value;
  }

  constructor(code: ErrorCode, message: string, options: ErrorOptions = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = 'KataError';
    this.code = code;
    this.hint = options.hint;
  }

  /** Wraps any reason under a new message. The code is the reason's own, or the one its errno stands for. */
  static from(reason: unknown, message: string, options: Omit<ErrorOptions, 'cause'> = {}): KataError {
    return new KataError(codeOf(reason), message, { ...options, cause: reason });
  }
}

/** The code of any thrown value: a KataError's own, else by errno along the causes, else `Unknown`. */
export function codeOf(reason: unknown): ErrorCode {
  if (reason instanceof KataError) {
    return reason.code;
  }
  const errno = errnoOf(reason);
  return (errno === undefined ? undefined : CODE_OF_ERRNO[errno]) ?? 'Unknown';
}

/** True if the error is a KataError of this code. */
export function isCode(reason: unknown, code: ErrorCode): boolean {
  return reason instanceof KataError && reason.code === code;
}

/** The whole cause chain in one line: `message: cause: cause (hint; hint)`, without saying a text twice. */
export function describeError(reason: unknown): string {
  const parts: string[] = [];
  const hints: string[] = [];
  let e: unknown = reason;
  for (let depth = 0; e !== undefined && depth < 16; depth++) {
    const text = e instanceof Error ? e.message : typeof e === 'string' ? e : JSON.stringify(e);
    if (!parts.some((part) => part.includes(text))) {
      parts.push(text);
    }
    if (e instanceof KataError && e.hint !== undefined && !hints.includes(e.hint)) {
      hints.push(e.hint);
    }
    e = e instanceof Error ? e.cause : undefined;
  }
  return parts.join(': ') + (hints.length > 0 ? ` (${hints.join('; ')})` : '');
}

/** For `switch` over closed unions: a compile error where a case is missing, an Internal error at run time. */
export function unreachable(value: never, what: string): never {
  throw new KataError('Internal', `${what}: unexpected ${JSON.stringify(value)}`);
}
