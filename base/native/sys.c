// The one native part of kata-ts: raw Linux system calls for what Node does not offer (mount, setns, prctl,
// AF_VSOCK, SCM_RIGHTS, ioctl, flock, waitid), and posix_spawn(3). Typed wrappers live in base/syscalls.ts; nothing
// else may use it. Of libc it imports only what POSIX has, so one file serves glibc and musl; N-API keeps it valid
// across Node versions.
#define NAPI_VERSION 8
#include <node_api.h>
#include <signal.h>
#include <spawn.h>

enum { MAX_ARGS = 7, MAX_WORDS = 64, STRING_BYTES = 16384 };

extern char **environ;

#if defined(__x86_64__)
static long raw(const long a[MAX_ARGS]) {
  register long r10 __asm__("r10") = a[4];
  register long r8 __asm__("r8") = a[5];
  register long r9 __asm__("r9") = a[6];
  long result;
  __asm__ volatile("syscall"
                   : "=a"(result)
                   : "a"(a[0]), "D"(a[1]), "S"(a[2]), "d"(a[3]), "r"(r10), "r"(r8), "r"(r9)
                   : "rcx", "r11", "memory");
  return result;
}
#elif defined(__aarch64__)
static long raw(const long a[MAX_ARGS]) {
  register long x8 __asm__("x8") = a[0];
  register long x0 __asm__("x0") = a[1];
  register long x1 __asm__("x1") = a[2];
  register long x2 __asm__("x2") = a[3];
  register long x3 __asm__("x3") = a[4];
  register long x4 __asm__("x4") = a[5];
  register long x5 __asm__("x5") = a[6];
  __asm__ volatile("svc 0"
                   : "+r"(x0)
                   : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5)
                   : "memory");
  return x0;
}
#else
#error "kata-ts supports x86_64 and aarch64"
#endif

// One argument to one register: number and bigint by value, string as a NUL-terminated copy in `strings`,
// typed array by address, null and undefined as 0. Returns 0 after throwing.
static int convert(napi_env env, napi_value value, long *out, char *strings, size_t *used) {
  napi_valuetype type;
  napi_typeof(env, value, &type);
  if (type == napi_undefined || type == napi_null) { *out = 0; return 1; }
  if (type == napi_number) {
    int64_t n;
    napi_get_value_int64(env, value, &n);
    *out = (long)n;
    return 1;
  }
  if (type == napi_bigint) {
    int64_t n;
    bool lossless;
    napi_get_value_bigint_int64(env, value, &n, &lossless);
    *out = (long)n;
    return 1;
  }
  if (type == napi_string) {
    size_t length;
    napi_get_value_string_utf8(env, value, 0, 0, &length);
    if (*used + length + 1 > STRING_BYTES) { napi_throw_range_error(env, 0, "string argument too long"); return 0; }
    napi_get_value_string_utf8(env, value, strings + *used, STRING_BYTES - *used, &length);
    *out = (long)(strings + *used);
    *used += length + 1;
    return 1;
  }
  bool typed = false;
  napi_is_typedarray(env, value, &typed);
  if (typed) {
    void *data;
    size_t length;
    napi_get_typedarray_info(env, value, 0, &length, &data, 0, 0);
    *out = (long)data;
    return 1;
  }
  napi_throw_type_error(env, 0, "system call arguments are number, bigint, string, typed array or null");
  return 0;
}

// sys(number, ...up to 6 arguments): the kernel's result, -errno on failure.
static napi_value sys(napi_env env, napi_callback_info info) {
  napi_value values[MAX_ARGS], out;
  size_t count = MAX_ARGS, used = 0;
  long args[MAX_ARGS] = {0};
  char strings[STRING_BYTES];
  napi_get_cb_info(env, info, &count, values, 0, 0);
  if (count > MAX_ARGS) count = MAX_ARGS;
  for (size_t i = 0; i < count; i++)
    if (!convert(env, values[i], &args[i], strings, &used)) return 0;
  napi_create_int64(env, raw(args), &out);
  return out;
}

// addr(typed array): its address, to build iovec and msghdr. The caller keeps the array alive during the call.
static napi_value addr(napi_env env, napi_callback_info info) {
  napi_value value, out;
  size_t count = 1, length;
  void *data;
  napi_get_cb_info(env, info, &count, &value, 0, 0);
  if (napi_get_typedarray_info(env, value, 0, &length, &data, 0, 0) != napi_ok) {
    napi_throw_type_error(env, 0, "a typed array is needed");
    return 0;
  }
  napi_create_bigint_uint64(env, (uint64_t)data, &out);
  return out;
}

// Starts `path` with our environment, no signal blocked or ignored, and `fds` as its 0, 1 and 2.
static napi_value start(napi_env env, const char *path, char **words, const int *fds) {
  napi_value out;
  pid_t pid = 0;
  sigset_t signals;
  posix_spawnattr_t attributes;
  posix_spawn_file_actions_t actions;
  posix_spawnattr_init(&attributes);
  posix_spawn_file_actions_init(&actions);
  sigfillset(&signals);
  posix_spawnattr_setsigdefault(&attributes, &signals);
  sigemptyset(&signals);
  posix_spawnattr_setsigmask(&attributes, &signals);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK);
  for (int fd = 0; fd < 3; fd++) posix_spawn_file_actions_adddup2(&actions, fds[fd], fd);
  int error = posix_spawn(&pid, path, &actions, &attributes, words, environ);
  posix_spawn_file_actions_destroy(&actions);
  posix_spawnattr_destroy(&attributes);
  napi_create_int64(env, error == 0 ? pid : -error, &out);
  return out;
}

// spawn(path, Int32Array of 3 descriptors, ...words): the pid, -errno on failure. The child shares our memory until it
// runs the program: nothing of it is copied.
static napi_value spawn(napi_env env, napi_callback_info info) {
  napi_value values[MAX_WORDS + 2];
  size_t count = MAX_WORDS + 2, used = 0;
  long args[MAX_WORDS + 3] = {0};
  char strings[STRING_BYTES];
  napi_get_cb_info(env, info, &count, values, 0, 0);
  if (count < 3 || count > MAX_WORDS + 2) {
    napi_throw_range_error(env, 0, "a program, its descriptors and 1 to 64 words are needed");
    return 0;
  }
  for (size_t i = 0; i < count; i++)
    if (!convert(env, values[i], &args[i], strings, &used)) return 0;
  return start(env, (const char *)args[0], (char **)&args[2], (const int *)args[1]);
}

NAPI_MODULE_INIT() {
  napi_value f;
  napi_create_function(env, "sys", NAPI_AUTO_LENGTH, sys, 0, &f);
  napi_set_named_property(env, exports, "sys", f);
  napi_create_function(env, "addr", NAPI_AUTO_LENGTH, addr, 0, &f);
  napi_set_named_property(env, exports, "addr", f);
  napi_create_function(env, "spawn", NAPI_AUTO_LENGTH, spawn, 0, &f);
  napi_set_named_property(env, exports, "spawn", f);
  return exports;
}
