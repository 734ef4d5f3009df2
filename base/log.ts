/** Log levels, least to most severe. */
export type LogLevel = 'debug' | 'info' | 'warn' | 'error';

export type LogFields = Readonly<Record<string, string | number | boolean | bigint | undefined>>;

/** Takes one finished line, newline included. Must never throw and never block. */
export type LogSink = (line: string) => void;

const SEVERITY: Readonly<Record<LogLevel, number>> = { debug: 0, info: 1, warn: 2, error: 3 };

/** A value as logfmt wants it: bare if it is one plain word, else quoted with escapes. */
export function logfmtValue(value: string | number | boolean | bigint): string {
  const text = String(value);
  return /^[A-Za-z0-9_./:@+,-]+$/.test(text) ? text : JSON.stringify(text);
}

/**
 * Writes logfmt lines in the form that containerd's own log has (`time= level= msg= key=value`). Loggers share one
 * destination: `with` adds fields, the destination and level of the root hold for all.
 */
export class Logger {
  private constructor(
    private readonly target: { sink: LogSink; level: LogLevel },
    private readonly fields: LogFields,
  ) {}

  /** A root logger. */
  static to(sink: LogSink, level: LogLevel = 'info', fields: LogFields = {}): Logger {
    return new Logger({ sink, level }, fields);
  }

  /** A logger that drops everything. */
  static none(): Logger {
    return Logger.to(() => undefined, 'error');
  }

  /** The same destination with more fields on every line. */
  with(fields: LogFields): Logger {
    return new Logger(this.target, { ...this.fields, ...fields });
  }

  /** Changes the level for this logger and all that share its root. */
  setLevel(level: LogLevel): void {
    this.target.level = level;
  }

  /** Changes the destination for this logger and all that share its root. */
  setSink(sink: LogSink): void {
    this.target.sink = sink;
  }

  debug(message: string, fields?: LogFields): void {
    this.write('debug', message, fields);
  }

  info(message: string, fields?: LogFields): void {
    this.write('info', message, fields);
  }

  warn(message: string, fields?: LogFields): void {
    this.write('warn', message, fields);
  }

  error(message: string, fields?: LogFields): void {
    this.write('error', message, fields);
  }

  private write(level: LogLevel, message: string, fields: LogFields = {}): void {
    if (SEVERITY[level] < SEVERITY[this.target.level]) {
      return;
    }
    const words = [`time="${new Date().toISOString()}"`, `level=${level === 'warn' ? 'warning' : level}`, `msg=${logfmtValue(message)}`];
    for (const [key, value] of Object.entries({ ...this.fields, ...fields })) {
      if (value !== undefined) {
        words.push(`${key}=${logfmtValue(value)}`);
      }
    }
    this.target.sink(`${words.join(' ')}\n`);
  }
}
