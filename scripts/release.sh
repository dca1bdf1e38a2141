#!/usr/bin/env bash
# Builds what a release consists of, into dist/: for each architecture a static binary in an archive and a Debian package,
# with manual pages and completions; a list of all crates in it (CycloneDX); checksums.
#
#   scripts/release.sh                    x86_64 and aarch64
#   scripts/release.sh x86_64             one of them
#   scripts/release.sh --binary FILE      packs a binary for this machine that is there already, as tests do: less tightly,
#                                         and with no list of crates
#   scripts/release.sh --out DIR ...      into another folder
#
# Needs Rust by rustup, Python and dpkg-deb. What is packed is the same for the same commit; the compiler is whichever
# rustup has. DEBFULLNAME and DEBEMAIL name the maintainer of the packages.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

readonly MAX_BINARY_BYTES=10000000

cd "$ROOT"
out=dist
binary=
level=9   # of compression
arches=()
while (($#)); do
  case $1 in
    --out) out=$2; shift ;;
    --binary) binary=$2; level=1; shift ;;
    x86_64 | aarch64) arches+=("$1") ;;
    *) die "what is $1? see the top of scripts/release.sh" ;;
  esac
  shift
done
((${#arches[@]})) || arches=(x86_64 aarch64)

version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
# The times of files in archives. Not exported: compilers of C would read it, and cargo build everything again.
epoch=$(git log -1 --format=%ct 2>/dev/null || echo 0)
need_program dpkg-deb dpkg
mkdir -p "$out"
rm -f "$out"/tollgate* "$out"/SHA256SUMS
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Prints the folder of cargo-zigbuild and of a C compiler that has musl for both architectures: some crates have C.
# Checks each step itself, as install_wheel does.
find_zigbuild() {
  local venv=$CACHE/zig-venv
  need_program python3 python3
  mkdir -p "$CACHE"
  (
    if "$venv/bin/python" -c 'import ziglang' 2>/dev/null && [[ -x $venv/bin/cargo-zigbuild ]]; then exit 0; fi
    say "installing cargo-zigbuild and zig in $venv"
    rm -rf "$venv"
    python3 -m venv "$venv" || die "could not make a Python environment in $venv"
    "$venv/bin/pip" install -q --disable-pip-version-check 'cargo-zigbuild==0.24.*' 'ziglang==0.17.*' \
      || die "could not install cargo-zigbuild: see above"
  ) >&2 || return
  echo "$venv/bin"
}

# build ARCH: prints the path of the static binary.
build() {
  local target=$1-unknown-linux-musl zig path
  rustup target add "$target" >&2
  zig=$(find_zigbuild)
  # The caller takes what is printed, so a failure would not end the script.
  PATH=$zig:$PATH cargo zigbuild --release --locked --bin tollgate --target "$target" >&2 \
    || die "could not build for $target: see above"
  path=target/$target/release/tollgate
  if LC_ALL=C grep -q '/lib/ld-' "$path"; then die "$path is not static"; fi
  (($(stat -c %s "$path") <= MAX_BINARY_BYTES)) || die "$path has more than $MAX_BINARY_BYTES bytes"
  echo "$path"
}

# documents BINARY: manual pages and completions, which are the same for all architectures. BINARY runs here.
documents() {
  mkdir -p "$work/man" "$work/completions"
  cargo run --locked --quiet --example man -- "$work/man" >&2
  "$1" completions bash >"$work/completions/tollgate.bash"
  "$1" completions zsh >"$work/completions/_tollgate"
  "$1" completions fish >"$work/completions/tollgate.fish"
}

# archive ARCH BINARY
archive() {
  local name=tollgate-$version-linux-$1
  mkdir -p "$work/$name"
  install -m 755 "$2" "$work/$name/tollgate"
  cp -r LICENSE README.md CHANGELOG.md config deploy envoy nginx caddy haproxy "$work/man" "$work/completions" "$work/$name"
  tar -C "$work" --sort=name --owner=0 --group=0 --numeric-owner --mtime="@$epoch" -cf - "$name" \
    | gzip "-${level}n" >"$out/$name.tar.gz"
}

# debian_package ARCH BINARY
debian_package() {
  local root=$work/deb-$1 arch page script
  case $1 in
    x86_64) arch=amd64 ;;
    aarch64) arch=arm64 ;;
  esac
  put() { install -D -m "${3:-644}" "$1" "$root/$2"; }
  put "$2" usr/bin/tollgate 755
  put deploy/systemd/tollgate.service lib/systemd/system/tollgate.service
  put deploy/debian/default etc/default/tollgate
  put deploy/debian/copyright usr/share/doc/tollgate/copyright
  put config/rules.schema.json usr/share/tollgate/rules.schema.json
  put config/rules.yaml etc/tollgate/rules.yaml
  sed -i -e 's,config/rules.yaml,/etc/tollgate/rules.yaml,' -e 's,=rules.schema.json,=/usr/share/tollgate/rules.schema.json,' \
    -e 's,docs/rules.md,/usr/share/doc/tollgate/rules.md.gz,' "$root/etc/tollgate/rules.yaml"
  put "$work/completions/tollgate.bash" usr/share/bash-completion/completions/tollgate
  put "$work/completions/_tollgate" usr/share/zsh/vendor-completions/_tollgate
  put "$work/completions/tollgate.fish" usr/share/fish/vendor_completions.d/tollgate.fish
  for page in "$work"/man/*.1; do
    put "$page" "usr/share/man/man1/${page##*/}"
    gzip -9n "$root/usr/share/man/man1/${page##*/}"
  done
  put CHANGELOG.md usr/share/doc/tollgate/changelog
  gzip -9n "$root/usr/share/doc/tollgate/changelog"
  for page in docs/*.md; do
    put "$page" "usr/share/doc/tollgate/${page##*/}"
    gzip -9n "$root/usr/share/doc/tollgate/${page##*/}"
  done
  mkdir -p "$root/DEBIAN"
  for script in postinst prerm postrm; do install -m 755 "deploy/debian/$script" "$root/DEBIAN/$script"; done
  printf '/etc/default/tollgate\n/etc/tollgate/rules.yaml\n' >"$root/DEBIAN/conffiles"
  cat >"$root/DEBIAN/control" <<END
