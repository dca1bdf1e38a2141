#!/usr/bin/env bash
# The stack of docker-compose.yml without Docker, on this machine's loopback addresses:
# client -> Envoy :8080 -> tollgate :8081 -> Redis :6379, and an application :8083 behind Envoy.
#
#   scripts/stack.sh up              builds, installs what is missing, starts; ready when it returns
#   scripts/stack.sh down            stops what `up` started, and nothing else
#   scripts/stack.sh status          one line for each part; exit code 1 if any is not healthy
#   scripts/stack.sh logs [NAME]     the last lines of all logs, or of redis, upstream, tollgate or envoy
#
# Settings, from the environment or .env (see .env.example): TOLLGATE_STACK_*_PORT for the ports, and any of tollgate's own
# except its addresses. TOLLGATE_STACK_DIR (.stack) keeps process ids and logs: give two stacks two directories and other
# ports. TOLLGATE_STACK_BIN is a tollgate binary to run in place of building one.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

readonly NAMES=(redis upstream tollgate envoy)   # in order of starting
readonly START_SECONDS=30 STOP_SECONDS=20        # the latter longer than tollgate's --drain-timeout

load_settings() {
  # As compose reads .env: KEY=VALUE lines, and the environment wins.
  local key value
  if [[ -f $ROOT/.env ]]; then
    while IFS='=' read -r key value || [[ -n $key ]]; do
      [[ $key =~ ^[A-Z_]+$ ]] || continue
      [[ -v $key ]] || export "$key=$value"
    done <"$ROOT/.env"
  fi
  DIR=${TOLLGATE_STACK_DIR:-$ROOT/.stack}
  [[ $DIR == /* ]] || DIR=$PWD/$DIR
  readonly DIR
  declare -gA PORT=(
    [envoy]=${TOLLGATE_STACK_ENVOY_PORT:-8080}
    [tollgate]=${TOLLGATE_STACK_CHECK_PORT:-8081}
    [upstream]=${TOLLGATE_STACK_UPSTREAM_PORT:-8083}
    [redis]=${TOLLGATE_STACK_REDIS_PORT:-6379}
    [tollgate-admin]=${TOLLGATE_STACK_ADMIN_PORT:-8082}
    [envoy-admin]=${TOLLGATE_STACK_ENVOY_ADMIN_PORT:-9901}
  )
}

# --- processes -------------------------------------------------------------------------------------------------------

# When a process started, in clock ticks since boot: distinguishes it from a later one with the same id.
birth_of() {
  if [[ -r /proc/$1/stat ]]; then
    # Field 22, counted after the name, which may contain spaces and brackets.
    local stat fields
    stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 0
    read -ra fields <<<"${stat##*) }"
    [[ ${fields[0]} == Z ]] || echo "${fields[19]}"
  else
    ps -o lstart= -p "$1" 2>/dev/null || true
  fi
}

# pid_of NAME: the process that `up` started, if it still runs.
pid_of() {
  local pid birth
  { read -r pid && read -r birth; } 2>/dev/null <"$DIR/$1.pid" || return 1
  [[ -n $birth && $(birth_of "$pid") == "$birth" ]] || return 1
  echo "$pid"
}

# start NAME COMMAND...: starts it in a session of its own, so that Ctrl-C does not reach it.
start() {
  local name=$1 pid
  shift
  (cd "$ROOT" && exec setsid "$@") >"$DIR/$name.log" 2>&1 </dev/null 9>&- &
  pid=$!
  printf '%s\n%s\n' "$pid" "$(birth_of "$pid")" >"$DIR/$name.pid"
  STARTED+=("$name")
}

# stop NAME...: sends SIGTERM to all, waits for each, then kills. Succeeds if nothing runs.
stop() {
  local name pid deadline=$((SECONDS + STOP_SECONDS))
  for name in "$@"; do
    if pid=$(pid_of "$name"); then
      kill -TERM "$pid" 2>/dev/null || true
      while pid_of "$name" >/dev/null && ((SECONDS < deadline)); do sleep 0.05; done
      if pid_of "$name" >/dev/null; then
        say "$name (pid $pid) did not stop in $STOP_SECONDS s: killing it"
        kill -KILL "$pid" 2>/dev/null || true
      fi
    fi
    rm -f "$DIR/$name.pid"
  done
}

# --- ports and health ------------------------------------------------------------------------------------------------

# The process that listens on port $1, if known: only root sees the processes of other users.
holder_of() {
  local line=
  if command -v ss >/dev/null; then
    line=$(ss -Hltnp "sport = :$1" 2>/dev/null | sed -n 's/.*users:(("\([^"]*\)",pid=\([0-9]*\).*/\1 (pid \2)/p' | head -n 1)
  elif command -v lsof >/dev/null; then
    line=$(lsof -nP -iTCP:"$1" -sTCP:LISTEN -Fcp 2>/dev/null | tr '\n' ' ')
  fi
  echo "${line:-a process that this user cannot see}"
}

port_is_taken() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# http_ok PORT PATH: whether a GET answers 200.
http_ok() (
  exec 2>/dev/null 3<>"/dev/tcp/127.0.0.1/$1" || exit 1
  printf 'GET %s HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n' "$2" >&3
  read -r -t 2 _ status _ <&3 && [[ $status == 200 ]]
)

is_healthy() {
  case $1 in
    redis) [[ $(REDISCLI_AUTH=${TOLLGATE_STACK_REDIS_PASSWORD:-} timeout 2 redis-cli -p "${PORT[redis]}" ping 2>/dev/null) == PONG ]] ;;
    upstream) http_ok "${PORT[upstream]}" /readyz ;;
    tollgate) http_ok "${PORT[tollgate-admin]}" /readyz && port_is_taken "${PORT[tollgate]}" ;;
    envoy) http_ok "${PORT[envoy-admin]}" /ready && port_is_taken "${PORT[envoy]}" ;;
  esac
}

