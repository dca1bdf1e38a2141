#!/usr/bin/env bash
# Runs tollgate behind Envoy with faults of Redis at random, for a quarter of an hour, and checks that it holds no more
# memory, threads and files afterwards, and counts right. Installs what it needs.
#
#   scripts/soak.sh [--seconds N] [--seed N]      900 seconds; the seed is printed, and repeats the same faults
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

seconds=900 seed=
while (($#)); do
  [[ ${2:-} =~ ^[0-9]+$ ]] || die "usage: $0 [--seconds N] [--seed N]"
  case $1 in
    --seconds) seconds=$2 ;;
    --seed) seed=$2 ;;
    *) die "usage: $0 [--seconds N] [--seed N]" ;;
  esac
  shift 2
done

cd "$ROOT"
TOLLGATE_TEST_ENVOY=$(scripts/install-test-deps.sh)
export TOLLGATE_TEST_ENVOY TOLLGATE_TEST_SOAK_SECONDS=$seconds TOLLGATE_TEST_SOAK_SEED=$seed
exec cargo test --locked --test envoy soak:: -- --nocapture
