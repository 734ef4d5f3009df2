#!/bin/sh
# Generates gen/ from proto/ with protoc and ts-proto. With --check: changes nothing, fails if gen/ is not what would
# be generated.
set -eu
cd "$(dirname "$0")/.."

out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT INT TERM

options=env=both,esModuleInterop=true,forceLong=bigint,useDate=false,useMapType=true,useOptionals=none
options=$options,outputJsonMethods=false,outputPartialMethods=true,useExactTypes=false,outputTypeRegistry=false
options=$options,outputServices=generic-definitions,unrecognizedEnum=false,enumsAsLiterals=true,annotateFilesWithVersion=false

# shellcheck disable=SC2046
protoc --proto_path=proto --plugin=protoc-gen-ts_proto=node_modules/.bin/protoc-gen-ts_proto \
  --ts_proto_out="$out" --ts_proto_opt="$options" $(cd proto && find . -name '*.proto' | sed 's|^\./||' | LC_ALL=C sort)

if [ "${1:-}" = --check ]; then
  if ! diff -r "$out" gen; then
    echo 'hack/generate.sh: gen/ differs from proto/: run hack/generate.sh and commit the result' >&2
    exit 1
  fi
else
  find gen -mindepth 1 -delete
  cp -R "$out/." gen/
fi
