/** Checks the types of what kata-ts reads in a config.json: code behind it may trust `OciSpec`. */
import { KataError } from '../../base/errors';
import type { OciSpec } from '../../base/oci-spec';

/** Tells why a value does not fit: the path in the document and what was wanted; undefined if it fits. */
type Rule = (value: unknown, at: string) => string | undefined;

const kind =
  (wanted: string, fits: (value: unknown) => boolean): Rule =>
  (value, at) =>
    fits(value) ? undefined : `${at} is ${nameOf(value)}, wanted ${wanted}`;

const string = kind('a string', (value) => typeof value === 'string' && !value.includes('\0'));
const boolean = kind('true or false', (value) => typeof value === 'boolean');
/** Exact whatever its size. */
const integer = kind('an integer', (value) => typeof value === 'bigint' || (typeof value === 'number' && Number.isInteger(value)));
/** Fits a number: ids, counts, seconds. */
const small = kind('an integer', (value) => typeof value === 'number' && Number.isSafeInteger(value));

/** `null` stands for absent, as Go writes empty slices and maps. */
const listOf =
  (rule: Rule): Rule =>
  (value, at) => {
    if (!Array.isArray(value)) {
      return `${at} is ${nameOf(value)}, wanted a list`;
    }
    for (const [index, item] of value.entries()) {
      const problem = rule(item, `${at}[${String(index)}]`);
      if (problem !== undefined) {
        return problem;
      }
    }
    return undefined;
  };

const mapOf =
  (rule: Rule): Rule =>
  (value, at) => {
    if (!isObject(value)) {
      return `${at} is ${nameOf(value)}, wanted an object`;
    }
    for (const [key, item] of Object.entries(value)) {
      const problem = rule(item, `${at}["${key.slice(0, 80)}"]`);
      if (problem !== undefined) {
        return problem;
      }
    }
    return undefined;
  };

/** An object with these members where present; `needed` must be. Members that nobody reads are left alone. */
const objectOf =
  (members: Readonly<Record<string, Rule>>, needed: readonly string[] = []): Rule =>
  (value, at) => {
    if (!isObject(value)) {
      return `${at === '' ? 'the document' : at} is ${nameOf(value)}, wanted an object`;
    }
    for (const [key, rule] of Object.entries(members)) {
      const path = at === '' ? key : `${at}.${key}`;
      const member = value[key];
      if (member === null) {
        Reflect.deleteProperty(value, key);
      }
      if (member === undefined || member === null) {
        if (needed.includes(key)) {
          return `${path} is missing`;
        }
        continue;
      }
      const problem = rule(member, path);
      if (problem !== undefined) {
        return problem;
      }
    }
    return undefined;
  };

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function nameOf(value: unknown): string {
  return value === null ? 'null' : Array.isArray(value) ? 'a list' : typeof value === 'object' ? 'an object' : `the ${typeof value} ${(typeof value === 'bigint' ? value.toString() : JSON.stringify(value)).slice(0, 60)}`;
}

const strings = listOf(string);
const CAPABILITIES = objectOf({ bounding: strings, effective: strings, inheritable: strings, permitted: strings, ambient: strings });
const USER = objectOf({ uid: small, gid: small, umask: small, additionalGids: listOf(small), username: string });
const PROCESS = objectOf({
  terminal: boolean,
  consoleSize: objectOf({ height: small, width: small }),
  user: USER,
  args: strings,
  env: strings,
  cwd: string,
  capabilities: (value, at) => (Array.isArray(value) ? strings(value, at) : CAPABILITIES(value, at)),
  rlimits: listOf(objectOf({ type: string, hard: integer, soft: integer }, ['type', 'hard', 'soft'])),
  noNewPrivileges: boolean,
  apparmorProfile: string,
  oomScoreAdj: small,
  selinuxLabel: string,
});
const HOOKS = listOf(objectOf({ path: string, args: strings, env: strings, timeout: small }, ['path']));
const THROTTLES = listOf(objectOf({ major: small, minor: small, rate: integer }));
const RESOURCES = objectOf({
  devices: listOf(objectOf({ allow: boolean, type: string, major: small, minor: small, access: string })),
  memory: objectOf({ limit: integer, reservation: integer, swap: integer, kernel: integer, kernelTCP: integer, swappiness: integer, disableOOMKiller: boolean }),
  cpu: objectOf({ shares: integer, quota: integer, period: integer, realtimeRuntime: integer, realtimePeriod: integer, cpus: string, mems: string }),
  pids: objectOf({ limit: integer }),
  blockIO: objectOf({
    weight: small,
    leafWeight: small,
    weightDevice: listOf(objectOf({ major: small, minor: small, weight: small, leafWeight: small })),
    throttleReadBpsDevice: THROTTLES,
    throttleWriteBpsDevice: THROTTLES,
    throttleReadIOPSDevice: THROTTLES,
    throttleWriteIOPSDevice: THROTTLES,
  }),
  hugepageLimits: listOf(objectOf({ pageSize: string, limit: integer }, ['pageSize', 'limit'])),
  network: objectOf({ classID: small, priorities: listOf(objectOf({ name: string, priority: small })) }),
});
const ID_MAPPINGS = listOf(objectOf({ containerID: small, hostID: small, size: small }));
const SECCOMP = objectOf({
  defaultAction: string,
  architectures: strings,
  flags: strings,
  syscalls: listOf(objectOf({ names: strings, action: string, errnoRet: small, args: listOf(objectOf({ index: small, value: integer, valueTwo: integer, op: string })) }, ['names', 'action'])),
});
const LINUX = objectOf({
  uidMappings: ID_MAPPINGS,
  gidMappings: ID_MAPPINGS,
  sysctl: mapOf(string),
  resources: RESOURCES,
  cgroupsPath: string,
  namespaces: listOf(objectOf({ type: string, path: string }, ['type'])),
  devices: listOf(objectOf({ path: string, type: string, major: small, minor: small, fileMode: small, uid: small, gid: small }, ['path', 'type'])),
  seccomp: SECCOMP,
  rootfsPropagation: string,
  maskedPaths: strings,
  readonlyPaths: strings,
  mountLabel: string,
});
const SPEC = objectOf({
  ociVersion: string,
  process: PROCESS,
  root: objectOf({ path: string, readonly: boolean }, ['path']),
  hostname: string,
  mounts: listOf(objectOf({ destination: string, type: string, source: string, options: strings }, ['destination'])),
  hooks: objectOf({ prestart: HOOKS, createRuntime: HOOKS, createContainer: HOOKS, startContainer: HOOKS, poststart: HOOKS, poststop: HOOKS }),
  annotations: mapOf(string),
  linux: LINUX,
});

/** The document as a spec; members that are null are removed. InvalidArgument names the member that does not fit. */
export function checkShape(document: unknown, file: string): OciSpec {
  const problem = SPEC(document, '');
  if (problem !== undefined) {
    throw new KataError('InvalidArgument', `read bundle ${file}: ${problem}`, { hint: 'config.json must follow the OCI runtime specification' });
  }
  return document as OciSpec;
}

/** The same for a process alone (exec). */
export function checkProcessShape(document: unknown, what: string): NonNullable<OciSpec['process']> {
  const problem = PROCESS(document, 'process');
  if (problem !== undefined) {
    throw new KataError('InvalidArgument', `${what}: ${problem}`, { hint: 'the process must follow the OCI runtime specification' });
  }
  return document as NonNullable<OciSpec['process']>;
}
