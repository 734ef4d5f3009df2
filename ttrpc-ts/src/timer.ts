/** The longest delay that `setTimeout` takes; longer ones fire at once. */
const MAX_DELAY_MS = 0x7fff_ffff;

/** A timer for any span, days included. Returns what stops it. */
export function startTimer(delayMs: number, onExpire: () => void): () => void {
  let remainingMs = delayMs;
  let handle: NodeJS.Timeout;
  const arm = (): void => {
    const stepMs = Math.min(remainingMs, MAX_DELAY_MS);
    remainingMs -= stepMs;
    handle = setTimeout(remainingMs > 0 ? arm : onExpire, Math.ceil(stepMs));
  };
  arm();
  return () => {
    clearTimeout(handle);
  };
}
