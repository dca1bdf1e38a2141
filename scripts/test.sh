#!/usr/bin/env bash
# Installs what the tests need, then runs every test. Arguments go to `cargo test`:
#
#   scripts/test.sh                    all
#   scripts/test.sh --test rules       one binary: rules, limits, service, envoy, house or scripts
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

export PATH=$PATH:/usr/sbin   # where Debian keeps nginx
cd "$ROOT"
log=$(mktemp)
envoy=$(mktemp)
trap 'rm -f "$log" "$envoy"' EXIT

# Downloading those programs and compiling the tests take about as long, so both are done at once.
scripts/install-test-deps.sh >"$envoy" &
installing=$!
compiled=0
cargo test --locked --no-run "$@" || compiled=$?
wait "$installing" || die "could not install the programs that the tests need: see above"
[[ $compiled == 0 ]] || exit "$compiled"
TOLLGATE_TEST_ENVOY=$(<"$envoy")
export TOLLGATE_TEST_ENVOY

status=0
cargo test --locked "$@" 2>&1 | tee "$log" || status=$?
awk '/^test result:/ { passed += $4; failed += $6; ignored += $8 }
     END { printf "tests in all: %d passed, %d failed, %d ignored\n", passed, failed, ignored }' "$log"
if [[ $# == 0 ]]; then
  # Runs each benchmark once, so that a broken one is noticed.
  cargo test --locked --bench '*' --quiet >/dev/null || die "a benchmark fails: cargo test --bench '*'"
fi
exit "$status"
