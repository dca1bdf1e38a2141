"""The measuring of scripts/bench.sh.

Each section measures a few cases in rounds, one after the other within a round, and reports medians over the rounds.
A ratio to the bare responder is that of one round, and then the median of these.
"""

import argparse
import copy
import datetime
import json
import math
import os
import platform
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

TICK = 1e6 / os.sysconf("SC_CLK_TCK")  # in microseconds
CALLERS = 10_000
CONNECTIONS = 64
WINDOW = "1000000/s"

RULES = f"""version: 1
rules:
  - {{ name: data, match: {{ path: /data }}, key: [client_ip], limit: {WINDOW} }}
  - {{ name: over, match: {{ path: /over }}, key: [client_ip], limit: 1/h }}
  - {{ name: many, match: {{ path: /many }}, key: [client_ip], limit: 1000000/h, max_new_keys: 0 }}
  - {{ name: leased, match: {{ path: /leased }}, key: [client_ip], limit: {WINDOW}, lease: {{ share: 10%, ttl: 100ms }} }}
  - {{ name: keyed, match: {{ path: /keyed }}, key: [{{ header: x-api-key }}], limit: {WINDOW} }}
"""


def head(path):
    """The head of a check about a request for `path`; `{caller}` is replaced by an address."""
    return (f"GET /v1/check HTTP/1.1\r\nHost: api.example.com\r\nx-forwarded-method: GET\r\n"
            f"x-forwarded-uri: {path}\r\nx-real-ip: {{caller}}\r\n\r\n")


# What a browser sends along.
BROWSER = "\r\n".join([
    "GET /keyed HTTP/1.1", "Host: api.example.com", "x-api-key: {caller}",
    "user-agent: Mozilla/5.0 (X11; Linux x86_64; rv:144.0) Gecko/20100101 Firefox/144.0",
    "accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", "accept-language: en-US,en;q=0.5",
    "accept-encoding: gzip, deflate, br, zstd", "referer: https://www.example.com/", "dnt: 1",
    "cookie: session=f3b1c2d4e5a69788; theme=dark; consent=all", "sec-fetch-dest: document",
    "sec-fetch-mode: navigate", "sec-fetch-site: same-origin", "cache-control: no-cache", "", ""])

THROUGH_ENVOY = "GET /keyed HTTP/1.1\r\nHost: api.example.com\r\nx-api-key: {caller}\r\n\r\n"


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


# Processes.

class Process:
    """A server, with its CPU time. Ends with the stage that started it."""

    def __init__(self, stage, args, env=None):
        self.log = open(os.path.join(stage.dir, f"log-{len(stage.processes)}"), "w+")
        self.popen = subprocess.Popen(args, env=env, cwd=stage.dir, stdin=subprocess.DEVNULL, stdout=self.log,
                                      stderr=self.log)
        self.args = args
        stage.processes.append(self)

    def cpu(self):
        """User and system time so far, in microseconds."""
        with open(f"/proc/{self.popen.pid}/stat") as stat:
            fields = stat.read().rpartition(") ")[2].split()
        return (int(fields[11]) + int(fields[12])) * TICK

    def wait_for(self, is_ready):
        deadline = time.monotonic() + 30
        while not is_ready():
            if self.popen.poll() is not None or time.monotonic() > deadline:
                self.log.seek(0)
                raise SystemExit(f"{self.args[0]} did not start:\n{self.log.read()}")
            time.sleep(0.002)

    def stop(self):
        if self.popen.poll() is None:
            self.popen.send_signal(signal.SIGCONT)
            self.popen.terminate()
            try:
                self.popen.wait(5)
            except subprocess.TimeoutExpired:
                self.popen.kill()
                self.popen.wait()
        self.log.close()


def accepts(port):
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
        return True
    except OSError:
        return False


class Server:
    """Something that answers checks: its port, its processes, and the Redis behind them, if any."""

    def __init__(self, port, processes, redis=None):
        self.port, self.processes, self.redis = port, processes, redis

    def cpu(self):
        return sum(process.cpu() for process in self.processes)


class Redis:
    def __init__(self, stage):
        self.port = free_port()
        self.process = Process(stage, ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--save", "",
                                       "--appendonly", "no", "--dir", stage.dir])
        self.process.wait_for(lambda: accepts(self.port))
        self.connection = Resp(self.port)

    def cpu(self):
        return self.process.cpu()

    def evalsha(self):
        """How many calls of scripts there were, and how many microseconds they took, as Redis counts."""
        text = self.connection.ask([b"INFO", b"commandstats"]).decode()
        found = re.search(r"^cmdstat_evalsha:calls=(\d+),usec=(\d+)", text, re.M)
        return (int(found[1]), int(found[2])) if found else (0, 0)


def end_of_value(data, at):
    """Where the value of Redis' protocol that begins at `at` ends; None if it is not complete."""
    line = data.find(b"\r\n", at)
    if line < 0:
        return None
    kind, end = data[at:at + 1], line + 2
    if kind == b"$":
        length = int(data[at + 1:line])
        end += length + 2 if length >= 0 else 0
        return end if end <= len(data) else None
    if kind == b"*":
        for _ in range(max(int(data[at + 1:line]), 0)):
            end = end_of_value(data, end)
            if end is None:
                return None
    return end


def encode(command):
    return b"*%d\r\n" % len(command) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in command)


class Resp:
    """A connection to Redis for pipelines of commands that are encoded already."""

    def __init__(self, port):
        self.sock = socket.create_connection(("127.0.0.1", port), 30)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, encoded, count):
        """Sends `count` commands at once, and returns their replies undecoded."""
        self.sock.sendall(encoded)
        data, at = b"", 0
        while count:
            data += self.sock.recv(1 << 20)
            while count:
                end = end_of_value(data, at) if at < len(data) else None
                if end is None:
                    break
                if data[at:at + 1] == b"-":
                    raise SystemExit(f"Redis says {data[at:end].decode().strip()}")
                at, count = end, count - 1
        return data

    def ask(self, command):
        """The reply to one command, a string."""
        return self.send(encode(command), 1).partition(b"\r\n")[2][:-2]


