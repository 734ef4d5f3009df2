/** A headless Chromium, driven by the DevTools protocol over its pipe (descriptors 3 and 4, messages end with a zero byte). */
import { spawn, type ChildProcess } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Readable, Writable } from 'node:stream';
import { until } from './kata-monitor';

export const CHROMIUM = '/usr/bin/chromium-headless-shell';
const CALL_TIMEOUT_MS = 60_000;

interface Message {
  readonly id?: number;
  readonly method?: string;
  readonly params?: Readonly<Record<string, unknown>>;
  readonly result?: Readonly<Record<string, unknown>>;
  readonly error?: { readonly message: string };
}

type Waiting = (message: Message) => void;

export class Chromium {
  private nextId = 1;
  private readonly waiting = new Map<number, Waiting>();
  private pending = '';
  private session = '';
  private loaded: () => void = () => undefined;
  /** Exceptions of scripts, errors of the console, what the page could not load. */
  readonly problems: string[] = [];

  private constructor(
    private readonly child: ChildProcess,
    private readonly profile: string,
    private readonly input: Writable,
    output: Readable,
  ) {
    output.on('data', (part: Buffer) => {
      const messages = (this.pending + part.toString()).split('\0');
      this.pending = messages.pop() ?? '';
      for (const text of messages) {
        this.take(JSON.parse(text) as Message);
      }
    });
  }

  static async start(): Promise<Chromium> {
    if (!existsSync(CHROMIUM)) {
      throw new Error(`${CHROMIUM} is missing: run hack/setup.sh test`);
    }
    const profile = mkdtempSync(join(tmpdir(), 'kata-ts-chromium-'));
    const args = ['--headless', '--no-sandbox', '--disable-gpu', '--remote-debugging-pipe', `--user-data-dir=${profile}`, '--hide-scrollbars', 'about:blank'];
    // A process group of its own: its processes outlive the first one for a moment.
    const child = spawn(CHROMIUM, args, { detached: true, stdio: ['ignore', 'ignore', 'ignore', 'pipe', 'pipe'] });
    const browser = new Chromium(child, profile, child.stdio[3] as Writable, child.stdio[4] as Readable);
    const { targetInfos } = await browser.call('Target.getTargets', {});
    const tab = (targetInfos as { targetId: string; type: string }[]).find(({ type }) => type === 'page');
    browser.session = (await browser.call('Target.attachToTarget', { targetId: tab?.targetId, flatten: true }))['sessionId'] as string;
    for (const domain of ['Page', 'Runtime', 'Log', 'Network']) {
      await browser.call(`${domain}.enable`, {});
    }
    return browser;
  }

  private take(message: Message): void {
    if (message.id !== undefined) {
      this.waiting.get(message.id)?.(message);
      this.waiting.delete(message.id);
    } else if (message.method === 'Page.loadEventFired') {
      this.loaded();
    } else if (message.method === 'Runtime.exceptionThrown' || message.method === 'Network.loadingFailed') {
      this.problems.push(JSON.stringify(message.params));
    } else if (message.method === 'Log.entryAdded' || message.method === 'Runtime.consoleAPICalled') {
      const text = JSON.stringify(message.params);
      if (/"(level|type)":"(error|warning)"/.test(text)) {
        this.problems.push(text);
      }
    }
  }

  private async call(method: string, params: object): Promise<Readonly<Record<string, unknown>>> {
    const id = this.nextId++;
    const answer = await new Promise<Message>((resolve, reject) => {
      const timer = setTimeout(() => reject(new Error(`chromium did not answer ${method}`)), CALL_TIMEOUT_MS);
      this.waiting.set(id, (message) => {
        clearTimeout(timer);
        resolve(message);
      });
      this.input.write(`${JSON.stringify({ id, method, params, ...(this.session === '' ? {} : { sessionId: this.session }) })}\0`);
    });
    if (answer.error !== undefined) {
      throw new Error(`${method}: ${answer.error.message}`);
    }
    return answer.result ?? {};
  }

  /** Size of the window in CSS pixels, and which colours the person prefers. */
  async look(width: number, height: number, colours: 'light' | 'dark'): Promise<void> {
    await this.call('Emulation.setDeviceMetricsOverride', { width, height, deviceScaleFactor: 1, mobile: false });
    await this.call('Emulation.setEmulatedMedia', { features: [{ name: 'prefers-color-scheme', value: colours }] });
  }

  /** Opens `url` and waits until it is loaded. */
  async open(url: string): Promise<void> {
    const loaded = new Promise<void>((resolve) => {
      this.loaded = resolve;
    });
    await this.call('Page.navigate', { url });
    await loaded;
  }

  /** Value of an expression in the page; it must be JSON. */
  async evaluate(expression: string): Promise<unknown> {
    const { result, exceptionDetails } = await this.call('Runtime.evaluate', { expression, returnByValue: true, awaitPromise: true });
    if (exceptionDetails !== undefined) {
      throw new Error(JSON.stringify(exceptionDetails));
    }
    return (result as { value?: unknown }).value;
  }

  /** A click in the middle of what `selector` finds, as a mouse does it. */
  async click(selector: string): Promise<void> {
    const at = (await this.evaluate(`(() => { const e = document.querySelector(${JSON.stringify(selector)}); e.scrollIntoView(); const b = e.getBoundingClientRect(); return { x: b.x + b.width / 2, y: b.y + b.height / 2 }; })()`)) as object;
    const loaded = new Promise<void>((resolve) => {
      this.loaded = resolve;
    });
    for (const type of ['mousePressed', 'mouseReleased']) {
      await this.call('Input.dispatchMouseEvent', { type, ...at, button: 'left', clickCount: 1 });
    }
    await loaded;
  }

  /** PNG of what is seen. */
  async screenshot(): Promise<Buffer> {
    const { data } = await this.call('Page.captureScreenshot', { format: 'png' });
    return Buffer.from(data as string, 'base64');
  }

  /** Ends all of its processes, and only then removes the profile, which they write to until they end. */
  async stop(): Promise<void> {
    const { pid } = this.child;
    this.input.end();
    if (pid !== undefined) {
      killGroup(pid);
      await until('all processes of Chromium have ended', () => livingInGroup(pid).length === 0);
    }
    rmSync(this.profile, { recursive: true, force: true });
  }
}

function killGroup(pid: number): void {
  try {
    process.kill(-pid, 'SIGKILL');
  } catch {
    // All have ended.
  }
}

/** Processes of a group that can still write: not those that have ended and that nobody has waited for. */
function livingInGroup(group: number): number[] {
  return readdirSync('/proc')
    .map(Number)
    .filter((pid) => {
      try {
        const [state, , ofGroup] = readFileSync(`/proc/${String(pid)}/stat`, 'utf8').replace(/^.*\) /s, '').split(' ');
        return Number(ofGroup) === group && state !== 'Z';
      } catch {
        return false;
      }
    });
}
