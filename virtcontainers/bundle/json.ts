/** JSON whose integers beyond 2^53 stay exact. */

const STRING_OR_NUMBER = /"[^"\\]*(?:\\.[^"\\]*)*"|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?/gs;

/**
 * As JSON.parse, but an integer that a number cannot hold exactly becomes a bigint. Text without such an integer, which
 * is nearly all, costs one scan more than JSON.parse. Throws SyntaxError.
 */
export function parseExactJson(text: string): unknown {
  if (!/\d{16}/.test(text)) {
    return JSON.parse(text);
  }
  // A mark that no string of the text starts with, not even one that is written with escapes.
  const mark = `#int:${Math.random().toString(36)}${process.hrtime.bigint().toString(36)}:`;
  const marked = text.replace(STRING_OR_NUMBER, (token) => {
    if (token.length < 16 || !/^-?\d+$/.test(token) || Number.isSafeInteger(Number(token))) {
      return token;
    }
    return `"${mark}${token}"`;
  });
  if (marked === text) {
    return JSON.parse(text);
  }
  return JSON.parse(marked, (_key, value: unknown) => (typeof value === 'string' && value.startsWith(mark) ? BigInt(value.slice(mark.length)) : value));
}
