#!/usr/bin/env bash
# Measures what a check costs, and what it costs beside a bare hyper responder: requests/s, CPU, latencies at fixed
# rates, how all that changes with callers, rules, replicas and threads, and what a request through Envoy costs.
#
#   scripts/bench.sh                         everything, in rounds: a quarter of an hour; prints tables
#   scripts/bench.sh --write [FILE]          also writes them into docs/benchmarks.md, and plots into docs/benchmarks
#   scripts/bench.sh --only NAME,NAME        some of the sections: --help lists them
#   scripts/bench.sh --quick                 tries all out in two minutes with a debug build; its figures mean nothing
#
# Installs wrk, Redis, Envoy and a Python environment for the plots if they are missing. TOLLGATE_BIN names a tollgate
# that is built already. All programs share this machine, so only the ratios within a run mean anything:
# docs/benchmarks.md says how to read them. The measuring is in scripts/bench.py, and the fixed rates in
# examples/paced.rs.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

need_program wrk wrk
need_program redis-server redis-server
cd "$ROOT"
python=$(find_plot_python)
envoy=$(find_envoy)

profile=release
for argument in "$@"; do
  case $argument in
    --quick) profile=dev ;;
    -h | --help) profile='' ;;
  esac
done
if [[ -z $profile ]]; then exec "$python" scripts/bench.py --help; fi
say "building"
things=(--example bare --example paced)
[[ -n ${TOLLGATE_BIN:-} ]] || things+=(--bin tollgate)
cargo build --profile "$profile" --locked "${things[@]}" >&2
built=${CARGO_TARGET_DIR:-$ROOT/target}/${profile/dev/debug}
exec "$python" scripts/bench.py --tollgate "${TOLLGATE_BIN:-$built/tollgate}" --bare "$built/examples/bare" \
  --paced "$built/examples/paced" --envoy "$envoy" "$@"
