#!/bin/bash
# Installs what the build needs and this machine lacks: Go is asked for, the C++ side comes through apt.
set -euo pipefail

die() { echo "make: $*" >&2; exit 1; }

command -v "${GO:-go}" >/dev/null || die "Go is missing: install Go 1.26 or newer and put it on PATH"

missing=()
command -v g++ >/dev/null || missing+=(g++)
if [ -n "${LIBTORCH:-}" ]; then
  [ -e "$LIBTORCH/lib/libtorch_cpu.so" ] && [ -d "$LIBTORCH/include/ATen" ] ||
    die "LIBTORCH=$LIBTORCH holds no libtorch: expected lib/libtorch_cpu.so and include/ATen below it"
  # Gloo is in libtorch, but its headers are not: without them several processes cannot train together.
  [ -e /usr/include/gloo/rendezvous/store.h ] ||
    echo "make: libgloo-dev is not installed: built without it, several processes cannot train together on processors" >&2
else
  [ -e /usr/include/torch/csrc/api/include/torch/torch.h ] || missing+=(libtorch-dev)
  [ -e /usr/include/gloo/rendezvous/store.h ] || missing+=(libgloo-dev)
  # OpenBLAS's OpenMP build: with any other, BLAS ignores libtorch's thread count and oversubscribes the cores.
  compgen -G '/usr/lib/*/openblas-openmp/libblas.so.3' >/dev/null || missing+=(libopenblas0-openmp)
fi
[ ${#missing[@]} -eq 0 ] && exit 0

how="install them (Debian, Ubuntu: apt-get install --no-install-recommends ${missing[*]}) and run make again"
command -v apt-get >/dev/null || die "missing: ${missing[*]}; there is no apt-get here: $how"
if [ "$(id -u)" = 0 ]; then
  as_root=()
elif command -v sudo >/dev/null; then
  as_root=(sudo)
else
  die "missing: ${missing[*]}; neither root nor sudo: $how"
fi
echo "make: installing ${missing[*]}"
"${as_root[@]}" apt-get update -qq || echo "make: apt-get update failed, trying with the lists at hand" >&2
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
  apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null ||
  die "apt-get could not install ${missing[*]}; $how"
