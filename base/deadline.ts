import { KataError } from './errors';

/** A promise with its two ends outside. */
export interface Deferred<T> {
  readonly promise: Promise<T>;
  resolve(value: T): void;
  reject(reason: KataError): void;
}

/** Makes a deferred promise. A rejection that nobody awaits is not an unhandled rejection. */
export function defer<T>(): Deferred<T> {
  let resolve!: (value: T) => void;
  let reject!: (reason: KataError) => void;
  const promise = new Promise<T>((ok, no) => {
    resolve = ok;
    reject = no;
  });
  promise.catch(() => undefined);
  return { promise, resolve, reject };
}

/** The error that an aborted signal stands for: its reason if that is an error, else Canceled. */
export function abortError(signal: AbortSignal, what: string): KataError {
  const reason: unknown = signal.reason;
  return reason instanceof KataError ? reason : new KataError('Canceled', `${what}: canceled`, { cause: reason });
}

/** Waits `ms` milliseconds; rejects at once with Canceled when the signal fires. */
export async function sleep(ms: number, signal?: AbortSignal): Promise<void> {
  await new Promise<void>((resolve, reject) => {
    if (signal?.aborted === true) {
      reject(abortError(signal, 'sleep'));
      return;
    }
    const onAbort = (): void => {
      clearTimeout(timer);
      if (signal !== undefined) {
        reject(abortError(signal, 'sleep'));
      }
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener('abort', onAbort);
      resolve();
    }, ms);
    signal?.addEventListener('abort', onAbort, { once: true });
  });
}

/** What to say when the time is up. */
export type TimeoutError = () => KataError;

/**
 * The promise's result, or `onTimeout()` after `timeoutMs`, or the abort reason. The promise itself goes on and its
 * late result is dropped: whoever owns what it acquires must free it.
 */
export async function withTimeout<T>(
  promise: Promise<T>,
  timeoutMs: number,
  onTimeout: TimeoutError,
  signal?: AbortSignal,
): Promise<T> {
  promise.catch(() => undefined);
  return new Promise<T>((resolve, reject) => {
    const onAbort = (): void => {
      clearTimeout(timer);
      if (signal !== undefined) {
        reject(abortError(signal, 'wait'));
      }
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener('abort', onAbort);
      reject(onTimeout());
    }, timeoutMs);
    if (signal?.aborted === true) {
      onAbort();
      return;
    }
    signal?.addEventListener('abort', onAbort, { once: true });
    const settle = (): void => {
      clearTimeout(timer);
      signal?.removeEventListener('abort', onAbort);
    };
    promise.then(
      (value) => {
        settle();
        resolve(value);
      },
      (reason: unknown) => {
        settle();
        reject(reason instanceof Error ? reason : new KataError('Unknown', String(reason)));
      },
    );
  });
}

/** A signal that fires after `timeoutMs` with `onTimeout()`, or when `parent` does. `dispose` frees timer and listener. */
export function timeoutSignal(
  timeoutMs: number,
  onTimeout: TimeoutError,
  parent?: AbortSignal,
): { readonly signal: AbortSignal; dispose(): void } {
  const controller = new AbortController();
  const timer = setTimeout(() => {
    controller.abort(onTimeout());
  }, timeoutMs);
  const onAbort = (): void => {
    controller.abort(parent?.reason);
  };
  if (parent?.aborted === true) {
    onAbort();
  } else {
    parent?.addEventListener('abort', onAbort, { once: true });
  }
  return {
    signal: controller.signal,
    dispose: () => {
      clearTimeout(timer);
      parent?.removeEventListener('abort', onAbort);
    },
  };
}
