# SPDX-License-Identifier: Apache-2.0
"""Connections through the proxy of userspace mode: much to say, nothing to say, sudden ends, and whom to try next."""

from __future__ import annotations

import hashlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator

import pytest

from pointsman_enforcer.dataplane.userspace.limits import DIAL_SECONDS, ProxyLimits
from pointsman_enforcer.dataplane.userspace.poller import Timer
from support.userspace_world import SILENT, NamingServer, ProxyWorld, endpoint, eventually, heard

pytestmark = [pytest.mark.root, pytest.mark.timeout(60)]
ONE, TWO = "127.0.1.1", "127.0.1.2"
BULK = 24 << 20
IDLE_SECONDS = 0.4
_RESET = struct.pack("ii", 1, 0)


@pytest.fixture
def world() -> Iterator[ProxyWorld]:
    with ProxyWorld() as made:
        yield made


def pair(world: ProxyWorld, server: socket.socket) -> tuple[socket.socket, socket.socket]:
    """A client and what the server accepted for it; a byte went through."""
    client = world.connect()
    upstream, _ = server.accept()
    upstream.settimeout(client.gettimeout())
    client.send(b"x")
    assert upstream.recv(1) == b"x"
    return client, upstream


def reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    connection.close()


def stuffed(connection: socket.socket) -> int:
    """Say so much that no more is taken; how much was."""
    connection.setblocking(False)
    sent = 0
    try:
        while True:
            sent += connection.send(bytes(1 << 20))
    except BlockingIOError:
        return sent


