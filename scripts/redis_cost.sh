#!/usr/bin/env bash
# Measures what a check costs Redis: microseconds of its CPU, by the number of checks in one script call, for each algorithm,
# with ten thousand callers and with one.
#
#   scripts/redis_cost.sh [--old FILE] [--checks N] [--rounds N] [--algorithms A,B]
#
# --old is src/store/redis/charge.lua from before calls had many checks (git show 94b7092:src/store/redis/charge.lua): it is
# measured beside the script of today, each check a call in the same pipeline. Starts a Redis of its own. The load comes
# from scripts/redis_cost.py (Python 3, nothing else).
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

need_program python3 python3
need_program redis-server redis-server
cd "$ROOT"
exec python3 scripts/redis_cost.py "$@"
