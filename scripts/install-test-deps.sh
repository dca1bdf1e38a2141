#!/usr/bin/env bash
# Installs the real programs that the tests run: Redis, nginx, HAProxy, Caddy, Envoy, Prometheus, Chromium, what checks the
# files in deploy/, and what scripts/bench.sh needs.
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
need_program promtool prometheus
need_program systemd-analyze systemd
need_program dpkg-deb dpkg
# Debian's is too old for components; the kustomize in it must be 5.
kubectl kustomize --help >/dev/null 2>&1 || say "kubectl is missing, and a test needs it: put version 1.27 or later in PATH"
find_kubernetes_validate >/dev/null
need_program chromium chromium
need_program chromedriver chromium-driver
find_plot_python >/dev/null
find_caddy >/dev/null
find_envoy
