/**
 * `make demo`: a private containerd, an image made from busybox, one container in a virtual machine; then everything
 * that was started is removed.
 */
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { release, tmpdir } from 'node:os';
import { join } from 'node:path';
import { IMAGE, makeBusyboxImage } from './busybox-image';
import { PrivateContainerd, ROOT } from './private-containerd';

const RUNTIME = 'io.containerd.kata.v2';
const started = Date.now();

function say(text: string): void {
  console.log(`[${((Date.now() - started) / 1000).toFixed(1).padStart(5)} s] ${text}`);
}

function configuration(folder: string): string {
  const path = join(folder, 'configuration.toml');
  writeFileSync(
    path,
    [
      '[hypervisor.qemu]',
      'path = "/usr/bin/qemu-system-x86_64"',
      `kernel = "${join(ROOT, 'build/guest/vmlinux')}"`,
      `initrd = "${join(ROOT, 'build/guest/initrd.img')}"`,
      'default_memory = 1024',
      '[runtime]',
      'internetworking_model = "tcfilter"',
      'disable_guest_seccomp = true',
      '',
    ].join('\n'),
  );
  return path;
}

/** What the shim's own log line says about the start of a sandbox: VM source and the phases with milliseconds. */
function startReport(log: string, sandbox: string): { source: string; phases: [string, number][] } {
  const line = log.split('\n').find((text) => text.includes('msg="sandbox created"') && text.includes(`sandbox=${sandbox}`)) ?? '';
  const source = /\bvm=(\S+)/.exec(line)?.[1] ?? 'unknown';
  const phases = /\bphases="([^"]*)"/.exec(line)?.[1] ?? '';
  const words = phases.split(',').filter(Boolean);
  return { source, phases: words.map((word) => [word.split('=')[0] ?? '', Number.parseFloat(word.split('=')[1] ?? '')]) };
}

async function main(): Promise<void> {
  for (const needed of ['build/shim.cjs', 'build/guest/vmlinux', 'build/guest/initrd.img']) {
    if (!existsSync(join(ROOT, needed))) {
      throw new Error(`${needed} is missing; run make build guest`);
    }
  }
  const folder = mkdtempSync(join(tmpdir(), 'kata-ts-demo-'));
  let containerd: PrivateContainerd | undefined;
  try {
    say('starting a private containerd (own root, state and socket)');
    containerd = await PrivateContainerd.start({ env: { KATA_CONF_FILE: configuration(folder) } });
    say('importing an image made from busybox-static');
    const image = join(ROOT, 'build/busybox.tar');
    makeBusyboxImage(image);
    await containerd.ctr(['images', 'import', image]);
    say(`ctr run --runtime ${RUNTIME} ${IMAGE} demo uname -a`);
    const before = Date.now();
    const done = await containerd.ctr(['run', '--rm', '--runtime', RUNTIME, IMAGE, 'demo', 'uname', '-a'], { timeoutMs: 180_000 });
    const totalMs = Date.now() - before;
    if (done.code !== 0) {
      throw new Error(`the container did not run (exit code ${String(done.code)}): ${done.stderr.trim()}\ncontainerd's log:\n${containerd.log.slice(-4000)}`);
    }
    const report = startReport(containerd.log, 'demo');
    console.log('');
    console.log(`  host kernel     ${release()}`);
    console.log(`  in the guest    ${done.stdout.trim()}`);
    console.log(`  the VM is from  ${report.source}`);
    console.log('');
    for (const [name, ms] of report.phases) {
      console.log(`  ${name.padEnd(18)} ${ms.toFixed(0).padStart(6)} ms`);
    }
    console.log(`  ${'ctr run, total'.padEnd(18)} ${String(totalMs).padStart(6)} ms`);
    console.log('');
  } finally {
    say('removing all that was started');
    await containerd?.stop();
    rmSync(folder, { recursive: true, force: true });
  }
  say('done');
}

main().catch((reason: unknown) => {
  console.error(`demo: ${reason instanceof Error ? reason.message : String(reason)}`);
  process.exitCode = 1;
});
