# SPDX-License-Identifier: Apache-2.0
"""The proxy of userspace mode, with real sockets in a namespace: connections, refusals, ends, silence, pressure."""

from __future__ import annotations

import hashlib
import socket
import struct
import threading
from collections import Counter
from collections.abc import Iterator

import pytest

from pointsman_enforcer.dataplane.userspace.limits import ProxyLimits
from pointsman_model.affinity import pick
from pointsman_model.names import Protocol
from support.userspace_world import SILENT, NamingServer, ProxyWorld, endpoint, eventually, heard

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]
CONNECTIONS = 200
ONE, TWO, DEAD = "127.0.1.1", "127.0.1.2", "127.0.1.3"
BULK = 16 << 20


@pytest.fixture
def world() -> Iterator[ProxyWorld]:
    with ProxyWorld(ProxyLimits(dial_seconds=(0.25, 0.5, 1.0, 2.0))) as made:
        yield made


def name_of(connection: socket.socket) -> str:
    """Who answers: the first line."""
    return connection.makefile("rb", buffering=0).readline().decode().strip()


def test_connections_live_side_by_side_and_endpoints_take_turns(world: ProxyWorld) -> None:
    with NamingServer(world, ONE), NamingServer(world, TWO):
        world.serve(endpoint(ONE), endpoint(TWO))
        connections = world.crowd(CONNECTIONS)
        try:
            assert Counter(map(name_of, connections)) == {ONE: CONNECTIONS // 2, TWO: CONNECTIONS // 2}
            assert world.proxy.counters.connections == CONNECTIONS
            for number, each in enumerate(connections):
                each.send(b"%6d" % number)
            assert [int(heard(each, 6)) for each in connections] == list(range(CONNECTIONS))
        finally:
            for each in connections:
                each.close()
        eventually(lambda: world.proxy.counters.connections == 0)


@pytest.mark.parametrize("dead", [DEAD, SILENT], ids=["refuses", "is silent"])
def test_an_endpoint_that_does_not_answer_is_skipped(world: ProxyWorld, dead: str) -> None:
    with NamingServer(world, ONE):
        world.serve(endpoint(ONE), endpoint(dead))
        for _ in range(4):
            with world.connect() as connection:
                assert name_of(connection) == ONE
        assert world.proxy.counters.dials_failed >= 1
        assert world.proxy.counters.unreachable == 0


def test_who_can_reach_nobody_is_reset(world: ProxyWorld) -> None:
    world.serve(endpoint(DEAD))
    with pytest.raises(ConnectionResetError), world.connect() as connection:
        connection.recv(1)
    assert world.proxy.counters.unreachable == 1
    assert world.proxy.counters.dials_failed == len(world.proxy.limits.dial_seconds)
    eventually(lambda: world.proxy.counters.connections == 0)


def test_the_end_of_one_direction_is_passed_on_and_the_other_goes_on(world: ProxyWorld) -> None:
    with world.listen(ONE) as server:
        world.serve(endpoint(ONE))
        with world.connect() as client:
            upstream, _ = server.accept()
            with upstream:
                client.sendall(b"question")
                client.shutdown(socket.SHUT_WR)
                assert heard(upstream, 100) == b"question"
                upstream.sendall(b"answer")
                assert heard(client, 6) == b"answer"
                upstream.sendall(b" and more")
                upstream.shutdown(socket.SHUT_WR)
                assert heard(client, 100) == b" and more"
    eventually(lambda: world.proxy.counters.connections == 0)


def test_a_server_that_ends_first_still_hears_its_client(world: ProxyWorld) -> None:
    with world.listen(ONE) as server:
        world.serve(endpoint(ONE))
        with world.connect() as client:
            upstream, _ = server.accept()
            with upstream:
                upstream.shutdown(socket.SHUT_WR)
                assert client.recv(1) == b""
                client.sendall(b"still here")
                assert heard(upstream, 10) == b"still here"


def test_a_reset_is_passed_on(world: ProxyWorld) -> None:
    with world.listen(ONE) as server:
        world.serve(endpoint(ONE))
        with world.connect() as client:
            upstream, _ = server.accept()
            client.send(b"x")
            assert upstream.recv(1) == b"x"
            upstream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            upstream.close()
            with pytest.raises(ConnectionResetError):
                client.recv(1)


def test_a_slow_reader_holds_its_sender_back_and_loses_nothing(world: ProxyWorld) -> None:
    data = bytes(range(256)) * (BULK // 256)
    with world.listen(ONE) as server:
        world.serve(endpoint(ONE))
        with world.connect() as client:
            upstream, _ = server.accept()

            def send() -> None:
                client.sendall(data)
                client.shutdown(socket.SHUT_WR)

            sender = threading.Thread(target=send)
            sender.start()
            with upstream:
                sender.join(timeout=0.3)
                assert sender.is_alive(), "nobody reads, and everything was taken"
                assert world.proxy.counters.bytes < BULK
                digest, count = hashlib.sha256(), 0
                while chunk := upstream.recv(1 << 20):
                    digest.update(chunk)
                    count += len(chunk)
            sender.join()
    assert count == BULK
    assert digest.digest() == hashlib.sha256(data).digest()


def test_connections_outlive_their_endpoint_and_their_listener(world: ProxyWorld) -> None:
    with NamingServer(world, ONE), NamingServer(world, TWO):
        world.serve(endpoint(ONE))
        with world.connect() as old:
            assert name_of(old) == ONE
            world.serve(endpoint(TWO))
            with world.connect() as new:
                assert name_of(new) == TWO
            world.stop_serving()
            old.send(b"still")
            assert heard(old, 5) == b"still"


def test_with_affinity_a_client_stays_until_its_endpoint_leaves(world: ProxyWorld) -> None:
    sources = [f"127.0.2.{number}" for number in range(1, 9)]
    with NamingServer(world, ONE), NamingServer(world, TWO):
        both = endpoint(ONE), endpoint(TWO)
        world.serve(*both, affinity_seconds=60)

        def seen() -> dict[str, str]:
            found = {}
            for source in sources:
                with world.connect(source) as connection:
                    found[source] = name_of(connection)
            return found

        picks = {source: socket.inet_ntoa(pick(socket.inet_aton(source), both).address) for source in sources}
        assert seen() == seen() == picks
        world.serve(both[1], affinity_seconds=60)
        assert set(seen().values()) == {TWO}
        world.serve(*both, affinity_seconds=60)
        assert set(seen().values()) == {TWO}


def test_more_connections_than_allowed_are_reset_and_counted() -> None:
    with ProxyWorld(ProxyLimits(connections_max=2)) as world, NamingServer(world, ONE):
        world.serve(endpoint(ONE))
        with world.connect() as first, world.connect() as second:
            assert name_of(first) == name_of(second) == ONE
            with pytest.raises(ConnectionResetError), world.connect() as third:
                third.recv(1)
        assert world.proxy.counters.over_limit == 1
        eventually(lambda: world.proxy.counters.connections == 0)
        with world.connect() as again:
            assert name_of(again) == ONE


def test_a_udp_client_stays_with_its_endpoint_until_it_was_silent(world: ProxyWorld) -> None:
    with world.receive(ONE) as one, world.receive(TWO) as two:
        world.serve(endpoint(ONE), endpoint(TWO), protocol=Protocol.UDP)
        with world.datagrams() as client:
            client.send(b"1")
            eventually(lambda: world.proxy.counters.flows_begun == 1)
            client.send(b"2")
            mine = next(each for each in (one, two) if _has(each))
            assert [mine.recvfrom(10)[0] for _ in range(2)] == [b"1", b"2"]
            assert world.proxy.counters.flows_begun == 1
            eventually(lambda: world.proxy.counters.flows == 0)
            client.send(b"3")
            other = two if mine is one else one
            data, back = other.recvfrom(10)
            other.sendto(b"answer to " + data, back)
            assert client.recv(100) == b"answer to 3"


def test_udp_flows_end_with_their_endpoint_unless_it_still_serves() -> None:
    with ProxyWorld(ProxyLimits(udp_idle_seconds=60.0)) as world, world.receive(ONE) as one, world.receive(TWO) as two:
        world.serve(endpoint(ONE), protocol=Protocol.UDP)
        with world.datagrams() as client:
            client.send(b"1")
            assert one.recv(10) == b"1"
            world.serve(endpoint(TWO), protocol=Protocol.UDP, serving=[(endpoint(ONE).address, 8080)])
            client.send(b"2")
            assert one.recv(10) == b"2"
            world.serve(endpoint(TWO), protocol=Protocol.UDP)
            client.send(b"3")
            assert two.recv(10) == b"3"


def test_a_udp_endpoint_that_refuses_is_left(world: ProxyWorld) -> None:
    with world.receive(ONE) as one:
        world.serve(endpoint(DEAD), endpoint(ONE), protocol=Protocol.UDP)
        with world.datagrams() as client:
            one.settimeout(0.05)
            for _ in range(100):
                client.send(b"anybody?")
                if _has(one):
                    return
    pytest.fail("nothing came to the endpoint that is there")


def test_more_udp_flows_than_allowed_are_dropped_and_counted() -> None:
    with ProxyWorld(ProxyLimits(udp_idle_seconds=60.0, flows_max=1)) as world, world.receive(ONE) as one:
        world.serve(endpoint(ONE), protocol=Protocol.UDP)
        with world.datagrams() as first, world.datagrams() as second:
            first.send(b"1")
            assert one.recv(10) == b"1"
            second.send(b"2")
            eventually(lambda: world.proxy.counters.over_limit == 1)
            first.send(b"3")
            assert one.recv(10) == b"3"


def _has(server: socket.socket) -> bool:
    """Whether a datagram comes soon; it is left there."""
    patience = server.gettimeout()
    server.settimeout(0.1)
    try:
        return bool(server.recv(10, socket.MSG_PEEK))
    except TimeoutError:
        return False
    finally:
        server.settimeout(patience)
