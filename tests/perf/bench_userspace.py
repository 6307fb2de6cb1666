# SPDX-License-Identifier: Apache-2.0
"""Figures of the userspace proxy beside those of going straight to the server: `python tests/perf/bench_userspace.py`.

Root, in a network namespace of its own, over its loopback device; client, proxy and server are a process each. No
figure is asserted: machines differ.
"""

import os
import resource
import select
import signal
import socket
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

from pointsman_enforcer.dataplane.userspace.limits import ProxyLimits
from pointsman_enforcer.dataplane.userspace.proxy import Proxy
from pointsman_enforcer.dataplane.userspace.target import Listener, Target
from pointsman_model.names import Protocol
from pointsman_model.plan import PlanEndpoint
from support.netns import NetNs

ECHO, SINK, PROXIED = 7001, 7002, 1000
HOST = socket.inet_aton("127.0.0.1")
CONNECTIONS, REQUESTS, BULK, SIDE_BY_SIDE = 2000, 20_000, 4 << 30, 5000
CHUNK = bytes(1 << 20)


class Cost(NamedTuple):
    """Of one measurement."""

    seconds: float
    proxy_seconds: float
    """Of a processor, in the proxy."""


def say(words: str) -> None:
    """One line of the report, at once."""
    sys.stdout.write(words + "\n")
    sys.stdout.flush()


def serve() -> None:
    """Echo at one port, swallow at the other."""
    poll = select.epoll()
    listeners = {}
    for port in (ECHO, SINK):
        opened = socket.create_server(("127.0.0.1", port), backlog=4096)
        opened.setblocking(False)
        listeners[opened.fileno()] = opened, port == ECHO
        poll.register(opened.fileno(), select.EPOLLIN)
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.bind(("127.0.0.1", ECHO))
    poll.register(udp.fileno(), select.EPOLLIN)
    connections: dict[int, tuple[socket.socket, bool]] = {}
    buffer = memoryview(bytearray(1 << 20))
    while True:
        for fd, _ in poll.poll():
            if fd == udp.fileno():
                udp.sendto(*udp.recvfrom(2048))
                continue
            if fd in listeners:
                opened, is_echo = listeners[fd]
                accepted, _ = opened.accept()
                connections[accepted.fileno()] = accepted, is_echo
                poll.register(accepted.fileno(), select.EPOLLIN)
                continue
            connection, is_echo = connections[fd]
            try:
                count = connection.recv_into(buffer)
                if count and is_echo:
                    connection.sendall(buffer[:count])
            except OSError:
                count = 0
            if not count:
                poll.unregister(fd)
                connections.pop(fd)[0].close()


def relay(ready: int) -> None:
    """The proxy, in front of both ports."""
    proxy = Proxy(ProxyLimits())
    for protocol, port in ((Protocol.TCP, ECHO), (Protocol.TCP, SINK), (Protocol.UDP, ECHO)):
        key = proxy.bind(Listener(HOST, protocol, port + PROXIED)).pack()
        target = Target(bytes(8), 0, (PlanEndpoint(HOST, port),)).pack()
        proxy.poller.submit(lambda key=key, target=target: proxy.update({key: target}, ())).result()  # type: ignore[misc]  # bound now
    os.write(ready, b"1")
    signal.pause()


def forked(work: Callable[[], None]) -> int:
    """A process that does this until it is ended."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)
    return child


def processor_seconds(pid: int) -> float:
    """What a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def timed(proxy: int, work: Callable[[], object]) -> Cost:
    """What it costs."""
    before, started = processor_seconds(proxy), time.perf_counter()
    work()
    return Cost(time.perf_counter() - started, processor_seconds(proxy) - before)


def connected(port: int) -> socket.socket:
    """A connection on which nothing waits to be sent."""
    made = socket.create_connection(("127.0.0.1", port))
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return made


def measure(name: str, shift: int, proxy: int) -> None:
    """All figures of one way."""
    waits = []

    def connect() -> None:
        for _ in range(CONNECTIONS):
            started = time.perf_counter()
            with connected(ECHO + shift) as each:
                each.send(b"x")
                each.recv(1)
            waits.append(time.perf_counter() - started)

    cost = timed(proxy, connect)
    median, slow = statistics.median(waits) * 1e6, statistics.quantiles(waits, n=100)[98] * 1e6
    say(f"{name}: connected, asked, answered in {median:.0f} us (median), {slow:.0f} us (99 %)")
    say(f"{name}: {CONNECTIONS / cost.seconds:.0f} connections a second, one after the other")
    say(f"{name}: {cost.proxy_seconds / CONNECTIONS * 1e6:.0f} us of a processor for each")

    def ask() -> None:
        with connected(ECHO + shift) as one:
            for _ in range(REQUESTS):
                one.send(b"x" * 100)
                one.recv(100)

    cost = timed(proxy, ask)
    say(f"{name}: {REQUESTS / cost.seconds:.0f} requests a second in one connection")
    say(f"{name}: {cost.proxy_seconds / REQUESTS * 1e6:.0f} us of a processor for each")

    def ask_by_datagrams() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
            one.connect(("127.0.0.1", ECHO + shift))
            for _ in range(REQUESTS):
                one.send(b"x" * 100)
                one.recv(100)

    cost = timed(proxy, ask_by_datagrams)
    say(f"{name}: {REQUESTS / cost.seconds:.0f} requests a second in one UDP flow")
    say(f"{name}: {cost.proxy_seconds / REQUESTS * 1e6:.0f} us of a processor for each")

    def pour() -> None:
        with connected(SINK + shift) as one:
            for _ in range(BULK // len(CHUNK)):
                one.sendall(CHUNK)
            one.shutdown(socket.SHUT_WR)
            one.recv(1)

    cost = timed(proxy, pour)
    say(f"{name}: {BULK * 8 / cost.seconds / 1e9:.1f} Gbit/s in one connection")
    say(f"{name}: {cost.proxy_seconds / (BULK / 1e9):.2f} s of a processor for each GB")

    def crowd() -> None:
        held = [connected(ECHO + shift) for _ in range(SIDE_BY_SIDE)]
        for each in held:
            each.send(b"x")
        for each in held:
            each.recv(1)
            each.close()

    cost = timed(proxy, crowd)
    say(f"{name}: {SIDE_BY_SIDE} connections side by side, each asked once: {cost.seconds:.2f} s")


def run() -> None:
    """Inside the namespace."""
    done, ready = os.pipe()
    children = [forked(serve), forked(lambda: relay(ready))]
    try:
        os.read(done, 1)
        measure("direct ", 0, children[1])
        measure("proxied", PROXIED, children[1])
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def main() -> None:
    """Print the report."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with NetNs("bench") as namespace:
        namespace.call(run)


if __name__ == "__main__":
    main()
