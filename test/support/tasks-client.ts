/** containerd's own Tasks service over gRPC, for what ctr has no command for: creating a task without starting it. */
import { BinaryWriter } from '@bufbuild/protobuf/wire';
import { Client, credentials, Metadata } from '@grpc/grpc-js';
import { Mount } from '../../gen/containerd/types/types';

const LIMIT_MS = 60_000;

export class TasksClient {
  private constructor(private readonly client: Client) {}

  /** The caller closes it. */
  static async connect(address: string): Promise<TasksClient> {
    const client = new Client(`unix://${address}`, credentials.createInsecure());
    await new Promise<void>((resolve, reject) => {
      client.waitForReady(Date.now() + LIMIT_MS, (error) => (error === undefined ? resolve() : reject(error)));
    });
    return new TasksClient(client);
  }

  /** `mountCommand` is what `ctr snapshots mounts` prints for the container's snapshot. */
  async create(id: string, mountCommand: string): Promise<void> {
    const [, type = '', source = '', options = ''] = /mount -t (\S+) (\S+) \S+ -o (\S+)/.exec(mountCommand) ?? [];
    const rootfs = Mount.encode({ type, source, target: '', options: options.split(',') }).finish();
    const request = new BinaryWriter().uint32(10).string(id).uint32(26).bytes(rootfs);
    await this.call('Create', request.finish());
  }

  async start(id: string): Promise<void> {
    await this.call('Start', new BinaryWriter().uint32(10).string(id).finish());
  }

  close(): void {
    this.client.close();
  }

  private async call(method: string, request: Uint8Array): Promise<Buffer> {
    const metadata = new Metadata();
    metadata.set('containerd-namespace', 'default');
    return new Promise((resolve, reject) => {
      const path = `/containerd.services.tasks.v1.Tasks/${method}`;
      this.client.makeUnaryRequest(path, (bytes: Uint8Array) => Buffer.from(bytes), (bytes: Buffer) => bytes, request, metadata, { deadline: Date.now() + LIMIT_MS }, (error, answer) => {
        if (error !== null) {
          reject(error);
        } else {
          resolve(answer ?? Buffer.alloc(0));
        }
      });
    });
  }
}