Package: tollgate
Version: $version
Architecture: $arch
Maintainer: ${DEBFULLNAME:-The authors of tollgate} <${DEBEMAIL:-root@localhost}>
Installed-Size: $(du -sk --exclude=DEBIAN "$root" | cut -f1)
Suggests: redis-server
Section: net
Priority: optional
Description: rate limiter that proxies ask about each request
 Envoy (ext_authz over HTTP), nginx (auth_request) and other forward-auth
 proxies ask it about each request. It matches a YAML rule file, charges
 counters in Redis, and answers 200 or 429.
END
  SOURCE_DATE_EPOCH=$epoch dpkg-deb --root-owner-group -Zxz "-z$level" --build "$root" "$out/tollgate_${version}_$arch.deb" >&2
}

# What is in the binary, by the lock file.
crates() {
  local cyclonedx=$CACHE/cyclonedx/bin/cargo-cyclonedx
  if [[ ! -x $cyclonedx ]]; then
    say "installing cargo-cyclonedx in $CACHE/cyclonedx"
    cargo install --locked --quiet --root "$CACHE/cyclonedx" cargo-cyclonedx@0.5.9 >&2
  fi
  # It writes beside Cargo.toml, and knows no other place.
  SOURCE_DATE_EPOCH=$epoch PATH=$CACHE/cyclonedx/bin:$PATH cargo cyclonedx --format json --target x86_64-unknown-linux-musl \
    --override-filename "release-$$" --quiet >&2
  mv "release-$$.json" "$out/tollgate-$version.cdx.json"
}

if [[ -n $binary ]]; then
  arches=("$(uname -m)")
  documents "$binary"
  archive "${arches[0]}" "$binary"
  debian_package "${arches[0]}" "$binary"
else
  declare -A built
  for arch in "${arches[@]}"; do built[$arch]=$(build "$arch"); done
  here=${built[$(uname -m)]:-}
  if [[ -z $here ]]; then
    cargo build --locked >&2
    here=target/debug/tollgate
  fi
  documents "$here"
  for arch in "${arches[@]}"; do
    archive "$arch" "${built[$arch]}"
    debian_package "$arch" "${built[$arch]}"
  done
  crates
fi
(cd "$out" && find . -maxdepth 1 -type f -name 'tollgate*' -printf '%P\n' | LC_ALL=C sort | xargs sha256sum >SHA256SUMS)
say "in $out:"
(cd "$out" && ls -l -- *) >&2