class Recorder(threading.Thread):
    """Stands between tollgate and Redis, and keeps what tollgate sends."""

    def __init__(self, redis_port):
        super().__init__(daemon=True)
        self.redis_port, self.sent = redis_port, []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.start()

    def run(self):
        while True:
            client = self.listener.accept()[0]
            server = socket.create_connection(("127.0.0.1", self.redis_port))
            kept = []
            self.sent.append(kept)
            threading.Thread(target=self.pass_on, args=(client, server, kept), daemon=True).start()
            threading.Thread(target=self.pass_on, args=(server, client, None), daemon=True).start()

    @staticmethod
    def pass_on(source, sink, kept):
        try:
            while data := source.recv(1 << 16):
                if kept is not None:
                    kept.append(data)
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def commands(self):
        for kept in self.sent:
            data, at = b"".join(kept), 0
            while at < len(data) and (end := end_of_value(data, at)) is not None:
                yield data[at:end]
                at = end


class Stage:
    """The servers of a section. They end together."""

    def __init__(self, bench):
        self.bench = bench
        self.dir = tempfile.mkdtemp(prefix="tollgate-bench-")
        self.processes = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in reversed(self.processes):
            process.stop()
        shutil.rmtree(self.dir)

    def bare(self, threads=None):
        port = free_port()
        env = dict(os.environ, **({"TOKIO_WORKER_THREADS": str(threads)} if threads else {}))
        process = Process(self, [self.bench.args.bare, f"127.0.0.1:{port}"], env)
        process.wait_for(lambda: accepts(port))
        return Server(port, [process])

    def tollgate(self, *args, redis=None, redis_port=None, rules=RULES, unix=None):
        port, admin = free_port(), free_port()
        listen = f"unix:{unix}" if unix else f"127.0.0.1:{port}"
        path = os.path.join(self.dir, f"rules-{port}.yaml")
        with open(path, "w") as file:
            file.write(rules)
        env = {k: v for k, v in os.environ.items() if not k.startswith("TOLLGATE_") and k != "REDIS_URL"}
        store = ([f"--redis-url=redis://127.0.0.1:{redis_port or redis.port}"] if redis else ["--store=memory"])
        process = Process(self, [
            self.bench.args.tollgate, "serve", f"--rules={path}", f"--listen={listen}",
            f"--admin=127.0.0.1:{admin}", "--log-level=error", "--log-decisions=none", *store, *args], env)
        process.wait_for(lambda: is_ready(admin))
        return Server(port, [process], redis)

    def three(self, *args, rules=RULES):
        """The bare responder, and tollgate with its two stores."""
        redis = Redis(self)
        return {
            "bare": self.bare(),
            "memory": self.tollgate(*args, rules=rules),
            "redis": self.tollgate(*args, redis=redis, rules=rules),
        }

    # Load.

    def wrk(self, server, request, seconds=None, connections=CONNECTIONS, callers=CALLERS, begin=0, lean=False,
            pipeline=1):
        """Starts wrk; `finish` waits for its figures. `lean` spares wrk the work of putting requests together."""
        before, after = (json.dumps(part) for part in request.split("{caller}"))
        first, *headers = request.rstrip().split("\r\n")
        headers = dict(line.split(": ") for line in headers)
        headers = ", ".join(f"[{json.dumps(name)}] = " + ("caller()" if value == "{caller}" else json.dumps(value))
                            for name, value in headers.items())
        path = os.path.join(self.dir, f"wrk-{server.port}.lua")
        with open(path, "w") as file:
            file.write(WRK % {
                "before": before, "after": after, "path": json.dumps(first.split()[1]), "headers": headers,
                "callers": callers, "begin": begin % callers, "pipeline": pipeline,
                "lean": json.dumps(lean or pipeline > 1)})
        seconds = seconds or self.bench.seconds
        return subprocess.Popen(
            ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout=30s", "-s", path,
             f"http://127.0.0.1:{server.port}"], stdout=subprocess.PIPE, text=True)

    def load(self, server, request, **options):
        """One run of wrk: requests/s, latencies, and CPU per check of the server and of Redis."""
        return self.load_all([server], request, **options)

    def load_all(self, servers, request, connections=CONNECTIONS, **options):
        """The same for several servers that share a Redis, at the same time, with as many connections in all."""
        redis = servers[0].redis
        cpu = sum(server.cpu() for server in servers)
        redis_cpu, calls = (redis.cpu(), redis.evalsha()) if redis else (0, (0, 0))
        runs = [self.wrk(server, request, connections=max(connections // len(servers), 1), **options)
                for server in servers]
        results = [finish(run) for run in runs]
        cpu = sum(server.cpu() for server in servers) - cpu
        requests = sum(result["requests"] for result in results)
        row = {name: max(result[name] for result in results) for name in ["p50", "p99", "max"]}
        row |= {"rps": sum(result["requests"] / result["seconds"] for result in results), "cpu": cpu / requests,
                "errors": sum(result["errors"] for result in results)}
        if redis:
            now = redis.evalsha()
            row |= {"redis": (redis.cpu() - redis_cpu) / requests, "calls": (now[0] - calls[0]) / requests,
                    "call_us": (now[1] - calls[1]) / max(now[0] - calls[0], 1)}
        return row

    def paced(self, server, request, rate, seconds, connections=CONNECTIONS):
        """Requests at a fixed rate: latencies from the moment when each was due."""
        path = os.path.join(self.dir, "head")
        with open(path, "w", newline="") as file:
            file.write(request)
        cpu = server.cpu()
        out = subprocess.run(
            [self.bench.args.paced, f"127.0.0.1:{server.port}", str(rate), str(seconds), str(connections),
             str(CALLERS), path], stdout=subprocess.PIPE, check=True, text=True).stdout
        row = dict(zip(["sent", "p50", "p99", "p999", "max", "errors"], map(float, out.split())))
        return row | {"cpu": (server.cpu() - cpu) / row["sent"]}


# Each connection asks for the next caller. 7919 is prime to every number of callers, so that all have a turn.
WRK = """
local before, after, n, floor = %(before)s, %(after)s, %(begin)d, math.floor
local function caller()
  n = (n + 7919) %% %(callers)d
  return "10." .. floor(n / 65536) .. "." .. floor(n / 256) %% 256 .. "." .. n %% 256
end
if %(lean)s then
  request = function()
    local all = {}
    for i = 1, %(pipeline)d do all[i] = before .. caller() .. after end
    return table.concat(all)
  end
else
  request = function()
    return wrk.format("GET", %(path)s, { %(headers)s })
  end
end
done = function(summary, latency)
  local errors = summary.errors
  io.write(string.format("RESULT %%d %%d %%d %%d %%d %%d\\n", summary.requests, summary.duration,
    latency:percentile(50), latency:percentile(99), latency.max,
    errors.connect + errors.read + errors.write + errors.timeout + errors.status))
end
"""


def finish(run):
    out, _ = run.communicate()
    found = re.search(r"^RESULT (.*)$", out, re.M)
    if run.returncode or not found:
        raise SystemExit(f"wrk failed:\n{out}")
    requests, duration, p50, p99, longest, errors = map(int, found[1].split())
    if not requests:
        raise SystemExit(f"nothing was answered:\n{out}")
    return {"requests": requests, "seconds": duration / 1e6, "p50": p50, "p99": p99, "max": longest, "errors": errors}


def is_ready(admin, path="/readyz"):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{admin}{path}", timeout=1) as answer:
            return answer.status == 200
    except OSError:
        return False


# Figures.

def median(rows, field):
    return statistics.median(row[field] for row in rows)


def ratio(rows, bare, field):
    """The median of the ratios within each round."""
    return statistics.median(row[field] / max(beside[field], 0.01) for row, beside in zip(rows, bare))


def ms(us):
    return f"{us / 1000:.2f} ms"


def us(value):
    return f"{value:.1f} µs"


def times(value):
    return f"× {value:.2f}"


def table(columns, rows):
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines) + "\n"


def unexpected(results):
    """A line about answers that were not 200, if there were any."""
    wrong = {name: sum(row["errors"] for row in rows) for name, rows in results.items()}
    wrong = [f"{name}: {count:.0f}" for name, count in wrong.items() if count]
    return f"\nAnswers other than 200: {', '.join(wrong)}.\n" if wrong else ""


NAMES = {"bare": "bare hyper", "memory": "tollgate, memory", "redis": "tollgate, Redis",
         "single": "tollgate, Redis, `--redis-batch 1`"}
# Readable on white and on black.
GREY = "#808080"
COLOURS = {"bare": "#8f8f8f", "memory": "#3d8fe0", "redis": "#dd6b2f", "single": "#9b63c4"}


class Bench:
    def __init__(self, args):
        self.args = args
        self.quick = args.quick
        self.seconds = 1 if args.quick else 2
        usage = subprocess.run([args.tollgate, "serve", "--help"], stdout=subprocess.PIPE, check=True, text=True).stdout
        self.flags = set(re.findall(r"--[a-z-]+", usage))
        self.texts = {}
        self.targets = []
        self.plots = {}

    def flag(self, name, value):
        """The option, if this tollgate has it."""
        return [f"{name}={value}"] if name in self.flags else []

    def rounds(self, count, cases):
        """Runs each case once a round. Each round begins with another."""
        count = 1 if self.quick else count
        results, names = {name: [] for name in cases}, list(cases)
        for n in range(count):
            for name in names[n % len(names):] + names[:n % len(names)]:
                results[name].append(cases[name]())
        return results

    def target(self, what, most, measured, unit, least=None):
        goal = f"≥ {least}" if least is not None else f"≤ {most}"
        met = measured >= least if least is not None else measured <= most
        self.targets.append([what, f"{goal}{unit}", f"{measured:.3g}{unit}", "yes" if met else "no"])

    # Sections. Each returns the text that goes into docs/benchmarks.md.

    def endpoint(self):
        """requests/s, latencies and CPU of the check endpoint, with 1, 2 and 64 connections"""
        few = [1, 2, CONNECTIONS]
        with Stage(self) as stage:
            servers = stage.three()
            if single := self.flag("--redis-batch", 1):
                servers["single"] = stage.tollgate(*single, redis=servers["redis"].redis)
            cases = {
                (name, count): lambda server=server, count=count: stage.load(server, head("/data"), connections=count)
                for count in few for name, server in servers.items()}
            cases |= {
                (name, "lean"): lambda server=server: stage.load(server, head("/data"), lean=True)
                for name, server in servers.items() if name != "single"}
            results = self.rounds(5, cases)
        rows = []
        for (name, count), runs in results.items():
            bare = results["bare", count]
            rows.append([
                f"{CONNECTIONS}, wrk does less" if count == "lean" else count, NAMES[name],
                f"{median(runs, 'rps'):,.0f}", times(ratio(runs, bare, "rps")), ms(median(runs, "p50")),
                ms(median(runs, "p99")), us(median(runs, "cpu")), times(ratio(runs, bare, "cpu")),
                us(median(runs, "redis")) if "redis" in runs[0] else ""])
        bare, memory, redis = (results[name, CONNECTIONS] for name in ["bare", "memory", "redis"])
        self.target("CPU per check, memory", 1.2, ratio(memory, bare, "cpu"), " × bare")
        self.target("CPU per check, Redis", 1.5, ratio(redis, bare, "cpu"), " × bare")
        self.target("requests/s, Redis", None, ratio(redis, bare, "rps"), " × bare", least=0.6)
        self.target("CPU of Redis per check", 5, median(redis, "redis"), " µs")
        self.plots["throughput"] = lambda plot: plot.bars(
            "requests/s", [f"{count} connection{'s' * (count > 1)}" for count in few],
            {name: [median(results[name, count], "rps") for count in few] for name in servers})
        own = median(memory, "cpu") - median(bare, "cpu")
        asking = median(redis, "cpu") - median(memory, "cpu")
        http = median(bare, "cpu")
        self.plots["cpu"] = lambda plot: plot.stacked(
            f"µs of CPU per check, {CONNECTIONS} connections", ["bare hyper", "memory", "Redis"],
            {"HTTP, as bare hyper": [http] * 3, "deciding": [0, own, own], "asking Redis": [0, 0, asking],
             "Redis itself": [0, 0, median(redis, "redis")]})
        named = {f"{NAMES[name]}, {count}": runs for (name, count), runs in results.items()}
        return table(["connections", "", "requests/s", "× bare", "p50", "p99", "CPU per check", "× bare",
                      "CPU of Redis"], rows) + unexpected(named)

    def raw(self):
        """the same script called in Redis without tollgate, in pipelines"""
        seconds = 0.2 if self.quick else 1
        with Stage(self) as stage:
            redis = Redis(stage)
            recorder = Recorder(redis.port)
            recorded = stage.tollgate(*self.flag("--redis-batch", 1), redis=redis, redis_port=recorder.port)
            finish(stage.wrk(recorded, head("/data"), seconds=1, connections=1))
            for process in recorded.processes:
                process.stop()
            # The script as tollgate calls it, and nothing else: no heartbeats.
            calls = [command for command in recorder.commands() if b"EVALSHA" in command[:30] and b"{data" in command]
            if not calls:
                raise SystemExit("tollgate called no script of Redis")
            # Enough callers that pipelines differ.
            calls = calls[:1024]
            one = encode([b"EVALSHA", redis.connection.ask([b"SCRIPT", b"LOAD", b"return 1"]), b"0"])
            scripts = {"`charge.lua`, as tollgate calls it": calls, "`return 1`": [one]}

            def replay(commands, depth):
                batches = [b"".join(commands[(at + n) % len(commands)] for n in range(depth))
                           for at in range(0, max(len(commands), 1), depth)]
                cpu, before, count = redis.cpu(), redis.evalsha(), 0
                begin = time.monotonic()
                while time.monotonic() - begin < seconds:
                    for batch in batches:
                        redis.connection.send(batch, depth)
                        count += depth
                after = redis.evalsha()
                return {"cpu": (redis.cpu() - cpu) / count, "rps": count / (time.monotonic() - begin),
                        "own": (after[1] - before[1]) / (after[0] - before[0])}

            def through_tollgate():
                row = stage.load(server, head("/data"))
                return {"cpu": row["redis"], "own": row["call_us"] * row["calls"]}

            server = stage.tollgate(redis=redis)
            cases = {(name, depth): lambda commands=commands, depth=depth: replay(commands, depth)
                     for name, commands in scripts.items() for depth in [1, 16, 64]}
            results = self.rounds(3, cases | {
                (f"tollgate with {CONNECTIONS} connections, per check", ""): through_tollgate})
        longest = results[next(iter(scripts)), 64]
        return table(
            ["", "calls in a pipeline", "CPU of Redis per call", "of that in the script, by Redis' count",
             "× 64 in a pipeline"],
            [[name, depth, us(median(runs, "cpu")), us(median(runs, "own")), times(ratio(runs, longest, "cpu"))]
             for (name, depth), runs in results.items()])

    def hot(self):
        """how often Redis is asked about one busy caller, and about one over its limit"""
        with Stage(self) as stage:
            bare, redis = stage.bare(), Redis(stage)
            default = stage.tollgate(redis=redis)
            cases = {"bare hyper": (bare, "/data", CALLERS), "10,000 callers": (default, "/data", CALLERS),
                     "one caller": (default, "/data", 1), "one caller, with a `lease`": (default, "/leased", 1),
                     "one caller, over its limit": (default, "/over", 1)}
            if single := self.flag("--redis-batch", 1):
                cases["one caller, `--redis-batch 1`"] = (stage.tollgate(*single, redis=redis), "/data", 1)
            if forget := self.flag("--remember-denials", "false"):
                forgets = stage.tollgate(*forget, redis=redis)
                cases["one caller, over its limit, `--remember-denials false`"] = (forgets, "/over", 1)
            results = self.rounds(3, {
                name: lambda server=server, path=path, callers=callers: stage.load(server, head(path), callers=callers)
                for name, (server, path, callers) in cases.items()})
        beside = results["bare hyper"]
        self.target("calls of Redis per check, one hot caller", 0.1, median(results["one caller"], "calls"), "")
        self.target("the same, over its limit", 0.01, median(results["one caller, over its limit"], "calls"), "")
        return table(["", "requests/s", "calls per check", "CPU per check", "× bare", "CPU of Redis per check"], [
            [name, f"{median(runs, 'rps'):,.0f}", f"{median(runs, 'calls'):.4f}" if "calls" in runs[0] else "",
             us(median(runs, "cpu")), times(ratio(runs, beside, "cpu")),
             us(median(runs, "redis")) if "redis" in runs[0] else ""] for name, runs in results.items()])

    def program(self):
        """the program's size, and how long it takes to be ready"""
        size = os.path.getsize(self.args.tollgate) / 1e6
        starts = {"memory": [], "Redis": []}
        for _ in range(1 if self.quick else 9):
            for name, times in starts.items():
                with Stage(self) as stage:
                    redis = Redis(stage) if name == "Redis" else None
                    begin = time.monotonic()
                    stage.tollgate(redis=redis)
                    times.append((time.monotonic() - begin) * 1000)
        self.target("size of the program", 10, size, " MB")
        self.target("from start to ready", 50, statistics.median(starts["Redis"]), " ms")
        return table(["", "measured"], [
            ["size of the program", f"{size:.1f} MB"],
            *([f"from start to ready, {name}", f"{statistics.median(times):.1f} ms, {max(times):.1f} at most"]
              for name, times in starts.items())])

    def rates(self):
        """latencies at fixed rates, corrected for coordinated omission"""
        rates = [200, 400, 800] if self.quick else [1_000, 5_000, 10_000]
        seconds = 1 if self.quick else 3
        with Stage(self) as stage:
            servers = stage.three()
            results = self.rounds(3, {
                (rate, name): lambda server=server, rate=rate: stage.paced(server, head("/data"), rate, seconds)
                for rate in rates for name, server in servers.items()})
        marks = {"p50": "50 %", "p99": "99 %", "p999": "99.9 %"}
        self.plots["latency"] = lambda plot: plot.panels(
            "ms, from when the request was due", [
                (f"{rate:,} requests/s", list(marks.values()), {
                    name: [median(results[rate, name], mark) / 1000 for mark in marks] for name in servers})
                for rate in rates], log=True)
        named = {f"{NAMES[name]} at {rate:,}/s": runs for (rate, name), runs in results.items()}
        return table(["requests/s", "", "p50", "p99", "p99.9", "longest", "CPU per check", "× bare"], [
            [f"{rate:,}", NAMES[name], *(ms(median(runs, mark)) for mark in [*marks, "max"]), us(median(runs, "cpu")),
             times(ratio(runs, results[rate, "bare"], "cpu"))]
            for (rate, name), runs in results.items()]) + unexpected(named)

    def scale(self, what, sizes, results):
        """The table of a section whose cases are of several sizes, beside `bare`."""
        bare = results["bare", None]
        stores = list(dict.fromkeys(name for name, _ in results if name != "bare"))
        powers = [f"10{'⁰¹²³⁴⁵⁶'[round(math.log10(size))]}" for size in sizes]
        places = powers if max(sizes) > 1000 else [f"{size:,}" for size in sizes]
        self.scaling[what] = (what, places, {
            name: [ratio(results[name, size], bare, "cpu") for size in sizes] for name in stores})
        return table([what, "", "requests/s", "p99", "CPU per check", "× bare", "CPU of Redis"], [
            [f"{size:,}" if size else "", NAMES[name], f"{median(runs, 'rps'):,.0f}", ms(median(runs, "p99")),
             us(median(runs, "cpu")), times(ratio(runs, bare, "cpu")),
             us(median(runs, "redis")) if "redis" in runs[0] else ""]
            for (name, size), runs in results.items()]) + unexpected(
                {f"{NAMES[name]}, {size or ''}": runs for (name, size), runs in results.items()})

    def callers(self):
        """10^2 to 10^6 callers, each with a counter"""
        sizes = [10 ** n for n in range(2, 7)]
        with Stage(self) as stage:
            servers = stage.three("--max-keys=1100000")
            # Each caller has its counter before the rounds.
            for name in ["memory", "redis"]:
                asked = 0
                while asked < (5_000 if self.quick else 1_100_000):
                    run = stage.wrk(servers[name], head("/many"), callers=10 ** 6, begin=asked * 7919, pipeline=32)
                    asked += finish(run)["requests"]
            begin = iter(range(0, 10 ** 9, 31_337))
            cases = {("bare", None): lambda: stage.load(servers["bare"], head("/many"))}
            cases |= {(name, size): lambda name=name, size=size: stage.load(
                servers[name], head("/many"), callers=size, begin=next(begin) * 7919)
                for size in sizes for name in ["memory", "redis"]}
            return self.scale("callers", sizes, self.rounds(3, cases))

    def rules(self):
        """1 to 1,000 rules, of which the last matches"""
        sizes = [1, 10, 100, 1000]
        with Stage(self) as stage:
            bare, redis = stage.bare(), Redis(stage)
            cases = {("bare", None): lambda: stage.load(bare, head("/data"))}
            for size in sizes:
                rules = "version: 1\nrules:\n" + "".join(
                    f"  - {{ name: r{n}, match: {{ path: '/v1/service{n}/{{id}}' }}, key: [client_ip], "
                    f"limit: {WINDOW} }}\n" for n in range(size))
                request = head(f"/v1/service{size - 1}/42")
                for name, options in [("memory", {}), ("redis", {"redis": redis})]:
                    server = stage.tollgate(rules=rules, **options)
                    cases[name, size] = lambda server=server, request=request: stage.load(server, request)
            return self.scale("rules", sizes, self.rounds(3, cases))

    def replicas(self):
        """1 to 4 replicas that share a Redis and the load"""
        sizes = [1, 2, 3, 4]
        with Stage(self) as stage:
            bare, redis = stage.bare(), Redis(stage)
            all_of_them = [stage.tollgate(redis=redis) for _ in range(max(sizes))]
            cases = {("bare", None): lambda: stage.load(bare, head("/data"))}
            cases |= {("redis", size): lambda size=size: stage.load_all(all_of_them[:size], head("/data"))
                      for size in sizes}
            return self.scale("replicas", sizes, self.rounds(3, cases))

    def threads(self):
        """one thread and two"""
        sizes = [1, 2]
        with Stage(self) as stage:
            redis = Redis(stage)
            cases = {}
            for size in sizes:
                for name, server in [("bare", stage.bare(size)), ("memory", stage.tollgate(f"--threads={size}")),
                                     ("redis", stage.tollgate(f"--threads={size}", redis=redis))]:
                    cases[name, size] = lambda server=server: stage.load(server, head("/data"))
            results = self.rounds(3, cases)
        self.scaling["threads"] = ("threads", ["1", "2"], {
            name: [ratio(results[name, size], results["bare", size], "cpu") for size in sizes]
            for name in ["memory", "redis"]})
        return table(["threads", "", "requests/s", "× bare", "p99", "CPU per check", "× bare", "CPU of Redis"], [
            [size, NAMES[name], f"{median(runs, 'rps'):,.0f}", times(ratio(runs, results["bare", size], "rps")),
             ms(median(runs, "p99")), us(median(runs, "cpu")), times(ratio(runs, results["bare", size], "cpu")),
             us(median(runs, "redis")) if "redis" in runs[0] else ""] for (name, size), runs in results.items()])

    def hang(self):
        """checks while Redis hangs"""
        with Stage(self) as stage:
            redis = Redis(stage)
            server = stage.tollgate(redis=redis)
            # Not asked for its CPU time: it does not answer.
            server.redis = None

            def stopped():
                stage.load(server, head("/data"), seconds=1)
                redis.process.popen.send_signal(signal.SIGSTOP)
                try:
                    return stage.load(server, head("/data"), seconds=1 if self.quick else 3)
                finally:
                    redis.process.popen.send_signal(signal.SIGCONT)
                    time.sleep(1)

            results = self.rounds(2, {"tollgate, Redis": stopped})
        return table(["requests/s", "p50", "p99", "longest", "not 200"], [
            [f"{median(runs, 'rps'):,.0f}", ms(median(runs, "p50")), ms(median(runs, "p99")), ms(median(runs, "max")),
             f"{sum(run['errors'] for run in runs):.0f}"] for runs in results.values()])

    def envoy(self):
        """requests through Envoy with one worker"""
        rate, seconds = (200, 1) if self.quick else (1_000, 3)
        with Stage(self) as stage:
            upstream, servers = stage.bare(), stage.three()
            fronts = start_envoy(stage, upstream, servers)
            # Connections that are new, in Envoy and behind it, would count as latency.
            for front in fronts.values():
                finish(stage.wrk(front, THROUGH_ENVOY, seconds=1, connections=32))
            busy = self.rounds(5, {name: lambda front=front: stage.load(front, THROUGH_ENVOY, connections=32)
                                   for name, front in fronts.items()})
            paced = self.rounds(5, {name: lambda front=front: stage.paced(front, THROUGH_ENVOY, rate, seconds, 32)
                                    for name, front in fronts.items()})
        rows = []
        for name, runs in busy.items():
            added = statistics.median(row["p99"] - bare["p99"] for row, bare in zip(paced[name], paced["bare"]))
            rows.append([
                "no limiter" if name == "none" else NAMES[name], f"{median(runs, 'rps'):,.0f}",
                times(ratio(runs, busy["bare"], "rps")), us(median(runs, "cpu")), ms(median(paced[name], "p50")),
                ms(median(paced[name], "p99")), f"{added / 1000:+.2f} ms"])
            if name in ["memory", "redis"]:
                where = "memory" if name == "memory" else "Redis"
                self.target(f"requests/s through Envoy, {where}", None, ratio(runs, busy["bare"], "rps"), " × bare",
                            least=0.96)
                self.target(f"p99 added at {rate:,} requests/s through Envoy, {where}", 0.5, added / 1000, " ms")
        self.plots["envoy"] = lambda plot: plot.bars(
            "requests/s through Envoy", [""], {name: [median(runs, "rps")] for name, runs in busy.items()})
        named = {NAMES.get(name, name): runs + paced[name] for name, runs in busy.items()}
        return table(["asked by Envoy", "requests/s", "× bare", "CPU of Envoy per request",
                      f"p50 at {rate:,}/s", f"p99 at {rate:,}/s", "more than bare"], rows) + unexpected(named)

    def ways(self):
        """how Envoy asks: over TCP or a Unix socket, with few or many headers"""
        with Stage(self) as stage:
            unix = os.path.join(stage.dir, "checks.sock")
            tcp, behind = stage.tollgate(), stage.tollgate(unix=unix)
            # Each time the same tollgate, so that only the way differs.
            servers = {"as shipped": tcp, "Unix socket": behind, "all headers of the client": tcp,
                       "no header back": tcp}

            def change(name, cluster, authz):
                service = authz["http_service"]
                if name == "Unix socket":
                    endpoints = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]
                    endpoints[0]["endpoint"]["address"] = {"pipe": {"path": unix}}
                    cluster["type"] = "STATIC"
                elif name == "all headers of the client":
                    authz["allowed_headers"] = {"patterns": [{"safe_regex": {"regex": ".*"}}]}
                elif name == "no header back":
                    del service["authorization_response"]

            fronts = start_envoy(stage, stage.bare(), servers, change)
            del fronts["none"]
            for front in fronts.values():
                finish(stage.wrk(front, BROWSER, seconds=1, connections=32))

            def load(name):
                before = servers[name].cpu()
                row = stage.load(fronts[name], BROWSER, connections=32)
                return row | {"own": (servers[name].cpu() - before) / (row["rps"] * self.seconds)}

            results = self.rounds(5, {name: lambda name=name: load(name) for name in fronts})
        shipped = results["as shipped"]
        return table(["", "requests/s", "× as shipped", "CPU of Envoy per request", "× as shipped",
                      "CPU of tollgate per check"], [
            [name, f"{median(runs, 'rps'):,.0f}", times(ratio(runs, shipped, "rps")), us(median(runs, "cpu")),
             times(ratio(runs, shipped, "cpu")), us(median(runs, "own"))]
            for name, runs in results.items()]) + unexpected(results)

    def parts(self):
        """`cargo bench`: matching, normalising, charging and deciding without a network"""
        # Criterion writes its progress to where errors go.
        done = subprocess.run(["cargo", "bench", "--locked", "--bench", "decide", "--", "--warm-up-time", "0.3",
                               "--measurement-time", "1"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        if done.returncode:
            raise SystemExit(f"cargo bench failed:\n{done.stderr}")
        base = os.path.join(os.environ.get("CARGO_TARGET_DIR", "target"), "criterion")
        found = {}
        for folder, _, files in os.walk(base):
            if os.path.basename(folder) == "new" and "estimates.json" in files:
                with open(os.path.join(folder, "estimates.json")) as file:
                    name = os.path.relpath(os.path.dirname(folder), base)
                    found[name] = json.load(file)["median"]["point_estimate"] / 1000
        rows = []
        for what, names in PARTS:
            values = [found.get(name) for name in names]
            figures = ", ".join("?" if value is None else f"{value:,.2f}" for value in values)
            rows.append([what, f"{figures} µs"])
        return table(["", "one core"], rows)

    def machine(self):
        cpu = "unknown"
        with open("/proc/cpuinfo") as info:
            if found := re.search(r"^model name\s*: (.*)$", info.read(), re.M):
                cpu = found[1]

        def version(*command):
            return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True).stdout

        redis = re.search(r"v=([\d.]+)", version("redis-server", "--version"))[1]
        rust = re.search(r"rustc ([\d.]+)", version("rustc", "--version") + "rustc 0")[1]
        envoy = re.search(r"/(\d+\.\d+\.\d+)/|$", version(self.args.envoy, "--version"))[1]
        kernel = platform.release().split("-")[0]
        lines = [f"Measured on {datetime.date.today()}: {os.cpu_count()} cores ({cpu}),",
                 f"Linux {kernel}, Redis {redis}, Envoy {envoy}, rustc {rust}."]
        if self.quick:
            lines.append("This was a try (`--quick`) with a debug build: its figures mean nothing.")
        return "\n".join(lines) + "\n"

    def run(self):
        self.scaling = {}
        chosen = self.args.only or [name for name in SECTIONS if not (self.quick and name == "parts")]
        self.texts["machine"] = self.machine()
        for name in chosen:
            begin = time.monotonic()
            print(f"bench.sh: {name}: {SECTIONS[name].__doc__}", file=sys.stderr, flush=True)
            text = SECTIONS[name](self)
            self.texts[name] = text
            print(f"## {name} ({time.monotonic() - begin:.0f} s)\n\n{text}", flush=True)
        if self.targets:
            rows = table(["target", "", "measured", "met"], self.targets)
            print(f"## targets\n\n{rows}", flush=True)
            # A part of them would look like all.
            if {"endpoint", "hot", "program", "envoy"} <= set(chosen):
                self.texts["targets"] = rows
        if len(self.scaling) == 4:
            self.plots["scaling"] = lambda plot: plot.panels(
                "CPU per check, × bare", list(self.scaling.values()), zero=True)


PARTS = [
    ("match 1, 100 or 1,000 rules that differ in their path, the last one matches",
     ["match/path/1", "match/path/100", "match/path/1000"]),
    ("match 1 or 1,000 rules that differ in their host", ["match/host/1", "match/host/1000"]),
    ("match 1 or 1,000 rules that differ in a header's value", ["match/header/1", "match/header/1000"]),
    ("match 1 or 1,000 rules that differ in a query parameter's value", ["match/query/1", "match/query/1000"]),
    ("match 1 or 1,000 rules that differ in their clients' CIDR block", ["match/client_ip/1", "match/client_ip/1000"]),
    ("match 1, 100 or 1,000 rules that differ in a regular expression that begins with plain segments",
     ["match/regex/1", "match/regex/100", "match/regex/1000"]),
    ("match 1, 100 or 1,000 rules that differ in any other regular expression of the path",
     ["match/any_regex/1", "match/any_regex/100", "match/any_regex/1000"]),
    ("the same, with large counts in the expressions (`/[a-z0-9-]{1,64}/service7/(?P<id>[^/]{1,64})`)",
     ["match/counting_regex/1", "match/counting_regex/100", "match/counting_regex/1000"]),
    ("match a list of 1 or 200,000 addresses", ["client_ip_list/match/1", "client_ip_list/match/200000"]),
    ("normalise a path that is normal already", ["path/normal"]),
    ("normalise `/v1//acme/%7Ejoe/../search/items`", ["path/dotted"]),
    ("charge memory: `fixed_window`, `sliding_window`, `token_bucket`",
     ["memory/fixed_window", "memory/sliding_window", "memory/token_bucket"]),
    ("charge memory: `sliding_log` with 1,000 entries, mostly full", ["memory/sliding_log"]),
    ("a whole decision in memory, 10 rules", ["decide_memory"]),
]

SECTIONS = {name: getattr(Bench, name) for name in [
    "endpoint", "raw", "hot", "program", "rates", "callers", "rules", "replicas", "threads", "hang", "envoy", "ways",
    "parts"]}


def start_envoy(stage, upstream, servers, change=lambda name, cluster, authz: None):
    """One Envoy with a listener for each limiter and one for none, made of envoy/envoy.yaml."""
    import yaml

    with open("envoy/envoy.yaml") as file:
        config = yaml.safe_load(file)
    statics = config["static_resources"]
    listener, = statics["listeners"]
    limiter, = (cluster for cluster in statics["clusters"] if cluster["name"] == "tollgate")
    application, = (cluster for cluster in statics["clusters"] if cluster["name"] == "upstream")

    def address(port):
        return {"socket_address": {"address": "127.0.0.1", "port_value": port}}

    def at(cluster, name, port):
        cluster = copy.deepcopy(cluster)
        cluster["name"] = cluster["load_assignment"]["cluster_name"] = name
        cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"] = address(port)
        return cluster

    admin = free_port()
    config["admin"]["address"] = address(admin)
    statics["clusters"] = [at(application, "upstream", upstream.port)]
    statics["listeners"] = []
    ports = {}
    for name in ["none", *servers]:
        front = copy.deepcopy(listener)
        ports[name] = free_port()
        front |= {"name": name, "address": address(ports[name])}
        manager = front["filter_chains"][0]["filters"][0]["typed_config"]
        del manager["access_log"]
        manager["stat_prefix"] = name
        filters = manager["http_filters"]
        ask, = (one for one in filters if one["name"] == "envoy.filters.http.ext_authz")
        if name == "none":
            filters.remove(ask)
        else:
            ask["typed_config"]["http_service"]["server_uri"]["cluster"] = name
            # So that a check that fails is noticed.
            ask["typed_config"]["failure_mode_allow"] = False
            cluster = at(limiter, name, servers[name].port)
            change(name, cluster, ask["typed_config"])
            statics["clusters"].append(cluster)
        statics["listeners"].append(front)
    path = os.path.join(stage.dir, "envoy.yaml")
    with open(path, "w") as file:
        yaml.safe_dump(config, file)
    process = Process(stage, [stage.bench.args.envoy, "-c", path, "--disable-hot-restart", "--concurrency",
                              "1", "--log-level", "warning"])
    process.wait_for(lambda: is_ready(admin, "/ready") and all(accepts(port) for port in ports.values()))
    return {name: Server(port, [process]) for name, port in ports.items()}


class Plotter:
    """Draws plots: small SVG files, readable on white and on black."""

    def __init__(self, folder):
        import matplotlib

        matplotlib.use("svg")
        matplotlib.rcParams |= {
            "svg.fonttype": "none", "svg.hashsalt": "tollgate", "font.family": "sans-serif", "font.size": 9,
            "text.color": GREY, "axes.labelcolor": GREY, "axes.edgecolor": GREY, "xtick.color": GREY,
            "ytick.color": GREY, "axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": 9,
            "legend.frameon": False,
        }
        from matplotlib import pyplot, ticker

        self.pyplot, self.ticker, self.folder = pyplot, ticker, folder
        os.makedirs(folder, exist_ok=True)

    def draw(self, name, plot):
        self.figure = None
        plot(self)
        self.figure.savefig(os.path.join(self.folder, f"{name}.svg"), transparent=True, bbox_inches="tight",
                            metadata={"Date": None})
        self.pyplot.close(self.figure)

    @staticmethod
    def name(series):
        return NAMES.get(series, "no limiter" if series == "none" else series).replace("`", "")

    def bars(self, label, groups, series):
        """Bars in groups, one of each colour in a group."""
        self.figure, axes = self.pyplot.subplots(figsize=(6.5, 2.6))
        width = 0.8 / len(series)
        for n, (name, values) in enumerate(series.items()):
            places = [group + (n - (len(series) - 1) / 2) * width for group in range(len(groups))]
            bars = axes.bar(places, values, width * 0.92, label=self.name(name), color=COLOURS.get(name, "#3aa57a"))
            axes.bar_label(bars, [f"{value / 1000:.0f}k" if value >= 10_000 else f"{value:,.0f}" for value in values])
        axes.set_xticks(range(len(groups)), groups)
        axes.set_ylabel(label)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))

    def stacked(self, label, columns, parts):
        """Bars whose parts add up."""
        self.figure, axes = self.pyplot.subplots(figsize=(6.5, 2))
        left = [0.0] * len(columns)
        for (name, values), colour in zip(parts.items(), ["#8f8f8f", "#3d8fe0", "#dd6b2f", "#c9a227"]):
            # Noise can make a difference negative.
            values = [max(value, 0) for value in values]
            bars = axes.barh(columns, values, left=left, label=name, color=colour, height=0.6)
            axes.bar_label(bars, [f"{value:.1f}" if value else "" for value in values], label_type="center",
                           color="black")
            left = [a + b for a, b in zip(left, values)]
        axes.invert_yaxis()
        axes.set_xlabel(label)
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))

    def panels(self, label, panels, log=False, zero=False):
        """Lines over a few places, in panels beside each other: (title, places, series)."""
        self.figure, all_axes = self.pyplot.subplots(1, len(panels), figsize=(2.2 * len(panels), 2.3), sharey=True)
        for axes, (title, places, series) in zip(all_axes, panels):
            for name, values in series.items():
                axes.plot(range(len(places)), values, marker="o", markersize=4, color=COLOURS[name],
                          label=self.name(name))
            axes.set_xticks(range(len(places)), places, fontsize=7)
            axes.margins(x=0.15)
            axes.set_title(title)
            axes.grid(axis="y", color=GREY, alpha=0.25)
            if log:
                axes.set_yscale("log")
                axes.yaxis.set_major_locator(self.ticker.LogLocator(subs=(1, 2, 5)))
                axes.yaxis.set_minor_locator(self.ticker.NullLocator())
                axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        if zero:
            all_axes[0].set_ylim(bottom=0)
        all_axes[0].set_ylabel(label)
        entries = {}
        for axes in all_axes:
            for handle, name in zip(*axes.get_legend_handles_labels()):
                entries.setdefault(name, handle)
        self.figure.legend(entries.values(), entries.keys(), loc="lower center", bbox_to_anchor=(0.5, -0.12),
                           ncols=len(entries))


