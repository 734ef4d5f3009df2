/** Layers point one way (ARCHITECTURE.md): each rule names a folder and what it may not import. */
const above = {
  base: '^(ttrpc-ts|gen|agent-client|virtcontainers|factory|shim|kata-runtime|guest|hack|test)/',
  'ttrpc-ts': '^(base|gen|agent-client|virtcontainers|factory|shim|kata-runtime|guest|hack|test)/',
  gen: '^(base|ttrpc-ts|agent-client|virtcontainers|factory|shim|kata-runtime|guest|hack|test)/',
  'agent-client': '^(virtcontainers|factory|shim|kata-runtime|guest|hack|test)/',
  virtcontainers: '^(ttrpc-ts|gen|factory|shim|kata-runtime|guest|hack|test)/',
  factory: '^(shim|kata-runtime|guest|hack|test)/',
  shim: '^(kata-runtime|guest|hack|test)/',
  'kata-runtime': '^(shim|guest|hack|test)/',
  'guest/agent': '^(agent-client|virtcontainers|factory|shim|kata-runtime|hack|test)/',
};
const tests = '\\.test\\.ts$';
module.exports = {
  forbidden: [
    { name: 'no-cycles', severity: 'error', from: {}, to: { circular: true, viaOnly: { dependencyTypesNot: ['type-only'] } } },
    ...Object.entries(above).map(([folder, to]) => ({
      name: `layer-${folder.replace('/', '-')}`,
      severity: 'error',
      from: { path: `^${folder}/`, pathNot: tests },
      to: { path: to },
    })),
    {
      name: 'only-the-registry-names-vmms',
      severity: 'error',
      from: { pathNot: ['^virtcontainers/hypervisor/(registry\\.ts|qemu/|mock/)', tests, '^test/'] },
      to: { path: '^virtcontainers/hypervisor/(qemu|mock)/' },
    },
    {
      name: 'wire-types-stay-at-the-edges',
      severity: 'error',
      from: { path: '^(base|virtcontainers|kata-runtime)/', pathNot: tests },
      to: { path: '^gen/' },
    },
  ],
  options: {
    doNotFollow: { path: 'node_modules' },
    tsPreCompilationDeps: true,
    tsConfig: { fileName: 'tsconfig.json' },
    enhancedResolveOptions: { extensions: ['.ts', '.js', '.json'] },
  },
};