wait_healthy() {
  local deadline=$((SECONDS + START_SECONDS))
  until is_healthy "$1"; do
    pid_of "$1" >/dev/null || fail_start "$1" "ended at once"
    ((SECONDS < deadline)) || fail_start "$1" "is not healthy after $START_SECONDS s"
    sleep 0.1
  done
}

# fail_start NAME WHY
fail_start() {
  say "$1 $2; the last lines of its log:"
  tail -n 15 "$DIR/$1.log" >&2 || true
  die "could not start $1"
}

# --- commands --------------------------------------------------------------------------------------------------------

# The ports requested now, to compare with those of parts that already run.
ports_asked() {
  local name
  for name in "${!PORT[@]}"; do echo "$name=${PORT[$name]}"; done | sort
}

check_ports_free() {
  local name key taken=
  for key in "${!PORT[@]}"; do
    name=${key%-admin}
    if ! pid_of "$name" >/dev/null && port_is_taken "${PORT[$key]}"; then
      say "port ${PORT[$key]}, wanted for $key, is taken by $(holder_of "${PORT[$key]}")"
      taken=yes
    fi
  done
  [[ -z $taken ]] || die "stop these processes, or choose other ports with TOLLGATE_STACK_*_PORT (see .env.example)"
}

write_envoy_config() {
  # Each address of the file is on one line. Everything here is on loopback, the listener too.
  sed -e "s/address: 0.0.0.0, port_value: 8080 /address: 127.0.0.1, port_value: ${PORT[envoy]} /" \
      -e "s/port_value: 9901 /port_value: ${PORT[envoy-admin]} /" \
      -e "s/address: tollgate, port_value: 8081 /address: 127.0.0.1, port_value: ${PORT[tollgate]} /" \
      -e "s/address: upstream, port_value: 8083 /address: 127.0.0.1, port_value: ${PORT[upstream]} /" \
      "$ROOT/envoy/envoy.yaml" >"$DIR/envoy.yaml"
}

build() {
  if [[ -n ${TOLLGATE_STACK_BIN:-} ]]; then
    [[ -x $TOLLGATE_STACK_BIN ]] || die "TOLLGATE_STACK_BIN names no program: $TOLLGATE_STACK_BIN"
    realpath "$TOLLGATE_STACK_BIN"
    return
  fi
  command -v cargo >/dev/null || die "cargo is missing: install Rust with rustup, or use docker compose"
  say "building tollgate"
  (cd "$ROOT" && cargo build --release --locked --bin tollgate) >&2 || return
  echo "${CARGO_TARGET_DIR:-$ROOT/target}/release/tollgate"
}