def write(bench, path):
    """Puts each text between its marks in a document, and the plots into the folder of its name."""
    with open(path) as file:
        document = file.read()
    for name, text in bench.texts.items():
        marks = re.compile(f"(<!-- measured by scripts/bench.sh: {name} -->\n).*?(<!-- end of measured -->)", re.S)
        document, count = marks.subn(lambda found: f"{found[1]}\n{text}\n{found[2]}", document)
        if count != 1:
            raise SystemExit(f"{path} has {count} places for {name}")
    plotter = Plotter(path.removesuffix(".md"))
    for name, plot in bench.plots.items():
        plotter.draw(name, plot)
    with open(path, "w") as file:
        file.write(document)
    print(f"wrote {path}")


def main():
    sections = "\n".join(f"  {name:10}{section.__doc__}" for name, section in SECTIONS.items())
    parser = argparse.ArgumentParser(prog="scripts/bench.sh", epilog=f"sections:\n{sections}",
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    for program in ["--tollgate", "--bare", "--paced", "--envoy"]:
        parser.add_argument(program, type=os.path.abspath, required=True, help=argparse.SUPPRESS)
    parser.add_argument("--quick", action="store_true", help="tries all out in two minutes; its figures mean nothing")
    parser.add_argument("--only", type=lambda text: text.split(","), metavar="NAME,…", help="some of the sections")
    parser.add_argument("--write", nargs="?", const="docs/benchmarks.md", metavar="FILE",
                        help="writes the tables into FILE (docs/benchmarks.md), and plots beside it")
    args = parser.parse_args()
    if unknown := set(args.only or []) - set(SECTIONS):
        parser.error(f"no such section: {', '.join(unknown)}")
    if args.quick and args.write == "docs/benchmarks.md":
        parser.error("the figures of --quick do not belong into docs/benchmarks.md")
    # So that what was started ends.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    bench = Bench(args)
    begin = time.monotonic()
    bench.run()
    if args.write:
        write(bench, args.write)
    print(f"{time.monotonic() - begin:.0f} s in all")


if __name__ == "__main__":
    main()