def poured(source: socket.socket, target: socket.socket) -> tuple[bytes, bytes]:
    """The digests of what one side said until it ended, and of what the other heard."""
    block = bytes(range(256)) * 4096

    def send() -> None:
        for _ in range(BULK // len(block)):
            source.sendall(block)
        source.shutdown(socket.SHUT_WR)

    sender = threading.Thread(target=send)
    sender.start()
    received, said = hashlib.sha256(), hashlib.sha256()
    while chunk := target.recv(1 << 20):
        received.update(chunk)
    sender.join()
    for _ in range(BULK // len(block)):
        said.update(block)
    return said.digest(), received.digest()


@pytest.mark.parametrize("is_upwards", [True, False], ids=["to the endpoint", "to the client"])
def test_what_is_much_goes_through_a_pipe_and_arrives_whole(world: ProxyWorld, is_upwards: bool) -> None:
    with world.listen(ONE) as server:
        world.serve(endpoint(ONE))
        client, upstream = pair(world, server)
        with client, upstream:
            said, received = poured(client, upstream) if is_upwards else poured(upstream, client)
            assert said == received
            there, back = (upstream, client) if is_upwards else (client, upstream)
            there.sendall(b"answer")
            assert heard(back, 6) == b"answer"
    counters = world.proxy.counters
    assert counters.spliced > 0
    eventually(lambda: counters.bytes == BULK + len(b"x" + b"answer"))


def test_pipes_are_few_and_come_back(world: ProxyWorld) -> None:
    with world.listen(ONE) as server:
        world.serve(endpoint(ONE))
        for _ in range(3):
            client, upstream = pair(world, server)
            with client, upstream:
                poured(client, upstream)
    eventually(lambda: world.proxy.counters.connections == 0)
    assert len(world.proxy.core.pipes._free) == 1


def test_what_is_little_is_not_spliced(world: ProxyWorld) -> None:
    with NamingServer(world, ONE):
        world.serve(endpoint(ONE))
        with world.connect() as client:
            client.recv(100)
            for _ in range(100):
                client.send(b"x" * 100)
                assert len(heard(client, 100)) == 100
    assert world.proxy.counters.spliced == 0


def test_a_client_that_resets_resets_its_endpoint(world: ProxyWorld) -> None:
    with world.listen(ONE) as server:
        world.serve(endpoint(ONE))
        client, upstream = pair(world, server)
        with upstream:
            reset(client)
            with pytest.raises(ConnectionResetError):
                upstream.recv(1)


def test_a_reset_is_noticed_after_the_client_has_ended_its_side(world: ProxyWorld) -> None:
    with world.listen(ONE) as server:
        world.serve(endpoint(ONE))
        client, upstream = pair(world, server)
        with upstream:
            client.shutdown(socket.SHUT_WR)
            assert upstream.recv(1) == b""
            reset(client)
            eventually(lambda: world.proxy.counters.connections == 0)
            with pytest.raises(OSError, match=r"reset|Broken pipe"):
                upstream.send(b"anybody?") and upstream.send(b"anybody?")


def test_a_client_that_has_gone_while_much_waits_for_its_endpoint_lets_go_of_both(world: ProxyWorld) -> None:
    with world.listen(ONE) as server:
        world.serve(endpoint(ONE))
        client, upstream = pair(world, server)
        with upstream:
            assert stuffed(client) > 0
            reset(client)
            eventually(lambda: world.proxy.counters.connections == 0)


def test_both_ends_are_over_while_much_waits_and_it_arrives(world: ProxyWorld) -> None:
    with world.listen(ONE) as server:
        world.serve(endpoint(ONE))
        client, upstream = pair(world, server)
        with upstream, client:
            upstream.shutdown(socket.SHUT_WR)
            assert client.recv(1) == b""
            sent = stuffed(client)
            client.shutdown(socket.SHUT_WR)
            received = 0
            while chunk := upstream.recv(1 << 20):
                received += len(chunk)
            assert received == sent
        eventually(lambda: world.proxy.counters.connections == 0)


def test_a_silent_connection_is_reset_and_one_that_speaks_is_not() -> None:
    with ProxyWorld(ProxyLimits(tcp_idle_seconds=IDLE_SECONDS)) as world, NamingServer(world, ONE):
        world.serve(endpoint(ONE))
        with world.connect() as silent, world.connect() as speaking:
            for each in (silent, speaking):
                each.recv(100)

            def is_silent_reset() -> bool:
                speaking.send(b"x")
                assert speaking.recv(1) == b"x"
                return world.proxy.counters.idle == 1

            eventually(is_silent_reset)
            with pytest.raises(ConnectionResetError):
                silent.recv(1)
            assert world.proxy.counters.connections == 1


def test_of_half_closed_connections_only_the_silent_ones_are_reset() -> None:
    with ProxyWorld(ProxyLimits(half_closed_seconds=IDLE_SECONDS)) as world, world.listen(ONE) as server:
        world.serve(endpoint(ONE))
        whole, ended = pair(world, server), pair(world, server)
        ended[0].shutdown(socket.SHUT_WR)
        assert ended[1].recv(1) == b""
        eventually(lambda: world.proxy.counters.idle == 1)
        with pytest.raises(ConnectionResetError):
            ended[0].recv(1)
        whole[1].send(b"y")
        assert whole[0].recv(1) == b"y"
        for each in (*whole, *ended):
            each.close()


def test_peers_that_vanish_are_looked_for(world: ProxyWorld) -> None:
    with world.listen(ONE) as server:
        world.serve(endpoint(ONE))
        client, upstream = pair(world, server)
        with client, upstream:
            timers = world.namespace.run("ss", "-tnoH", "state", "established")
            kept = [line for line in timers.splitlines() if "timer:(keepalive" in line]
            assert len(kept) == 2


def test_attempts_wait_as_long_as_those_of_kube_proxy(world: ProxyWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    after = world.proxy.poller.after

    def soon(seconds: float, callback: Callable[[], None]) -> Timer:
        waits.append(seconds)
        return after(0.01, callback)

    monkeypatch.setattr(world.proxy.poller, "after", soon)
    world.serve(endpoint(SILENT))
    with world.connect() as client, pytest.raises(ConnectionResetError):
        client.recv(1)
    assert tuple(waits) == DIAL_SECONDS == (0.25, 0.5, 1.0, 2.0)
    assert (world.proxy.counters.dials_failed, world.proxy.counters.unreachable) == (4, 1)


def test_nobody_is_tried_twice_before_everybody_was_tried() -> None:
    dead = [f"127.0.3.{number}" for number in range(1, 4)]
    with ProxyWorld() as world, NamingServer(world, ONE):
        world.serve(endpoint(ONE), *map(endpoint, dead))
        for _ in range(8):
            with world.connect() as client:
                assert client.recv(100).strip().decode() == ONE
        assert world.proxy.counters.unreachable == 0


def test_with_affinity_a_client_is_remembered_where_it_was_reached(world: ProxyWorld) -> None:
    with world.listen(ONE) as one, NamingServer(world, TWO):
        world.serve(endpoint(ONE), endpoint(TWO), affinity_seconds=60)
        one.close()
        for _ in range(4):
            with world.connect() as client:
                assert client.recv(100).strip().decode() == TWO
        assert world.proxy.counters.dials_failed <= 1
