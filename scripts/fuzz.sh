#!/usr/bin/env bash
# Fuzzes each target for some time, from its seeds and what earlier runs have found. Stops at the first finding.
#
#   scripts/fuzz.sh [SECONDS [TARGET…]]      default: 600 s, every target
#
# fuzz/README.md says what the targets check, and what to do with a finding.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

readonly SECONDS_EACH=${1:-600}
shift || true

command -v cargo-fuzz >/dev/null || cargo install --locked cargo-fuzz >&2 || die "could not install cargo-fuzz"
if [[ $(rustup toolchain list) != *nightly* ]]; then
  rustup toolchain install nightly --profile minimal >&2 || die "could not install the nightly toolchain, which the sanitizers need"
fi
cd "$ROOT"

targets=("$@")
if [[ ${#targets[@]} == 0 ]]; then
  mapfile -t targets < <(cargo +nightly fuzz list)
fi
for target in "${targets[@]}"; do
  say "$target, for $SECONDS_EACH s"
  mkdir -p "fuzz/corpus/$target"
  cargo +nightly fuzz run "$target" "fuzz/corpus/$target" "fuzz/seeds/$target" -- \
    -max_total_time="$SECONDS_EACH" -rss_limit_mb=4096 -timeout=10 -max_len=4096 -len_control=0 -dict="fuzz/$target.dict" -print_final_stats=1
done
