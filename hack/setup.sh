#!/bin/sh
# Installs what kata-ts needs on this machine: the Debian packages of hack/debian-packages whose command is missing,
# and the npm packages of the lockfile. Says in one sentence what is wrong where it cannot. Quick when all is there.
# Usage: hack/setup.sh [run|test]   ("test" adds what only the test suites need)
set -eu
cd "$(dirname "$0")/.."
what=${1:-run}
fail() { echo "kata-ts: $*" >&2; exit 1; }

[ "$(uname -s)" = Linux ] || fail "this is $(uname -s), but virtual machines are started on Linux only; use a Linux machine or VM"
case $(uname -m) in x86_64) ;; *) fail "this machine is $(uname -m), but the embedded guest is built for x86_64 only so far; use an x86_64 machine" ;; esac
command -v node >/dev/null 2>&1 || fail "Node.js is missing; install Node.js 20 or newer first (nodejs.org, or your distribution's package)"
node_major=$(node -p 'process.versions.node.split(".")[0]')
[ "$node_major" -ge 20 ] || fail "Node.js $(node --version) is too old; install Node.js 20 or newer"
[ "$(id -u)" = 0 ] || fail "root is needed to start virtual machines and mount file systems; run it with sudo"
free_mib=$(df -Pm . | awk 'NR == 2 { print $4 }')
[ "$free_mib" -ge 2048 ] || fail "only $free_mib MiB are free here, about 2048 MiB are needed; free some disk space"

# hack/debian-packages: <package> <command or file that proves it> <run|test> <reason ...>
missing=
while read -r package proof scope _reason; do
  case $package in '' | '#'*) continue ;; esac
  [ "$scope" = run ] || [ "$scope:$what" = test:test ] || continue
  case $proof in
    /*) [ -e "$proof" ] || missing="$missing $package" ;;
    *) command -v "$proof" >/dev/null 2>&1 || missing="$missing $package" ;;
  esac
done <hack/debian-packages
if [ -n "$missing" ]; then
  command -v apt-get >/dev/null 2>&1 || fail "these packages are wanted and this is no Debian or Ubuntu:$missing; install them with your package manager"
  echo "installing Debian packages:$missing"
  export DEBIAN_FRONTEND=noninteractive
  # shellcheck disable=SC2086
  apt-get install -y -qq --no-install-recommends $missing >build-setup.log 2>&1 || {
    apt-get update -qq >build-setup.log 2>&1 || fail "apt-get update failed; see $(pwd)/build-setup.log"
    # shellcheck disable=SC2086
    apt-get install -y -qq --no-install-recommends $missing >>build-setup.log 2>&1 || fail "apt-get install$missing failed; see $(pwd)/build-setup.log"
  }
  rm -f build-setup.log
fi

stamp=node_modules/.kata-ts-lock
if ! cmp -s package-lock.json "$stamp" 2>/dev/null; then
  echo "installing npm packages"
  npm ci --no-audit --no-fund --loglevel=error >/dev/null || fail "npm ci failed; see the lines above"
  cp package-lock.json "$stamp"
fi
