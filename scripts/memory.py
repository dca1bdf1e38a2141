"""The load and the measuring of scripts/memory.sh."""

import argparse
import multiprocessing
import os
import random
import re
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
ATTACKERS = 4
MB = 1e6


def container_limit():
    """The limit that docker-compose.yml sets for tollgate, in bytes."""
    with open("docker-compose.yml") as file:
        service = re.search(r"^  tollgate:\n((?:    .*\n|\n)+)", file.read(), re.M).group(1)
    return int(re.search(r"^    mem_limit: (\d+)m", service, re.M).group(1)) * 1024 * 1024


class Cgroup:
    """A memory cgroup of our own with a limit and no swap; version 2, or else 1."""

    def __init__(self, limit):
        self.limit = limit
        self.path = None
        name = f"tollgate-memory-{os.getpid()}"
        for version, parent in [(2, "/sys/fs/cgroup"), (1, "/sys/fs/cgroup/memory")]:
            kind = "cgroup.controllers" if version == 2 else "memory.limit_in_bytes"
            if not os.path.exists(f"{parent}/{kind}"):
                continue
            try:
                os.mkdir(f"{parent}/{name}")
                self.path, self.version = f"{parent}/{name}", version
                if version == 2:
                    self.write("memory.max", limit)
                    self.write("memory.swap.max", 0)
                else:
                    self.write("memory.limit_in_bytes", limit)
                    self.write("memory.swappiness", 0)
                    # Version 1 counts the buffers of TCP sockets on their own, and only when they have a limit.
                    self.write("memory.kmem.tcp.limit_in_bytes", limit)
                return
            except OSError as error:
                print(f"cgroup version {version}: {error}")
                self.remove()

    def write(self, name, value):
        with open(f"{self.path}/{name}", "w") as file:
            file.write(str(value))

    def read(self, name):
        with open(f"{self.path}/{name}") as file:
            return file.read()

    def enter(self):
        self.write("cgroup.procs", os.getpid())

    def now(self):
        """What is charged, and the part of it that is buffers of TCP sockets."""
        if self.version == 2:
            return int(self.read("memory.current")), self.stat("memory.stat")["sock"]
        tcp = int(self.read("memory.kmem.tcp.usage_in_bytes"))
        return int(self.read("memory.usage_in_bytes")) + tcp, tcp

    def stat(self, name):
        return {key: int(value) for key, value in (line.split() for line in self.read(name).splitlines())}

    def peak(self):
        """The most that was charged. Version 1: a bound, since its two peaks need not be of the same time."""
        if self.version == 2:
            return int(self.read("memory.peak"))
        return int(self.read("memory.max_usage_in_bytes")) + int(self.read("memory.kmem.tcp.max_usage_in_bytes"))

    def kills(self):
        return self.stat("memory.events" if self.version == 2 else "memory.oom_control")["oom_kill"]

    def report(self):
        if self.version == 2:
            print("memory.events: " + ", ".join(self.read("memory.events").splitlines()))
            return
        for name in ["memory.max_usage_in_bytes", "memory.kmem.max_usage_in_bytes", "memory.kmem.tcp.max_usage_in_bytes"]:
            print(f"{name}: {int(self.read(name)) / MB:.1f} MB")
        print(f"memory.failcnt: {int(self.read('memory.failcnt'))}, "
              f"of TCP: {int(self.read('memory.kmem.tcp.failcnt'))}, oom_kill: {self.kills()}")

    def remove(self):
        for _ in range(50):
            try:
                if self.path:
                    os.rmdir(self.path)
                break
            except OSError:
                time.sleep(0.1)
        self.path = None


class Tollgate:
    """A running tollgate, counting in memory."""

    def __init__(self, program, rules, *args, enter=None):
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
            env=env, stdout=self.log, stderr=self.log, preexec_fn=enter)
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
    rules = RULES.replace("1000/h", "1000/m, max_new_keys: 0")
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
    """One process of the attack. Each connection does one thing until it is closed: nothing, a half-sent head of up to
    60 kB, or checks of invented callers in pipelines, alone with a large head, or few at a time."""

    def __init__(self, number, port, most, counts):
        self.port, self.most, self.counts = port, most, counts
        # An address of its own, so that there are ports enough.
        self.source = f"127.0.1.{number + 1}"
        self.random = random.Random(number)
        self.selector = selectors.DefaultSelector()
        self.open = 0

    def run(self):
        while True:
            self.turn()

    def add(self):
        sock = socket.socket()
        sock.setblocking(False)
        try:
            sock.setsockopt(socket.IPPROTO_IP, getattr(socket, "IP_BIND_ADDRESS_NO_PORT", 24), 1)
            sock.bind((self.source, 0))
            sock.connect_ex(("127.0.0.1", self.port))
        except OSError:
            sock.close()
            return
        kind = self.random.choices(["idle", "half", "large", "pipeline"], [15, 25, 10, 50])[0]
        # What is asked for, and what was not sent yet.
        self.selector.register(sock, selectors.EVENT_READ, [kind, 0, b""])
        self.open += 1
        self.begin(sock, self.selector.get_key(sock).data)

    def request(self, filler=0):
        number = self.random.getrandbits(64)
        extra = f"x-api-key: {number:x}\r\n"
        if filler:
            extra += "x-filler: " + "x" * filler + "\r\n"
        n = number % 1000
        client = f"2001:db8:{number & 65535:x}:{number >> 16 & 65535:x}::1"
        return check(client, extra, f"/api/v{n % 10}/things-{n}/7/x")

    def begin(self, sock, state):
        kind = state[0]
        if kind == "idle":
            return
        if kind == "half":
            state[2] = self.request(60_000)[:self.random.randrange(1, 60_000)]
        elif kind == "large":
            state[1], state[2] = 1, self.request(self.random.randrange(1000, 60_000))
        else:
            state[1] = self.random.choice([1, 4, 16, 32])
            state[2] = b"".join(self.request() for _ in range(state[1]))
        self.send(sock, state)

    def send(self, sock, state):
        try:
            state[2] = state[2][sock.send(state[2]):]
        except BlockingIOError:
            pass
        except OSError:
            self.end(sock)
            return
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if state[2] else 0)
        if self.selector.get_key(sock).events != events:
            self.selector.modify(sock, events, state)

    def end(self, sock):
        self.selector.unregister(sock)
        sock.close()
        self.open -= 1

    def turn(self):
        for _ in range(min(50, self.most - self.open)):
            self.add()
        for key, events in self.selector.select(0.01):
            sock, state = key.fileobj, key.data
            if events & selectors.EVENT_READ:
                try:
                    data = sock.recv(65536)
                except BlockingIOError:
                    data = None
                except OSError:
                    data = b""
                if data == b"":
                    self.counts[1] += 1
                    self.end(sock)
                    continue
                if data:
                    # An answer that was cut within these letters is not counted; the connection then rests.
                    answers = data.count(b"HTTP/1.1 ")
                    self.counts[0] += answers
                    state[1] -= answers
                    if state[1] <= 0 and state[0] != "half":
                        if self.random.random() < 0.01:
                            self.end(sock)
                        else:
                            self.begin(sock, state)
                        continue
            if state[2]:
                self.send(sock, state)


