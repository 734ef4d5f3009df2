/** QMP answers come from a process that a guest may have taken over: nothing in them is believed before it is looked at. */
import { KataError } from '../../../../base/errors';

export type Shape = Readonly<Record<string, unknown>>;

/** The value as an object; DataLoss otherwise. */
export function asObject(value: unknown, what: string): Shape {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw new KataError('DataLoss', `${what}: expected an object, got ${describe(value)}`);
  }
  return value as Shape;
}

/** The value as a list of objects; DataLoss otherwise. */
export function asObjects(value: unknown, what: string): Shape[] {
  if (!Array.isArray(value)) {
    throw new KataError('DataLoss', `${what}: expected a list, got ${describe(value)}`);
  }
  return value.map((entry) => asObject(entry, what));
}

export function asString(value: unknown, what: string): string {
  if (typeof value !== 'string') {
    throw new KataError('DataLoss', `${what}: expected a text, got ${describe(value)}`);
  }
  return value;
}

/** A safe integer that is not negative. */
export function asCount(value: unknown, what: string): number {
  if (typeof value !== 'number' || !Number.isSafeInteger(value) || value < 0) {
    throw new KataError('DataLoss', `${what}: expected a count, got ${describe(value)}`);
  }
  return value;
}

function describe(value: unknown): string {
  return value === null ? 'null' : Array.isArray(value) ? 'a list' : typeof value;
}
