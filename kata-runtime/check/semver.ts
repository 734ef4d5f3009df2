/** SemVer 2.0.0, as far as release numbers need it. */
export interface SemVer {
  readonly major: number;
  readonly minor: number;
  readonly patch: number;
  /** '' for a final release. */
  readonly pre: string;
}

/** Undefined for what is no SemVer. A leading `v` is not one. */
export function parseSemver(text: string): SemVer | undefined {
  const match = /^(0|[1-9]\d{0,8})\.(0|[1-9]\d{0,8})\.(0|[1-9]\d{0,8})(?:-([0-9A-Za-z.-]+))?(?:\+[0-9A-Za-z.-]+)?$/.exec(text);
  return match === null ? undefined : { major: Number(match[1]), minor: Number(match[2]), patch: Number(match[3]), pre: match[4] ?? '' };
}

function comparePre(a: string, b: string): number {
  if (a === '' || b === '') {
    return a === b ? 0 : a === '' ? 1 : -1;
  }
  const [left, right] = [a.split('.'), b.split('.')];
  for (let i = 0; i < Math.max(left.length, right.length); i++) {
    const [x, y] = [left[i], right[i]];
    if (x === undefined || y === undefined) {
      return x === undefined ? -1 : 1;
    }
    const [nx, ny] = [/^\d+$/.test(x), /^\d+$/.test(y)];
    if (nx && ny && Number(x) !== Number(y)) {
      return Number(x) - Number(y);
    }
    if (nx !== ny) {
      return nx ? -1 : 1;
    }
    if (x !== y) {
      return x < y ? -1 : 1;
    }
  }
  return 0;
}

/** Below, at or above zero, as a sort wants it. */
export function compareSemver(a: SemVer, b: SemVer): number {
  return a.major - b.major || a.minor - b.minor || a.patch - b.patch || comparePre(a.pre, b.pre);
}
