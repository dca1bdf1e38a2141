"""The load and the measuring of scripts/memory.sh."""

import argparse
import os
import random
import resource
import selectors
import shutil
import signal
import socket
import subprocess
import tempfile
import time

CONNECTIONS = 9_900
COUNTERS = 1_000_000
LIMIT_MB = 128
MB = 1e6


class Tollgate:
    """A running tollgate, counting in memory."""

    def __init__(self, program, rules, *args):
        self.dir = tempfile.mkdtemp(prefix="tollgate-memory-")
        path = os.path.join(self.dir, "rules.yaml")
        with open(path, "w") as file:
            file.write(rules)
        self.port, self.admin = free_port(), free_port()
        env = {k: v for k, v in os.environ.items() if not k.startswith("TOLLGATE_")}
        env.pop("REDIS_URL", None)
        self.log = open(os.path.join(self.dir, "log"), "w")
        self.process = subprocess.Popen(
            [program, "serve", f"--rules={path}", f"--listen=127.0.0.1:{self.port}",
             f"--admin=127.0.0.1:{self.admin}", "--store=memory", *args],
            env=env, stdout=self.log, stderr=self.log)
        deadline = time.monotonic() + 20
        while True:
            try:
                self.connect().close()
                break
            except OSError:
                if time.monotonic() > deadline or self.process.poll() is not None:
                    raise SystemExit(open(self.log.name).read())
                time.sleep(0.02)

    def connect(self):
        sock = socket.socket()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.settimeout(30)
        sock.connect(("127.0.0.1", self.port))
        return sock

    def memory(self, field="VmRSS"):
        """A field of /proc/PID/status, in bytes."""
        if self.process.poll() is not None:
            raise SystemExit(f"tollgate has ended with {self.process.returncode}")
        with open(f"/proc/{self.process.pid}/status") as status:
            for line in status:
                if line.startswith(field + ":"):
                    return int(line.split()[1]) * 1024
        raise SystemExit(f"no {field}")

    def settled(self):
        """The resident memory when it has stopped to change, after 20 s at the latest."""
        last, calm = self.memory(), 0
        for _ in range(40):
            time.sleep(0.5)
            now = self.memory()
            calm = calm + 1 if abs(now - last) < 200_000 else 0
            if calm >= 6:
                break
            last = now
        return self.memory()

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()
        shutil.rmtree(self.dir)


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def check(client, extra="", path="/data"):
    return (f"GET /v1/check HTTP/1.1\r\nhost: t\r\nx-forwarded-method: GET\r\nx-forwarded-uri: {path}\r\n"
            f"x-real-ip: {client}\r\n{extra}\r\n").encode()


def address(n):
    return f"10.{n >> 16 & 255}.{n >> 8 & 255}.{n & 255}"


def read_answers(sock, count):
    """Reads as many answers; they all have a Content-Length or no body that looks like a head."""
    seen, tail = 0, b""
    while seen < count:
        data = sock.recv(1 << 20)
        if not data:
            raise SystemExit("a connection ended before its answer")
        data = tail + data
        seen += data.count(b"HTTP/1.1 ")
        tail = data[-8:]
    return seen


def ask_many(tollgate, clients, path="/data"):
    """Asks for each client once, in pipelines over a few connections."""
    socks = [tollgate.connect() for _ in range(8)]
    batch = []
    turn = 0

    def send():
        nonlocal turn, batch
        if batch:
            sock = socks[turn % len(socks)]
            sock.sendall(b"".join(batch))
            read_answers(sock, len(batch))
            turn, batch = turn + 1, []

    for client in clients:
        batch.append(check(client, path=path))
        if len(batch) == 128:
            send()
    send()
    for sock in socks:
        sock.close()


RULES = """version: 1
rules:
  - { name: data, match: { path: /data }, key: [client_ip], limit: 1000/h }
"""


def connections(program, first_bytes, answered):
    """Memory per connection while they are open, and what is left after they are closed."""
    tollgate = Tollgate(program, RULES)
    try:
        ask_many(tollgate, ["192.0.2.1"] * 1000)
        before = tollgate.settled()
        socks = []
        for _ in range(CONNECTIONS):
            sock = tollgate.connect()
            if first_bytes:
                sock.setblocking(False)
                try:
                    # What the kernel does not take at once waits: a client of a head that stalls.
                    sock.send(first_bytes)
                except BlockingIOError:
                    pass
                sock.setblocking(True)
            if answered:
                read_answers(sock, 1)
            socks.append(sock)
        held = peak = tollgate.memory()
        if first_bytes and not answered:
            # Before the heads are too late.
            for _ in range(10):
                time.sleep(0.2)
                held = tollgate.memory()
                peak = max(peak, held)
        else:
            held = tollgate.settled()
        peak = tollgate.memory("VmHWM")
        for sock in socks:
            sock.close()
        after = tollgate.settled()
        return before, held, peak, after
    finally:
        tollgate.stop()