def total(program, seconds, args):
    cgroup = Cgroup(container_limit())
    try:
        under_attack(program, seconds, cgroup, args)
    finally:
        cgroup.remove()


def under_attack(program, seconds, cgroup, args):
    limit = cgroup.limit
    if cgroup.path:
        print(f"in a cgroup (version {cgroup.version}) with {limit / MB:.1f} MB and no swap")
    else:
        print(f"no cgroup could be made: the resident memory of the process is compared with {limit / MB:.1f} MB")
    tollgate = Tollgate(program, many_rules(), *args, enter=cgroup.enter if cgroup.path else None)
    attackers = []
    try:
        print(f"with 1,000 rules: {tollgate.memory() / MB:.1f} MB")
        print("| after | connections | counters | resident | its peak | charged | of that TCP buffers | checks/s |")
        print("|---|---|---|---|---|---|---|---|", flush=True)
        # First all counters that there is room for, then the attack on top: more connections than the cap.
        ask_many(tollgate, map(address, range(250_000)), path="/other")
        everyone = []
        for number in range(ATTACKERS):
            counts = multiprocessing.Array("q", 2, lock=False)
            attacker = Attacker(number, tollgate.port, (CONNECTIONS + 2000) // ATTACKERS, counts)
            process = multiprocessing.Process(target=attacker.run, daemon=True)
            process.start()
            attackers.append(process)
            everyone.append(counts)
        began = last = time.monotonic()
        report = most = most_tcp = answers = 0
        while True:
            time.sleep(0.05)
            if cgroup.path:
                charged, tcp = cgroup.now()
                most, most_tcp = max(most, charged), max(most_tcp, tcp)
            resident, elapsed = tollgate.memory(), time.monotonic() - began
            if elapsed >= report or elapsed >= seconds:
                keys, conns = metric(tollgate, "tollgate_memory_keys"), metric(tollgate, "tollgate_connections")
                now, before = sum(counts[0] for counts in everyone), answers
                rate = (now - before) / max(time.monotonic() - last, 1e-9)
                last, answers = time.monotonic(), now
                column = f"{charged / MB:.1f} MB | {tcp / MB:.1f} MB" if cgroup.path else "- | -"
                print(f"| {elapsed:.0f} s | {conns:,} | {keys:,} | {resident / MB:.1f} MB "
                      f"| {tollgate.memory('VmHWM') / MB:.1f} MB | {column} | {rate:,.0f} |", flush=True)
                report += max(5.0, seconds / 12)
            if elapsed >= seconds:
                break
        if any(not process.is_alive() for process in attackers):
            raise SystemExit("a process of the attack has ended")
        closed = sum(counts[1] for counts in everyone)
        print(f"the attack had {answers:,} answers ({answers / elapsed:,.0f}/s), and {closed:,} of its connections were closed")
        peak = tollgate.memory("VmHWM")
        print(f"resident, at most: {peak / MB:.1f} MB of {limit / MB:.1f} MB")
        if cgroup.path:
            print(f"charged, at most: {most / MB:.1f} MB seen every 50 ms, {most_tcp / MB:.1f} MB for TCP buffers")
            print(f"charged, peaks of the kernel: {cgroup.peak() / MB:.1f} MB")
            # Version 1 holds the two limits apart: that both fit together is for us to see.
            peak = max(peak, most)
            if cgroup.kills():
                raise SystemExit("it ran out of memory")
        if peak > limit:
            raise SystemExit("that is too much")
    finally:
        for process in attackers:
            process.kill()
        if cgroup.path:
            cgroup.report()
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
    parser.add_argument("--max-connections", type=int, help="of tollgate, for the sum; else its default")
    args = parser.parse_args()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    want = 2 * CONNECTIONS + 1000
    if soft < want:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(want, hard), hard))
    if args.what in ("parts", "all"):
        parts(args.program)
    if args.what in ("sum", "all"):
        total(args.program, args.seconds, [f"--max-connections={args.max_connections}"] if args.max_connections else [])


if __name__ == "__main__":
    main()
