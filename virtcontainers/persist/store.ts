/** The state folder of one sandbox. */
import { mkdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { writeFileAtomic } from '../../base/atomic-file';
import { errnoOf, KataError } from '../../base/errors';
import { checkId } from '../../base/ids';
import { formatDocument, parseDocument, type DocumentInput, type OwnState } from './document';

const MAX_BYTES = 4 * 1024 * 1024;

export class SandboxStore {
  readonly folder: string;
  private readonly path: string;

  constructor(stateRoot: string, sandboxId: string) {
    this.folder = join(stateRoot, checkId(sandboxId, 'sandbox'));
    this.path = join(this.folder, 'persist.json');
  }

  /** Makes the folder (0700). False if it is there already. */
  create(): boolean {
    try {
      mkdirSync(dirname(this.folder), { recursive: true, mode: 0o700 });
      // Not recursive: that says "no such file" where the file system is read-only.
      mkdirSync(this.folder, { mode: 0o700 });
      return true;
    } catch (reason) {
      if (errnoOf(reason) === 'EEXIST') {
        return false;
      }
      throw KataError.from(reason, `make the state folder ${this.folder}`, { hint: 'check free space and permissions' });
    }
  }

  /** Replaces the document, all or nothing. */
  save(input: DocumentInput): void {
    writeFileAtomic(this.path, formatDocument(input), 0o600);
  }

  /** Undefined where there is none; DataLoss for a broken one. */
  load(): OwnState | undefined {
    try {
      if (statSync(this.path).size > MAX_BYTES) {
        throw new KataError('DataLoss', `read ${this.path}: larger than ${String(MAX_BYTES)} bytes`);
      }
      return parseDocument(readFileSync(this.path, 'utf8'), this.path);
    } catch (reason) {
      if (errnoOf(reason) === 'ENOENT') {
        return undefined;
      }
      throw reason;
    }
  }

  /** Removes the folder with all in it. */
  remove(): void {
    rmSync(this.folder, { recursive: true, force: true });
  }
}
