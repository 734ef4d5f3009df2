/** Annotations that each container may carry: `io.katacontainers.container.resource.*`. */
import { badAnnotation } from './annotation-values';

const SWAPPINESS = 'io.katacontainers.container.resource.swappiness';
const SWAP_IN_BYTES = 'io.katacontainers.container.resource.swap_in_bytes';

export interface ContainerSwap {
  /** 0 to 200. */
  readonly swappiness: number | undefined;
  readonly swapBytes: bigint | undefined;
}

/** InvalidArgument for what is no number (decimal, 0x, 0o, 0b, or octal by a leading 0, as Go reads it). */
export function containerSwap(annotations: Readonly<Record<string, string>> | undefined): ContainerSwap {
  const swappiness = goInteger(SWAPPINESS, annotations?.[SWAPPINESS]);
  if (swappiness !== undefined && swappiness > 200n) {
    throw badAnnotation(SWAPPINESS, `${String(swappiness)} is more than 200`, 'a number from 0 to 200');
  }
  return { swappiness: swappiness === undefined ? undefined : Number(swappiness), swapBytes: goInteger(SWAP_IN_BYTES, annotations?.[SWAP_IN_BYTES]) };
}

function goInteger(name: string, text: string | undefined): bigint | undefined {
  if (text === undefined) {
    return undefined;
  }
  const octal = /^0[0-7]+$/.test(text) ? `0o${text.slice(1)}` : text;
  if (!/^(0[xX][0-9a-fA-F]{1,16}|0[oO][0-7]{1,21}|0[bB][01]{1,63}|0|[1-9]\d{0,18})$/.test(octal)) {
    throw badAnnotation(name, `Please specify positive numeric value, not ${JSON.stringify(text.slice(0, 80))}`, 'bytes or percent, without unit');
  }
  return BigInt(octal);
}
