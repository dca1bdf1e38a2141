#!/usr/bin/env bash
# Starts the compose stack like a new user, checks what clients see, and stops it again:
# healthy, five requests let through and two refused by what Redis counted, a program of at most 10 MB in an image under 15 MB, an Envoy that starts with no warning.
# Uses ports of its own, so that a stack that runs already stays as it is (TOLLGATE_STACK_*_PORT to choose them).
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

need_program curl curl

readonly HEALTHY_SECONDS=90 MAX_IMAGE_BYTES=15000000 MAX_PROGRAM_BYTES=10000000
export TOLLGATE_STACK_ENVOY_PORT=${TOLLGATE_STACK_ENVOY_PORT:-18080}
export TOLLGATE_STACK_ADMIN_PORT=${TOLLGATE_STACK_ADMIN_PORT:-18082}
export TOLLGATE_STACK_REDIS_PORT=${TOLLGATE_STACK_REDIS_PORT:-16379}

if docker compose version >/dev/null 2>&1; then
  compose=(docker compose -p tollgate-try)
elif command -v docker-compose >/dev/null; then
  compose=(docker-compose -p tollgate-try)
else
  die "neither 'docker compose' nor docker-compose is here: install one"
fi

finish() {
  local status=$?
  if [[ $status != 0 ]]; then
    "${compose[@]}" ps || true
    "${compose[@]}" logs --tail 30 || true
  fi >&2
  "${compose[@]}" down -v >/dev/null 2>&1 || true
  exit "$status"
}

# Prints one word per container: "healthy" or its status.
health() {
  local ids
  mapfile -t ids < <("${compose[@]}" ps -q)
  ((${#ids[@]} == 4)) || { echo "${#ids[@]} containers"; return; }
  docker inspect -f '{{.State.Health.Status}}' "${ids[@]}" | sort | uniq -c | tr -s ' \n' ' '
}

cd "$ROOT"
trap finish EXIT
"${compose[@]}" up --build -d

deadline=$((SECONDS + HEALTHY_SECONDS))
until [[ $(health) == " 4 healthy " ]]; do
  ((SECONDS < deadline)) || die "not healthy after $HEALTHY_SECONDS s:$(health)"
  sleep 0.5
done
say "healthy"

answers=
for _ in 1 2 3 4 5 6 7; do
  answers+="$(curl -s -o /dev/null -w '%{http_code}' "http://127.0.0.1:$TOLLGATE_STACK_ENVOY_PORT/data") "
done
say "answers: $answers"
[[ $answers == "200 200 200 200 200 429 429 " ]] || die "expected five 200 and two 429, got: $answers"

# Redis has counted them, not tollgate for want of Redis, which would answer the same.
counted=$(curl -s "http://127.0.0.1:$TOLLGATE_STACK_ADMIN_PORT/metrics" |
  grep -F 'tollgate_decisions_total{rule="data"' | grep -v ' 0$' | sort)
expected='tollgate_decisions_total{rule="data",outcome="allowed"} 5
tollgate_decisions_total{rule="data",outcome="denied"} 2'
[[ $counted == "$expected" ]] || die "expected these decisions:
$expected
got:
$counted"

size=$(docker image inspect -f '{{.Size}}' tollgate)
say "image size: $size bytes"
((size < MAX_IMAGE_BYTES)) || die "the image has $size bytes, more than $MAX_IMAGE_BYTES"

program=$(mktemp)
docker cp "$("${compose[@]}" ps -q tollgate)":/tollgate "$program" >/dev/null
size=$(stat -c %s "$program")
rm "$program"
say "program size: $size bytes"
((size <= MAX_PROGRAM_BYTES)) || die "the program has $size bytes, more than $MAX_PROGRAM_BYTES"

if "${compose[@]}" logs --no-color envoy | grep -F '[warning]' >&2; then
  die "Envoy starts with the warnings above: mend envoy/envoy.yaml"
fi
say "ok"
