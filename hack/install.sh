#!/bin/sh
# Installs or removes kata-ts. Usage: hack/install.sh install|uninstall DESTDIR PREFIX
#   PREFIX/bin                                   containerd-shim-kata-v2, kata-runtime
#   PREFIX/lib/kata-ts -> kata-ts-<digest>       bundles and system calls; a new version gets a folder of its own, so that
#                                                running pods keep the one they started with
#   PREFIX/share/kata-containers                 embedded guest: vmlinux and initrd
#   PREFIX/share/defaults/kata-containers        configuration.toml, never written over an edited one
set -eu
cd "$(dirname "$0")/.."
action=$1
dest=${2%/}
prefix=${3%/}
bin=$dest$prefix/bin
lib=$dest$prefix/lib
guest=$dest$prefix/share/kata-containers
defaults=$dest$prefix/share/defaults/kata-containers
man=$dest$prefix/share/man/man1

# In use: some process has the version's sys.node mapped.
in_use() { grep -qsF "$1/sys.node" /proc/[0-9]*/maps; }

remove_versions() { # $1: the version to keep, or nothing
  for folder in "$lib"/kata-ts-*; do
    [ -d "$folder" ] || continue
    [ "${folder##*/}" = "${1:-}" ] && continue
    if in_use "${folder#"$dest"}"; then
      echo "kept $folder: running pods use it; remove it when they have ended" >&2
    else
      rm -rf "$folder"
    fi
  done
}

install_all() {
  files=$(cd build && ls *.cjs *.cjs.cache sys.node)
  digest=$(cd build && cat $files 2>/dev/null | sha256sum | cut -c1-12)
  version=kata-ts-$digest
  mkdir -p "$bin" "$lib/$version" "$guest" "$defaults"
  for file in $files; do
    [ -f "build/$file" ] && install -m 0644 "build/$file" "$lib/$version/$file"
  done
  ln -sfn "$version" "$lib/.kata-ts.new"
  mv -T "$lib/.kata-ts.new" "$lib/kata-ts"
  node_path=$(node -p process.execPath)
  for launcher in containerd-shim-kata-v2 kata-runtime kata-monitor; do
    [ -f "build/$launcher" ] || continue
    sed "s|^installed_node=.*|installed_node=$node_path|" "build/$launcher" >"$bin/.$launcher.new"
    chmod 0755 "$bin/.$launcher.new"
    mv "$bin/.$launcher.new" "$bin/$launcher"
  done
  for pair in vmlinux:kata-ts-vmlinux initrd.img:kata-ts-initrd.img; do
    install -m 0644 "build/guest/${pair%%:*}" "$guest/.new"
    mv "$guest/.new" "$guest/${pair##*:}"
  done
  sed "s|@PREFIX@|$prefix|g" hack/config/configuration-qemu.toml.in >"$defaults/.configuration.toml.new"
  if [ -f "$defaults/configuration.toml" ] && [ -f "$defaults/.configuration.toml.shipped" ] &&
    ! cmp -s "$defaults/configuration.toml" "$defaults/.configuration.toml.shipped"; then
    mv "$defaults/.configuration.toml.new" "$defaults/configuration.toml.new"
    echo "$defaults/configuration.toml was edited and is kept; the new default is beside it as configuration.toml.new" >&2
  else
    cp "$defaults/.configuration.toml.new" "$defaults/.configuration.toml.shipped"
    mv "$defaults/.configuration.toml.new" "$defaults/configuration.toml"
  fi
  if ls docs/man/*.1 >/dev/null 2>&1; then
    mkdir -p "$man"
    install -m 0644 docs/man/*.1 "$man/"
  fi
  remove_versions "$version"
  echo "installed $version below $dest$prefix"
}

uninstall_all() {
  rm -f "$bin/containerd-shim-kata-v2" "$bin/kata-runtime" "$bin/kata-monitor" "$lib/kata-ts"
  rm -f "$guest/kata-ts-vmlinux" "$guest/kata-ts-initrd.img"
  rm -f "$man"/kata-runtime*.1 "$man"/kata-monitor*.1
  if [ -f "$defaults/configuration.toml" ] && ! cmp -s "$defaults/configuration.toml" "$defaults/.configuration.toml.shipped"; then
    echo "kept $defaults/configuration.toml: it was edited" >&2
  else
    rm -f "$defaults/configuration.toml"
  fi
  rm -f "$defaults/.configuration.toml.shipped" "$defaults/configuration.toml.new"
  remove_versions
  rmdir --ignore-fail-on-non-empty -p "$guest" "$defaults" 2>/dev/null || true
  echo "removed kata-ts from $dest$prefix"
}

case $action in
install) install_all ;;
uninstall) uninstall_all ;;
*) echo "usage: hack/install.sh install|uninstall DESTDIR PREFIX" >&2; exit 2 ;;
esac
