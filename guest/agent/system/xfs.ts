/** Growth of a mounted xfs by the kernel's own calls (linux/fs/xfs/libxfs/xfs_fs.h), so that the guest needs no xfsprogs. */
import { closeSync, constants, openSync } from 'node:fs';
import { KataError } from '../../../base/errors';
import { errnoError, ioctl } from '../../../base/syscalls';

/** `_IOR('X', 100, struct xfs_fsop_geom_v1)`: the oldest form, which every kernel answers. */
const XFS_IOC_FSGEOMETRY_V1 = 0x8070_5864;
/** `_IOW('X', 110, struct xfs_growfs_data)`. */
const XFS_IOC_FSGROWFSDATA = 0x4010_586e;
const GEOMETRY_BYTES = 112;

export interface XfsGeometry {
  readonly blockSizeBytes: number;
  /** Share of the file system that inodes may take, per cent. */
  readonly maxInodePercent: number;
  readonly dataBlocks: bigint;
}

/** `struct xfs_fsop_geom_v1` as the kernel filled it in. */
export function parseGeometry(bytes: Buffer): XfsGeometry {
  return { blockSizeBytes: bytes.readUInt32LE(0), maxInodePercent: bytes.readUInt32LE(28), dataBlocks: bytes.readBigUInt64LE(32) };
}

/** `struct xfs_growfs_data` that fills a device of this size; undefined where there is nothing to grow. */
export function growRequest(geometry: XfsGeometry, deviceBytes: bigint): Buffer | undefined {
  const blocks = deviceBytes / BigInt(geometry.blockSizeBytes);
  if (blocks <= geometry.dataBlocks) {
    return undefined;
  }
  const request = Buffer.alloc(16);
  request.writeBigUInt64LE(blocks, 0);
  request.writeUInt32LE(geometry.maxInodePercent, 8);
  return request;
}

function checked(result: number, what: string): void {
  if (result < 0) {
    throw KataError.from(errnoError(result, what), what);
  }
}

/** Grows the xfs that is mounted at `target` to its device's size; nothing to do where it has that size. */
export function growXfs(target: string, deviceBytes: bigint): void {
  const fd = openSync(target, constants.O_RDONLY | constants.O_DIRECTORY);
  try {
    const bytes = Buffer.alloc(GEOMETRY_BYTES);
    checked(ioctl(fd, XFS_IOC_FSGEOMETRY_V1, bytes), `read the geometry of xfs at ${target}`);
    const request = growRequest(parseGeometry(bytes), deviceBytes);
    if (request !== undefined) {
      checked(ioctl(fd, XFS_IOC_FSGROWFSDATA, request), `grow xfs at ${target}`);
    }
  } finally {
    closeSync(fd);
  }
}
