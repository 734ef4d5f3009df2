/**
 * Compresses in LZ4's legacy frame, the one that the kernel unpacks for its initial root. Chosen for the guest: the
 * emulated processor unpacks it as fast as it copies, and the host keeps 50 MB less per VM. Follows
 * lz4_Block_format.md and "Legacy frame" of lz4_Frame_format.md.
 */
const MAGIC = 0x184c2102;
const BLOCK_BYTES = 8 << 20;
const MIN_MATCH = 4;
const LAST_LITERALS = 5;
const NO_MATCH_IN_LAST = 12;
const MAX_DISTANCE = 65535;
const HASH_BITS = 16;
const DEPTH = 24;
const LONG_ENOUGH = 64;

function hashOf(word: number): number {
  return Math.imul(word, -1640531535) >>> (32 - HASH_BITS);
}

class Sink {
  private at = 0;

  constructor(private readonly out: Buffer) {}

  get bytes(): Buffer {
    return this.out.subarray(0, this.at);
  }

  private length(value: number): void {
    let rest = value - 15;
    for (; rest >= 255; rest -= 255) {
      this.out[this.at++] = 255;
    }
    this.out[this.at++] = rest;
  }

  /** Literals, then a match where `matchBytes` is not 0. */
  sequence(source: Buffer, from: number, to: number, distance: number, matchBytes: number): void {
    const literals = to - from;
    const extra = matchBytes === 0 ? 0 : matchBytes - MIN_MATCH;
    this.out[this.at++] = (Math.min(literals, 15) << 4) | Math.min(extra, 15);
    if (literals >= 15) {
      this.length(literals);
    }
    this.at += source.copy(this.out, this.at, from, to);
    if (matchBytes > 0) {
      this.out[this.at++] = distance & 255;
      this.out[this.at++] = distance >>> 8;
      if (extra >= 15) {
        this.length(extra);
      }
    }
  }
}

function matchLength(source: Buffer, a: number, b: number, limit: number): number {
  let n = 0;
  while (b + n < limit && source[a + n] === source[b + n]) {
    n++;
  }
  return n;
}

/** Places where four bytes occurred before, the latest first, at most `DEPTH` looked at. */
class Places {
  private readonly latest = new Int32Array(1 << HASH_BITS).fill(-1);
  private readonly before: Int32Array;
  private next = 0;
  /** Where the best match of the last search begins, and its length; 0 where there is none. */
  bestAt = 0;
  bestBytes = 0;

  constructor(private readonly source: Buffer) {
    this.before = new Int32Array(source.length);
  }

  /** Finds the longest match for what begins at `at`, after all earlier places were entered. */
  search(at: number, limit: number): void {
    for (; this.next < at; this.next++) {
      const slot = hashOf(this.source.readInt32LE(this.next));
      this.before[this.next] = this.latest[slot] ?? -1;
      this.latest[slot] = this.next;
    }
    this.bestBytes = 0;
    const word = this.source.readInt32LE(at);
    let candidate = this.latest[hashOf(word)] ?? -1;
    for (let tries = DEPTH; tries > 0 && candidate >= 0 && at - candidate <= MAX_DISTANCE; tries--) {
      // A better match must be right where the best one ended; looking there first spares most comparisons.
      if (this.source[candidate + this.bestBytes] === this.source[at + this.bestBytes] && this.source.readInt32LE(candidate) === word) {
        const bytes = matchLength(this.source, candidate, at, limit);
        if (bytes > this.bestBytes) {
          this.bestBytes = bytes;
          this.bestAt = candidate;
        }
      }
      candidate = this.before[candidate] ?? -1;
    }
  }
}

/** One LZ4 block. Long matches matter twice: they make the block smaller, and quicker to unpack. */
export function lz4Block(source: Buffer): Buffer {
  const sink = new Sink(Buffer.allocUnsafe(source.length + Math.ceil(source.length / 255) + 16));
  const places = new Places(source);
  const lastStart = source.length - NO_MATCH_IN_LAST;
  const matchLimit = source.length - LAST_LITERALS;
  let anchor = 0;
  for (let at = 0; at <= lastStart; ) {
    places.search(at, matchLimit);
    if (places.bestBytes < MIN_MATCH) {
      at++;
      continue;
    }
    let { bestAt, bestBytes } = places;
    // A longer match that begins one byte later is worth that byte.
    while (bestBytes < LONG_ENOUGH && at + 1 <= lastStart) {
      places.search(at + 1, matchLimit);
      if (places.bestBytes <= bestBytes) {
        break;
      }
      at++;
      ({ bestAt, bestBytes } = places);
    }
    sink.sequence(source, anchor, at, at - bestAt, bestBytes);
    at += bestBytes;
    anchor = at;
  }
  sink.sequence(source, anchor, source.length, 0, 0);
  return sink.bytes;
}

/** The whole frame, in pieces that follow each other. */
export function lz4Legacy(bytes: Buffer): Buffer[] {
  const magic = Buffer.alloc(4);
  magic.writeUInt32LE(MAGIC);
  const parts: Buffer[] = [magic];
  for (let at = 0; at < bytes.length; at += BLOCK_BYTES) {
    const block = lz4Block(bytes.subarray(at, at + BLOCK_BYTES));
    const size = Buffer.alloc(4);
    size.writeUInt32LE(block.length);
    parts.push(size, block);
  }
  return parts;
}