start_part() {
  case $1 in
    redis) # As in docker-compose.yml: nothing on disk, and never evict a counter. The password is on no command line.
      (umask 077 && printf 'requirepass "%s"\n' "${TOLLGATE_STACK_REDIS_PASSWORD:-}" >"$DIR/redis.conf")
      start redis redis-server "$DIR/redis.conf" --bind 127.0.0.1 --port "${PORT[redis]}" --dir "$DIR" \
        --save '' --appendonly no --maxmemory 128mb --maxmemory-policy noeviction ;;
    upstream) start upstream env "TOLLGATE_UPSTREAM_LISTEN=127.0.0.1:${PORT[upstream]}" "$BIN" upstream ;;
    tollgate)
      start tollgate env TOLLGATE_STORE=redis "REDIS_URL=redis://:${TOLLGATE_STACK_REDIS_PASSWORD:-}@127.0.0.1:${PORT[redis]}/0" \
        "TOLLGATE_LISTEN=127.0.0.1:${PORT[tollgate]}" "TOLLGATE_ADMIN=127.0.0.1:${PORT[tollgate-admin]}" "$BIN" serve ;;
    envoy)
      write_envoy_config
      # With hot restart, only one Envoy could run on the machine. By default the access log is only written every 10 s.
      start envoy "$ENVOY" -c "$DIR/envoy.yaml" --disable-hot-restart --file-flush-interval-msec 1000 ;;
  esac
}

up() {
  local name missing=()
  mkdir -p "$DIR"
  if command -v flock >/dev/null; then
    exec 9>"$DIR/lock"
    flock -n 9 || die "another '$0' is at work on $DIR: wait for it"
  fi
  for name in "${NAMES[@]}"; do
    pid_of "$name" >/dev/null || missing+=("$name")
  done
  if ((${#missing[@]} < ${#NAMES[@]})) && [[ $(ports_asked) != "$(cat "$DIR/ports" 2>/dev/null)" ]]; then
    die "the stack in $DIR runs on other ports: run '$0 down' first"
  fi
  if ((${#missing[@]} == 0)); then
    say "already running:"
    status
    return
  fi
  check_ports_free
  need_program redis-server redis-server
  need_program redis-cli redis-tools
  ENVOY=$(find_envoy) || die "no Envoy to run: see above"
  BIN=$(build) || die "no tollgate to run: see above"
  ports_asked >"$DIR/ports"

  STARTED=()
  # If anything fails from here on, stop everything that was started.
  trap 'stop "${STARTED[@]}"' EXIT
  for name in "${missing[@]}"; do
    start_part "$name"
    wait_healthy "$name"
  done
  trap - EXIT
  status
  say "try: curl -i http://127.0.0.1:${PORT[envoy]}/data"
}

down() {
  local reversed=() name
  for name in "${NAMES[@]}"; do reversed=("$name" "${reversed[@]}"); done
  [[ ! -d $DIR ]] || stop "${reversed[@]}"
  say "stopped"
}

status() {
  local name pid state all=0
  load_running_ports
  for name in "${NAMES[@]}"; do
    if ! pid=$(pid_of "$name"); then
      pid=- state=stopped all=1
    elif is_healthy "$name"; then
      state=healthy
    else
      state=unhealthy all=1
    fi
    printf '%-9s %-9s pid %-8s 127.0.0.1:%s%s\n' "$name" "$state" "$pid" "${PORT[$name]}" \
      "${PORT[$name-admin]:+ admin 127.0.0.1:${PORT[$name-admin]}}"
  done
  return "$all"
}

# The ports of the running parts, not those in the environment now.
load_running_ports() {
  local key value
  [[ -f $DIR/ports ]] || return 0
  while IFS='=' read -r key value; do PORT[$key]=$value; done <"$DIR/ports"
}

logs() {
  local name
  for name in "${@:-${NAMES[@]}}"; do
    [[ " ${NAMES[*]} " == *" $name "* ]] || die "no part is called '$name': choose from ${NAMES[*]}"
    [[ -f $DIR/$name.log ]] || { say "$name has no log yet"; continue; }
    echo "==> $DIR/$name.log <=="
    tail -n 50 "$DIR/$name.log"
  done
}

load_settings
case ${1:-} in
  up | down | status) [[ $# == 1 ]] || die "'$1' takes no argument"; "$1" ;;
  logs) shift; logs "$@" ;;
  *) die "usage: $0 up|down|status|logs [NAME]" ;;
esac
