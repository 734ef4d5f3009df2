/** A tar archive (ustar) of text files. */
const BLOCK = 512;

function header(name: string, size: number, mtimeSeconds: number): Buffer {
  const block = Buffer.alloc(BLOCK);
  // ustar splits a long name at a slash: prefix (155) and name (100).
  const split = Buffer.byteLength(name) <= 100 ? -1 : name.lastIndexOf('/', 154);
  block.write(split < 0 ? name.slice(-100) : name.slice(split + 1).slice(-100), 0, 100, 'utf8');
  block.write(split < 0 ? '' : name.slice(0, split), 345, 155, 'utf8');
  block.write('0000600\0', 100, 'latin1');
  block.write('0000000\0', 108, 'latin1');
  block.write('0000000\0', 116, 'latin1');
  block.write(`${size.toString(8).padStart(11, '0')}\0`, 124, 'latin1');
  block.write(`${mtimeSeconds.toString(8).padStart(11, '0')}\0`, 136, 'latin1');
  block.write('        0', 148, 'latin1');
  block.write('ustar\u000000', 257, 'latin1');
  const sum = block.reduce((total, byte) => total + byte, 0);
  block.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148, 'latin1');
  return block;
}

/** The archive's bytes. */
export function tarOf(files: readonly { readonly name: string; readonly text: string }[], at: Date): Buffer {
  const seconds = Math.floor(at.getTime() / 1000);
  const parts = files.flatMap(({ name, text }) => {
    const content = Buffer.from(text);
    return [header(name, content.length, seconds), content, Buffer.alloc((BLOCK - (content.length % BLOCK)) % BLOCK)];
  });
  return Buffer.concat([...parts, Buffer.alloc(2 * BLOCK)]);
}
