"""The load and the measuring of scripts/redis_cost.sh."""

import argparse
import os
import random
import socket
import statistics
import struct
import subprocess
import tempfile
import time

SCRIPT = "src/store/redis/charge.lua"
ALGORITHMS = {"fixed_window": (1, 1_000_000), "sliding_window": (2, 1_000_000), "token_bucket": (3, 1_000_000),
              "sliding_log": (4, 20)}
WINDOW = 60_000_000


class Redis:
    """A Redis of its own, and a connection."""

    def __init__(self, folder):
        path = os.path.join(folder, "redis.sock")
        options = ["--port", "0", "--unixsocket", path, "--save", "", "--appendonly", "no", "--dir", folder]
        self.process = subprocess.Popen(["redis-server", *options], stdout=subprocess.DEVNULL)
        self.socket = socket.socket(socket.AF_UNIX)
        deadline = time.monotonic() + 10
        while True:
            try:
                self.socket.connect(path)
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
        self.replies = self.socket.makefile("rb")

    def read(self):
        line = self.replies.readline()
        kind, rest = line[:1], line[1:-2]
        if kind == b"*":
            return [self.read() for _ in range(int(rest))]
        if kind == b"$":
            return self.replies.read(int(rest) + 2)[:-2]
        if kind == b"-":
            raise RuntimeError(rest.decode())
        return int(rest) if kind == b":" else rest

    def ask(self, *args):
        self.socket.sendall(encoded(*args))
        return self.read()

    def cpu(self):
        """Seconds of CPU so far, those in the kernel included."""
        with open(f"/proc/{self.process.pid}/stat") as file:
            fields = file.read().rsplit(") ", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stats(self):
        """Microseconds in scripts, and commands that scripts called."""
        lines = self.ask("INFO", "commandstats").decode().split()
        stats = {line.split(":")[0]: dict(pair.split("=") for pair in line.split(":")[1].split(","))
                 for line in lines if line.startswith("cmdstat_")}
        calls = sum(int(stats[f"cmdstat_{name}"]["calls"]) for name in ("get", "set", "time") if f"cmdstat_{name}" in stats)
        return int(stats["cmdstat_evalsha"]["usec"]), calls


def encoded(*args):
    parts = [b"*%d\r\n" % len(args)]
    for arg in args:
        arg = arg if isinstance(arg, bytes) else str(arg).encode()
        parts.append(b"$%d\r\n%s\r\n" % (len(arg), arg))
    return b"".join(parts)


def payload(sha, algorithm, is_old, keys):
    """A pipeline of one check for each key, and how many replies it has."""
    number, amount = ALGORITHMS[algorithm]
    numbers = [1, amount, WINDOW, amount // 60 or 1, WINDOW if amount < 60 else 60_000_000, 0]
    if is_old == "floor":
        return b"".join(encoded("EVALSHA", sha, 0) for _ in keys), len(keys)
    if is_old:
        return b"".join(encoded("EVALSHA", sha, 1, key, number, 0, *numbers) for key in keys), len(keys)
    asked = struct.pack("<BIQQQQQI", number, 0, *numbers)
    return encoded("EVALSHA", sha, len(keys), *keys, asked), 1


def measure(redis, source, algorithm, is_old, size, callers, checks):
    """Microseconds of script and of CPU, and commands of the script, per check."""
    sha = redis.ask("SCRIPT", "LOAD", source)
    redis.ask("FLUSHALL")
    chance = random.Random(7)
    names = [b"tollgate:{data:client_ip=10.0.%d.%d}:%s:60s" % (n // 250, n % 250, algorithm.encode()) for n in range(callers)]
    pipelines = [payload(sha, algorithm, is_old, [chance.choice(names) for _ in range(size)])
                 for _ in range(max(1, min(500, 30_000 // size)))]

    def run(checks):
        done = 0
        while True:
            for sent, replies in pipelines:
                redis.socket.sendall(sent)
                for _ in range(replies):
                    redis.read()
                done += size
                if done >= checks:
                    return done

    run(20_000 if callers > 1 else 1_000)
    redis.ask("CONFIG", "RESETSTAT")
    before = redis.cpu()
    done = run(checks)
    cpu = redis.cpu() - before
    usec, commands = redis.stats()
    return usec / done, cpu / done * 1e6, commands / done


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--old", help="the script from before calls had many checks")
    parser.add_argument("--checks", type=int, default=60_000, help="in one measurement")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sizes", default="1,8,16,32,64,128")
    parser.add_argument("--algorithms", default=",".join(ALGORITHMS))
    options = parser.parse_args()
    scripts = {"return 1": ("return 1", "floor")}
    if options.old:
        with open(options.old) as file:
            scripts["old"] = (file.read(), True)
    with open(SCRIPT) as file:
        scripts["now"] = (file.read(), False)
    print(f"Medians of {options.rounds} interleaved rounds. us of Redis per check: in the script / CPU in all; commands per check")
    with tempfile.TemporaryDirectory() as folder:
        redis = Redis(folder)
        try:
            for algorithm in options.algorithms.split(","):
                for callers in (10_000, 1):
                    for size in map(int, options.sizes.split(",")):
                        found = {name: [] for name in scripts}
                        for _ in range(options.rounds):
                            for name, (source, is_old) in scripts.items():
                                found[name].append(
                                    measure(redis, source, algorithm, is_old, size, callers, options.checks))
                        columns = []
                        for name, rows in found.items():
                            script, cpu, commands = (statistics.median(column) for column in zip(*rows))
                            columns.append(f"{name} {script:5.2f} / {cpu:5.2f}, {commands:4.2f}")
                        print(f"{algorithm:14} {callers:6} callers {size:3} at once:  " + "   ".join(columns), flush=True)
        finally:
            redis.process.kill()
            redis.process.wait()


if __name__ == "__main__":
    main()
