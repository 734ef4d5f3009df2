/** What a caller may give as metadata. */
export type MetadataInit = Metadata | Readonly<Record<string, string | readonly string[]>>;

/** Values sent beside a request: any keys, case kept, several values per key in order. */
export class Metadata {
  private readonly lists = new Map<string, string[]>();

  /** Makes one from a plain object, or gives back the one passed in. */
  static from(init: MetadataInit): Metadata {
    if (init instanceof Metadata) {
      return init;
    }
    const metadata = new Metadata();
    for (const [key, values] of Object.entries(init)) {
      for (const value of typeof values === 'string' ? [values] : values) {
        metadata.append(key, value);
      }
    }
    return metadata;
  }

  /** The first value of a key. */
  get(key: string): string | undefined {
    return this.lists.get(key)?.[0];
  }

  /** All values of a key, in order; empty when there is none. */
  getAll(key: string): readonly string[] {
    return this.lists.get(key) ?? [];
  }

  /** Replaces the values of a key. */
  set(key: string, ...values: string[]): this {
    this.lists.set(key, values);
    return this;
  }

  /** Adds a value behind those that the key has. */
  append(key: string, value: string): this {
    const list = this.lists.get(key);
    if (list === undefined) {
      this.lists.set(key, [value]);
    } else {
      list.push(value);
    }
    return this;
  }

  /** Every key with its values. */
  entries(): IterableIterator<[string, readonly string[]]> {
    return this.lists.entries();
  }

  /** How many keys there are. */
  get size(): number {
    return this.lists.size;
  }
}
