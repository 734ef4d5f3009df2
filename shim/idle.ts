/** When a shim that nobody needs ends by itself. */

/** Time without any caller and any task after which a shim ends. Hosts dial within milliseconds of `start`. */
export const IDLE_TIMEOUT_MS = 30_000;

/**
 * Counts callers. Calls `onIdle`, once, when there has been none for `timeoutMs` and no task is there either: the host
 * died between `start` and Create, or between the last Delete and Shutdown, and will not come back to this shim. While
 * a task is there the shim waits for its host for ever.
 */
export class IdleWatch {
  private callers = 0;
  private timer: NodeJS.Timeout | undefined;
  private isOver = false;

  constructor(
    private readonly options: { readonly timeoutMs: number; readonly isEmpty: () => boolean; readonly onIdle: () => void },
  ) {
    this.arm();
  }

  /** A caller has connected; returns what to call, once, when it is gone. */
  enter(): () => void {
    this.callers++;
    clearTimeout(this.timer);
    return () => {
      this.callers--;
      this.arm();
    };
  }

  /** Ends the watch. */
  stop(): void {
    this.isOver = true;
    clearTimeout(this.timer);
  }

  private arm(): void {
    if (this.callers > 0 || this.isOver) {
      return;
    }
    clearTimeout(this.timer);
    this.timer = setTimeout(() => {
      // Without a caller nothing can make a task, and one that is there needs a caller to be deleted: it will re-arm.
      if (this.options.isEmpty()) {
        this.isOver = true;
        this.options.onIdle();
      }
    }, this.options.timeoutMs);
    this.timer.unref();
  }
}
