/** kata-monitor's figures about itself. prom-client is loaded here and nowhere else. */
import { collectDefaultMetrics, Counter, Gauge, Histogram, Registry } from 'prom-client';

export class OwnMetrics {
  private readonly registry = new Registry();
  readonly running = new Gauge({ name: 'kata_monitor_running_shim_count', help: 'Running shim count(running sandboxes).', registers: [this.registry] });
  readonly scrapes = new Counter({ name: 'kata_monitor_scrape_count', help: 'Scape count.', registers: [this.registry] });
  readonly failed = new Counter({ name: 'kata_monitor_scrape_failed_count', help: 'Failed scape count.', registers: [this.registry] });
  readonly durations = new Histogram({
    name: 'kata_monitor_scrape_durations_histogram_milliseconds',
    help: 'Time used to scrape from shims',
    buckets: [1, 2, 4, 8, 16, 32, 64, 128, 256, 512],
    registers: [this.registry],
  });

  constructor() {
    collectDefaultMetrics({ register: this.registry, prefix: 'kata_monitor_' });
  }

  async text(): Promise<string> {
    return this.registry.metrics();
  }
}
