/** How a subcommand joins the program. */
import type { Command } from 'commander';
import type { Session } from './session';

/** Makes a commander action of a command's work: it gets the session, then what commander passes (arguments, options). */
export type Runner = <Args extends readonly unknown[]>(command: string, work: (session: Session, ...args: Args) => Promise<void> | void) => (...args: unknown[]) => Promise<void>;

export type Registrar = (program: Command, run: Runner) => void;
