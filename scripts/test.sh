#!/usr/bin/env bash
# Installs what the tests need, then runs every test. Arguments go to `cargo test`:
#
#   scripts/test.sh                    all
#   scripts/test.sh --test rules       one binary: rules, limits, service, envoy or house
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

TOLLGATE_TEST_ENVOY=$("$ROOT/scripts/install-test-deps.sh") || die "could not install what the tests need: see above"
export TOLLGATE_TEST_ENVOY
export PATH=$PATH:/usr/sbin   # where Debian keeps nginx
cd "$ROOT"

log=$(mktemp)
trap 'rm -f "$log"' EXIT
status=0
cargo test --locked "$@" 2>&1 | tee "$log" || status=$?
awk '/^test result:/ { passed += $4; failed += $6; ignored += $8 }
     END { printf "tests in all: %d passed, %d failed, %d ignored\n", passed, failed, ignored }' "$log"
if [[ $# == 0 ]]; then
  # Runs each benchmark once, so that a broken one is noticed.
  cargo test --locked --bench '*' --quiet >/dev/null || die "a benchmark fails: cargo test --bench '*'"
fi
exit "$status"