def parts(program):
    print(f"| {CONNECTIONS:,} connections | before | held | each | peak | after |")
    print("|---|---|---|---|---|---|")
    half = b"GET /v1/check HTTP/1.1\r\nx-filler: "
    for name, data, answered in [
        ("that sent nothing", b"", False),
        ("idle after a check", check("192.0.2.1"), True),
        ("with 200 bytes of a head", half.ljust(200, b"x"), False),
        ("with 60 kB of a head", half.ljust(60_000, b"x"), False),
    ]:
        before, held, peak, after = connections(program, data, answered)
        each = (held - before) / CONNECTIONS
        print(f"| {name} | {before / MB:.1f} MB | {held / MB:.1f} MB | {each / 1000:.1f} kB "
              f"| {peak / MB:.1f} MB | {after / MB:.1f} MB |", flush=True)

    print("\n| counters in memory | before | held | each | after 80 s, all expired |")
    print("|---|---|---|---|---|")
    rules = RULES.replace("1000/h", "1000/m")
    tollgate = Tollgate(program, rules, "--max-keys=1100000")
    try:
        ask_many(tollgate, ["192.0.2.1"] * 1000)
        before = tollgate.settled()
        ask_many(tollgate, map(address, range(COUNTERS)))
        held = tollgate.memory()
        time.sleep(80)
        after = tollgate.memory()
        print(f"| {COUNTERS:,} | {before / MB:.1f} MB | {held / MB:.1f} MB "
              f"| {(held - before) / COUNTERS:.0f} bytes | {after / MB:.1f} MB |", flush=True)
    finally:
        tollgate.stop()


def many_rules():
    lines = ["version: 1", "rules:"]
    for n in range(999):
        lines.append(f"  - {{ name: route-{n}, match: {{ path: '/api/v{n % 10}/things-{n}/{{id}}/**', methods: [GET, POST] }}, "
                     f"key: [client_ip, {{ header: x-api-key }}], limits: [20/s burst 40, 1000/h] }}")
    lines.append("  - { name: everything, key: [client_ip], limit: 1000/h }")
    return "\n".join(lines) + "\n"


class Attacker:
    """Keeps connections busy: with checks of invented callers, half-sent heads, or nothing at all."""

    def __init__(self, tollgate):
        self.tollgate = tollgate
        self.selector = selectors.DefaultSelector()
        self.open = self.answers = self.refused = 0

    def add(self):
        sock = socket.socket()
        sock.setblocking(False)
        try:
            sock.connect_ex(("127.0.0.1", self.tollgate.port))
            self.selector.register(sock, selectors.EVENT_READ)
        except OSError:
            sock.close()
            return
        self.open += 1
        self.begin(sock)

    def begin(self, sock):
        kind = random.random()
        if kind < 0.2:
            return
        client = f"2001:db8:{random.getrandbits(16):x}:{random.getrandbits(16):x}::1"
        extra = f"x-api-key: {random.getrandbits(64):x}\r\n"
        if kind > 0.9:
            extra += "x-filler: " + "x" * 40_000 + "\r\n"
        n = random.randrange(1000)
        data = check(client, extra, f"/api/v{n % 10}/things-{n}/7/x")
        if kind < 0.4:
            data = data[:random.randrange(1, len(data))]
        try:
            sock.send(data)
        except OSError:
            pass

    def end(self, sock):
        self.selector.unregister(sock)
        sock.close()
        self.open -= 1

    def turn(self):
        for _ in range(min(300, CONNECTIONS + 2000 - self.open)):
            self.add()
        for key, _ in self.selector.select(0.01):
            sock = key.fileobj
            try:
                data = sock.recv(65536)
            except BlockingIOError:
                continue
            except OSError:
                data = b""
            if not data:
                self.refused += 1
                self.end(sock)
                continue
            self.answers += data.count(b"HTTP/1.1 ")
            if random.random() < 0.01:
                self.end(sock)
            else:
                self.begin(sock)


def total(program, seconds):
    tollgate = Tollgate(program, many_rules())
    try:
        start = tollgate.memory()
        attacker = Attacker(tollgate)
        began = time.monotonic()
        keys = 0
        print(f"with 1,000 rules: {start / MB:.1f} MB")
        print("| after | connections | counters | resident | peak |")
        print("|---|---|---|---|---|", flush=True)
        report = 0.0
        # First all counters that there is room for, then the attack on top.
        ask_many(tollgate, map(address, range(250_000)), path="/other")
        while True:
            attacker.turn()
            elapsed = time.monotonic() - began
            if elapsed >= report or elapsed >= seconds:
                keys, conns = metric(tollgate, "tollgate_memory_keys"), metric(tollgate, "tollgate_connections")
                print(f"| {elapsed:.0f} s | {conns:,} | {keys:,} | {tollgate.memory() / MB:.1f} MB "
                      f"| {tollgate.memory('VmHWM') / MB:.1f} MB |", flush=True)
                report += max(5.0, seconds / 12)
            if elapsed >= seconds:
                break
        peak = tollgate.memory("VmHWM")
        print(f"the attack had {attacker.answers:,} answers, and {attacker.refused:,} of its connections were closed")
        print(f"peak: {peak / MB:.1f} MB of {LIMIT_MB} MB")
        if peak > LIMIT_MB * MB:
            raise SystemExit("that is too much")
    finally:
        tollgate.stop()


def metric(tollgate, name):
    with socket.create_connection(("127.0.0.1", tollgate.admin), timeout=30) as sock:
        sock.sendall(b"GET /metrics HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n")
        text = b""
        while data := sock.recv(65536):
            text += data
    for line in text.decode().splitlines():
        if line.split(" ")[0] == name:
            return int(float(line.split(" ")[1]))
    raise SystemExit(f"no metric {name}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("what", nargs="?", choices=["parts", "sum", "all"], default="all")
    parser.add_argument("--seconds", type=float, default=300)
    args = parser.parse_args()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    want = 2 * CONNECTIONS + 1000
    if soft < want:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(want, hard), hard))
    if args.what in ("parts", "all"):
        parts(args.program)
    if args.what in ("sum", "all"):
        total(args.program, args.seconds)


if __name__ == "__main__":
    main()
