#!/usr/bin/env bash
# Drives the check endpoint with wrk, beside a bare hyper responder in the same run, and prints requests/s, p50, p99 and
# CPU microseconds per check of each, for the memory store and for Redis.
#
#   scripts/bench.sh [SECONDS [CONNECTIONS [ROUNDS]]]      default: 4 s, 32 connections, 5 interleaved rounds
#
# wrk, the servers and Redis share this machine, so only the ratios within one run mean anything.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

readonly SECONDS_EACH=${1:-4} CONNECTIONS=${2:-32} ROUNDS=${3:-5}
readonly BARE=127.0.0.1:18090 MEMORY=127.0.0.1:18091 REDIS=127.0.0.1:18092 REDIS_PORT=18093

need_program wrk wrk
need_program redis-server redis-server
need_program redis-cli redis-tools
cd "$ROOT"
say "building"
cargo build --release --locked --bin tollgate --example bare >&2
target=${CARGO_TARGET_DIR:-$ROOT/target}/release

dir=$(mktemp -d)
pids=()
# shellcheck disable=SC2329  # called by the trap
finish() {
  kill "${pids[@]}" 2>/dev/null || true
  wait 2>/dev/null || true
  rm -rf "$dir"
}
trap finish EXIT

cat >"$dir/rules.yaml" <<'X'
version: 1
rules:
  - { name: data, match: { path: /data, methods: [GET] }, key: [client_ip], limit: 1000000/s }
X
# Ten thousand callers, in an order that each run repeats.
cat >"$dir/callers.lua" <<'X'
local n = 0
request = function()
  n = (n * 7 + 13) % 10000
  local headers = {
    ["x-forwarded-method"] = "GET", ["x-forwarded-uri"] = "/data?x=1",
    ["x-real-ip"] = "10.0." .. math.floor(n / 250) .. "." .. (n % 250),
  }
  return wrk.format("GET", "/v1/check", headers)
end
X

start() { "$@" >>"$dir/log" 2>&1 & pids+=($!); }
start redis-server --port "$REDIS_PORT" --bind 127.0.0.1 --save '' --appendonly no --dir "$dir"
redis_pid=$!
start "$target/examples/bare" "$BARE"
bare_pid=$!
start env -u REDIS_URL "$target/tollgate" --rules "$dir/rules.yaml" --listen "$MEMORY" --admin 127.0.0.1:18094 --store memory --log-level warn
memory_pid=$!
start "$target/tollgate" --rules "$dir/rules.yaml" --listen "$REDIS" --admin 127.0.0.1:18095 --redis-url "redis://127.0.0.1:$REDIS_PORT" --log-level warn
tollgate_pid=$!

deadline=$((SECONDS + 20))
for admin in 18094 18095; do
  until "$target/tollgate" healthcheck --admin "127.0.0.1:$admin" >/dev/null 2>&1; do
    ((SECONDS < deadline)) || { cat "$dir/log" >&2; die "the servers did not start"; }
    sleep 0.1
  done
done

# CPU time of a process so far, in clock ticks (user and system).
ticks() { awk '{ sub(/.*\) /, ""); print $12 + $13 }' "/proc/$1/stat"; }

# drive NAME ADDRESS PID: one run; a line "name requests/s p50 p99 cpu-us errors".
drive() {
  local before after
  before=$(ticks "$3")
  wrk -t1 "-c$CONNECTIONS" "-d${SECONDS_EACH}s" --latency -s "$dir/callers.lua" "http://$2/v1/check" >"$dir/wrk"
  after=$(ticks "$3")
  awk -v name="$1" -v ticks=$((after - before)) -v hz="$(getconf CLK_TCK)" '
    function us(text) { return text ~ /us$/ ? text + 0 : text ~ /ms$/ ? text * 1000 : text * 1000000 }
    $1 == "50%" { p50 = us($2) } $1 == "99%" { p99 = us($2) }
    /requests in/ { requests = $1 } /Requests\/sec/ { rps = $2 } /Non-2xx/ { errors = $NF }
    END { printf "%s %.0f %.0f %.0f %.2f %d\n", name, rps, p50, p99, ticks / hz * 1e6 / requests, errors }' "$dir/wrk"
}

for ((round = 1; round <= ROUNDS; round++)); do
  say "round $round of $ROUNDS"
  {
    drive bare "$BARE" "$bare_pid"
    drive memory "$MEMORY" "$memory_pid"
    redis_before=$(ticks "$redis_pid")
    drive redis "$REDIS" "$tollgate_pid"
    echo "redis-ticks $(($(ticks "$redis_pid") - redis_before)) $(awk '/requests in/ { print $1 }' "$dir/wrk")"
  } >>"$dir/results"
done

# Redis hangs: how long do checks take? (The rule is `on_store_error: local`; the deadline is 50 ms.)
kill -STOP "$redis_pid"
wrk -t1 "-c$CONNECTIONS" "-d${SECONDS_EACH}s" --latency -s "$dir/callers.lua" "http://$REDIS/v1/check" >"$dir/hang" || true
kill -CONT "$redis_pid"

python3 - "$dir/results" "$(getconf CLK_TCK)" <<'X'
import statistics, sys
runs, server = {}, []
for line in open(sys.argv[1]):
    name, *figures = line.split()
    if name == "redis-ticks":
        server.append(int(figures[0]) / int(sys.argv[2]) * 1e6 / int(figures[1]))
    else:
        runs.setdefault(name, []).append([float(f) for f in figures])
print(f"{'':8} {'requests/s':>10} {'p50 us':>8} {'p99 us':>8} {'CPU us':>8} {'x bare':>7}   (medians; the ratio is of CPU, pair by pair)")
for name, rows in runs.items():
    rps, p50, p99, cpu, errors = (statistics.median(column) for column in zip(*rows))
    ratio = statistics.median(row[3] / bare[3] for row, bare in zip(rows, runs["bare"]))
    print(f"{name:8} {rps:10.0f} {p50:8.0f} {p99:8.0f} {cpu:8.2f} {ratio:7.2f}" + (f"   {errors:.0f} answers were not 200" if errors else ""))
print(f"Redis itself used {statistics.median(server):.2f} us of CPU a check.")
X
awk '/^ *Latency +[0-9]/ { max = $4 } $1 == "50%" { p50 = $2 } $1 == "99%" { p99 = $2 } /Requests\/sec/ { rps = $2 } /Non-2xx/ { errors = $NF }
  END { printf "While Redis hangs: %s requests/s, p50 %s, p99 %s, longest %s; %d answers were not 200.\n", rps, p50, p99, max, errors }' "$dir/hang"
