import { KataError } from '../base/errors';

/** What containerd (1.6 to 2.3), cri-o and our launcher put on the command line. */
export interface ShimArgs {
  /** First word that is no flag; '' if there is none. */
  readonly action: string;
  readonly namespace: string;
  readonly id: string;
  /** containerd's gRPC socket; empty under cri-o. */
  readonly address: string;
  readonly publishBinary: string;
  /** `delete` only; else the working directory. */
  readonly bundle: string;
  readonly debug: boolean;
  readonly version: boolean;
  readonly info: boolean;
  /** Ours: the descriptor on which the launcher waits for the reply of `start`. */
  readonly replyFd: number | undefined;
  /** Flags that we do not know; to be logged. */
  readonly unknown: readonly string[];
}

const WITH_VALUE: ReadonlySet<string> = new Set(['namespace', 'id', 'address', 'publish-binary', 'bundle', 'socket', 'debug-socket', 'reply-fd']);
const SWITCHES: ReadonlySet<string> = new Set(['debug', 'v', 'version', 'info']);

/**
 * Go's flag syntax: `-x v`, `--x v`, `-x=v`, switches, empty values; the first other word ends the flags. An unknown
 * flag is skipped, with its value if the next word looks like one.
 */
export function parseArgs(words: readonly string[]): ShimArgs {
  const values = new Map<string, string>();
  const switches = new Set<string>();
  const unknown: string[] = [];
  let at = 0;
  for (; at < words.length; at++) {
    const word = words[at] ?? '';
    const match = /^--?([^=-][^=]*)(?:=(.*))?$/s.exec(word);
    if (match === null) {
      at += word === '--' ? 1 : 0;
      break;
    }
    const name = match[1] ?? '';
    const inline = match[2];
    if (SWITCHES.has(name)) {
      if (inline === undefined || /^(1|t|true)$/i.test(inline)) {
        switches.add(name);
      }
    } else if (WITH_VALUE.has(name)) {
      if (inline === undefined && at + 1 >= words.length) {
        throw new KataError('InvalidArgument', `flag needs an argument: -${name}`);
      }
      values.set(name, inline ?? words[++at] ?? '');
    } else {
      unknown.push(name);
      // The action comes last: a word right before another word can only be this flag's value.
      const next = words[at + 1];
      if (inline === undefined && next !== undefined && !next.startsWith('-') && at + 2 < words.length) {
        at++;
      }
    }
  }
  const replyFd = values.get('reply-fd');
  return {
    action: words[at] ?? '',
    namespace: values.get('namespace') ?? '',
    id: values.get('id') ?? '',
    address: values.get('address') ?? '',
    publishBinary: values.get('publish-binary') ?? '',
    bundle: values.get('bundle') ?? '',
    debug: switches.has('debug'),
    version: switches.has('v') || switches.has('version'),
    info: switches.has('info'),
    replyFd: replyFd === undefined || !/^\d{1,4}$/.test(replyFd) ? undefined : Number(replyFd),
    unknown,
  };
}
