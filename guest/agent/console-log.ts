import { writeSync } from 'node:fs';
import { Logger } from '../../base/log';

/** Bytes of log per second that reach the console: a slow console blocks its writer. */
const BYTES_PER_SECOND = 64 * 1024;
const MAX_LINE_BYTES = 4096;

let windowStartMs = 0;
let usedBytes = 0;
let droppedLines = 0;

function write(line: string): void {
  const now = performance.now();
  if (now - windowStartMs > 1000) {
    windowStartMs = now;
    usedBytes = 0;
    if (droppedLines > 0) {
      emit(`level=warning msg="log lines dropped" count=${String(droppedLines)}\n`);
      droppedLines = 0;
    }
  }
  const cut = line.length > MAX_LINE_BYTES ? `${line.slice(0, MAX_LINE_BYTES)}...\n` : line;
  usedBytes += cut.length;
  if (usedBytes > BYTES_PER_SECOND) {
    droppedLines++;
    return;
  }
  emit(cut);
}

function emit(text: string): void {
  try {
    writeSync(2, text);
  } catch {
    // No console, or a full one: the agent goes on without its log.
  }
}

/** The agent's log: logfmt on the console (descriptor 2), bounded. */
export const log = Logger.to(write, 'info', { source: 'agent' });
