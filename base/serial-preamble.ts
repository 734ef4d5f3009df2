/**
 * Opening of the virtio-serial agent channel. A serial port has no connection boundary: the guest may miss that the
 * host went away and came back, and a frame cut in the middle would put the stream out of step for ever. So each
 * connection of the host starts with a preamble that cannot occur by accident (magic, random nonce, checksum over
 * both); the guest drops everything until it sees one, answers with the echo of the nonce, and only then the ttrpc
 * stream starts. The guest looks for it all the time: a preamble in mid-stream ends the old connection.
 *
 * Bytes: `magic[16] nonce[16] sum[4]`; host and guest have a magic each; sum is FNV-1a over what is before it.
 */
export const PREAMBLE_BYTES = 36;
export const NONCE_BYTES = 16;

const MAGIC_SEED = { host: 'kata-ts/serial/h', guest: 'kata-ts/serial/g' } as const;

export type PreambleSide = keyof typeof MAGIC_SEED;

/** Computed at run time: the wire form of the magic is in no file that could travel through the channel. */
function magic(side: PreambleSide): Buffer {
  const bytes = Buffer.from(MAGIC_SEED[side], 'latin1');
  for (let i = 0; i < bytes.length; i++) {
    bytes[i] = ((bytes[i] ?? 0) * 73 + i * 41 + 0x5b) & 0xff;
  }
  return bytes;
}

function checksum(bytes: Uint8Array): number {
  let hash = 0x811c9dc5;
  for (const byte of bytes) {
    hash = Math.imul(hash ^ byte, 0x01000193) >>> 0;
  }
  return hash;
}

/** The preamble of one side with this nonce (16 bytes). */
export function encodePreamble(side: PreambleSide, nonce: Uint8Array): Buffer {
  const out = Buffer.alloc(PREAMBLE_BYTES);
  magic(side).copy(out, 0);
  out.set(nonce, 16);
  out.writeUInt32BE(checksum(out.subarray(0, 32)), 32);
  return out;
}

export type ScanEvent = { readonly kind: 'data'; readonly bytes: Buffer } | { readonly kind: 'preamble'; readonly nonce: Buffer };

/**
 * Finds preambles of one side in a byte stream, whatever the chunking. Bytes that may be the start of one are held
 * back until it is clear (at most 35 bytes, and only if they match the magic so far).
 */
export class PreambleScanner {
  private readonly wanted: Buffer;
  private held = Buffer.alloc(0);

  constructor(side: PreambleSide) {
    this.wanted = magic(side);
  }

  /** Feeds a chunk; returns data and preambles in stream order. Data may be views of the chunk. */
  push(chunk: Buffer): ScanEvent[] {
    const events: ScanEvent[] = [];
    let rest = this.held.length > 0 ? Buffer.concat([this.held, chunk]) : chunk;
    this.held = Buffer.alloc(0);
    let dataEnd = 0;
    for (;;) {
      const at = this.find(rest, dataEnd);
      if (at < 0) {
        break;
      }
      if (rest.length - at < PREAMBLE_BYTES) {
        this.held = Buffer.from(rest.subarray(at));
        rest = rest.subarray(0, at);
        break;
      }
      const candidate = rest.subarray(at, at + PREAMBLE_BYTES);
      if (candidate.readUInt32BE(32) !== checksum(candidate.subarray(0, 32))) {
        dataEnd = at + 1;
        continue;
      }
      if (at > 0) {
        events.push({ kind: 'data', bytes: rest.subarray(0, at) });
      }
      events.push({ kind: 'preamble', nonce: Buffer.from(candidate.subarray(16, 32)) });
      rest = rest.subarray(at + PREAMBLE_BYTES);
      dataEnd = 0;
    }
    if (rest.length > 0) {
      events.push({ kind: 'data', bytes: rest });
    }
    return events;
  }

  /** Offset of the first full or cut-off magic at or after `from`, -1 if there is none. */
  private find(bytes: Buffer, from: number): number {
    const full = bytes.indexOf(this.wanted, from);
    if (full >= 0) {
      return full;
    }
    for (let at = Math.max(from, bytes.length - this.wanted.length + 1); at < bytes.length; at++) {
      if (this.wanted.subarray(0, bytes.length - at).equals(bytes.subarray(at))) {
        return at;
      }
    }
    return -1;
  }
}
