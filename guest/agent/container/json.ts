/**
 * JSON with 64-bit integers as plain digits: resource limits and rlimits may be beyond what a double holds exactly.
 * Absent (undefined) members are left out; maps become objects.
 */
export function toJson(value: unknown): string {
  if (typeof value === 'bigint') {
    return value.toString();
  }
  if (value instanceof Map) {
    return toJson(Object.fromEntries(value));
  }
  if (Array.isArray(value)) {
    return `[${value.map((item) => toJson(item ?? null)).join(',')}]`;
  }
  if (typeof value === 'object' && value !== null) {
    const members = Object.entries(value).filter(([, member]) => member !== undefined);
    return `{${members.map(([key, member]) => `${JSON.stringify(key)}:${toJson(member)}`).join(',')}}`;
  }
  return JSON.stringify(value ?? null);
}
