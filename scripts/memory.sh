#!/usr/bin/env bash
# Measures what tollgate's memory is used for, and shows that its defaults fit the container that is shipped (128 MB).
#
#   scripts/memory.sh parts                  what a connection, a half-sent head and a counter cost; what is given back
#   scripts/memory.sh sum [--seconds N]      1,000 rules, counters and connections at the cap, and an attack that invents
#                                            keys and opens connections for N seconds (default: 300), in a cgroup with the
#                                            container's limit if one can be made (root); fails if that is not enough
#   scripts/memory.sh                        both
#
# TOLLGATE_BIN names a program that is built already. The load comes from scripts/memory.py (Python 3, nothing else).
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

need_program python3 python3
cd "$ROOT"
if [ -z "${TOLLGATE_BIN:-}" ]; then
  say "building"
  cargo build --release --locked --bin tollgate >&2
  TOLLGATE_BIN=${CARGO_TARGET_DIR:-$ROOT/target}/release/tollgate
fi
exec python3 scripts/memory.py "$TOLLGATE_BIN" "$@"
