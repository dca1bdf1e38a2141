#!/usr/bin/env bash
# Installs the real programs that the tests run: Redis, nginx, HAProxy, Caddy, Envoy, Chromium and what scripts/bench.sh needs.
# Prints the path of the Envoy binary.
# Does nothing when all of them are there.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

export PATH=$PATH:/usr/sbin   # where Debian keeps nginx
need_program redis-server redis-server
need_program redis-cli redis-tools
need_program nginx nginx-light
need_program haproxy haproxy
need_program wrk wrk
need_program chromium chromium
need_program chromedriver chromium-driver
find_plot_python >/dev/null
find_caddy >/dev/null
find_envoy
