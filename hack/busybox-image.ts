/** Makes an OCI image (tar) from Debian's static busybox: enough of a userland for demo, tests and benchmarks. */
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { chmodSync, copyFileSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

export const IMAGE = 'docker.io/library/busybox:kata-ts';

interface Descriptor {
  mediaType: string;
  digest: string;
  size: number;
}

function addBlob(layout: string, mediaType: string, bytes: Buffer): Descriptor {
  const hash = createHash('sha256').update(bytes).digest('hex');
  writeFileSync(join(layout, 'blobs/sha256', hash), bytes);
  return { mediaType, digest: `sha256:${hash}`, size: bytes.length };
}

function makeRootfs(rootfs: string, busybox: string): void {
  for (const folder of ['bin', 'sbin', 'usr/bin', 'usr/sbin', 'etc', 'root', 'tmp', 'dev', 'proc', 'sys', 'run', 'home/user', 'var/log']) {
    mkdirSync(join(rootfs, folder), { recursive: true });
  }
  copyFileSync(busybox, join(rootfs, 'bin/busybox'));
  chmodSync(join(rootfs, 'bin/busybox'), 0o755);
  chmodSync(join(rootfs, 'tmp'), 0o1777);
  for (const applet of execFileSync(busybox, ['--list-full']).toString().split('\n').filter(Boolean)) {
    const link = join(rootfs, applet);
    if (!existsSync(link) && existsSync(join(link, '..'))) {
      symlinkSync('/bin/busybox', link);
    }
  }
  writeFileSync(join(rootfs, 'etc/passwd'), 'root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000:user:/home/user:/bin/sh\n');
  writeFileSync(join(rootfs, 'etc/group'), 'root:x:0:\nwheel:x:10:root\nuser:x:1000:\nextra:x:2000:user\n');
}

export interface ImageOptions {
  readonly busybox?: string;
  /** Full name with tag. */
  readonly name?: string;
  readonly command?: readonly string[];
}

/** Writes the image to `target` unless it is there and newer than busybox. */
export function makeBusyboxImage(target: string, { busybox = '/bin/busybox', name = IMAGE, command = ['sh'] }: ImageOptions = {}): void {
  if (existsSync(target) && statSync(target).mtimeMs >= statSync(busybox).mtimeMs) {
    return;
  }
  const work = mkdtempSync(join(tmpdir(), 'kata-ts-image-'));
  try {
    const rootfs = join(work, 'rootfs');
    const layout = join(work, 'layout');
    mkdirSync(join(layout, 'blobs/sha256'), { recursive: true });
    makeRootfs(rootfs, busybox);
    execFileSync('tar', ['--sort=name', '--mtime=@0', '--owner=0', '--group=0', '--numeric-owner', '-cf', join(work, 'layer.tar'), '-C', rootfs, '.']);
    const layerBytes = readFileSync(join(work, 'layer.tar'));
    const layer = addBlob(layout, 'application/vnd.oci.image.layer.v1.tar', layerBytes);
    const config = addBlob(
      layout,
      'application/vnd.oci.image.config.v1+json',
      Buffer.from(
        JSON.stringify({
          architecture: process.arch === 'arm64' ? 'arm64' : 'amd64',
          os: 'linux',
          config: { Cmd: command, Env: ['PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'] },
          rootfs: { type: 'layers', diff_ids: [layer.digest] },
        }),
      ),
    );
    const manifest = addBlob(
      layout,
      'application/vnd.oci.image.manifest.v1+json',
      Buffer.from(JSON.stringify({ schemaVersion: 2, mediaType: 'application/vnd.oci.image.manifest.v1+json', config, layers: [layer] })),
    );
    const annotations = { 'io.containerd.image.name': name, 'org.opencontainers.image.ref.name': 'kata-ts' };
    writeFileSync(join(layout, 'index.json'), JSON.stringify({ schemaVersion: 2, manifests: [{ ...manifest, annotations }] }));
    writeFileSync(join(layout, 'oci-layout'), JSON.stringify({ imageLayoutVersion: '1.0.0' }));
    execFileSync('tar', ['-cf', target, '-C', layout, '.']);
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}
