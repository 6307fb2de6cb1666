# SPDX-License-Identifier: Apache-2.0
"""What outlives a change of elements or of the skeleton: connections."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import TYPE_CHECKING

import pytest

from pointsman_enforcer.dataplane.nftables import layout
from pointsman_enforcer.dataplane.nftables.chains import EndpointChain
from pointsman_enforcer.dataplane.nftables.elements import add_elements, add_keys, delete_keys, flush_set
from pointsman_enforcer.dataplane.nftables.message import Family
from pointsman_enforcer.dataplane.nftables.settings import SkeletonSettings
from pointsman_enforcer.dataplane.nftables.skeleton import skeleton
from support.nft_world import ECHO_PORT, TCP, UDP, World
from support.traffic import DROP, REJECT, EchoServer, Reply, parse_reply, probe, seen

if TYPE_CHECKING:
    from collections.abc import Iterator


pytestmark = pytest.mark.root
PORT = 80


@pytest.fixture(scope="module", params=[Family.IPV4, Family.IPV6], ids=["ip", "ip6"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    with World(request.param) as made:
        yield made


def test_connections_outlive_the_removal_of_everything_they_were_made_with(world: World) -> None:
    world.install(world.cluster_ip())
    kind = socket.AF_INET if world.family is Family.IPV4 else socket.AF_INET6
    with world.client.socket(kind, socket.SOCK_STREAM) as client:
        client.settimeout(5)
        client.connect((world.at.cluster_ip, PORT))
        client.sendall(b"who?")
        before = parse_reply(client.recv(128))
        world.install()
        client.sendall(b"who?")
        assert parse_reply(client.recv(128)) == before
        assert probe(world.client, world.at.cluster_ip, PORT, silent=True) == DROP


def test_a_connection_that_was_never_ours_is_not_harmed_when_its_address_becomes_a_service(world: World) -> None:
    world.install()
    kind = socket.AF_INET if world.family is Family.IPV4 else socket.AF_INET6
    with EchoServer(world.client, "elsewhere", 7070), world.pod1.socket(kind, socket.SOCK_STREAM) as client:
        client.settimeout(5)
        client.connect((world.at.client, 7070))
        world.commit(add_keys(world.table, layout.CLUSTER_IPS, [world.packed(world.at.client)]))
        client.sendall(b"who?")
        assert parse_reply(client.recv(128)).name == "elsewhere"
        assert probe(world.pod, world.at.client, 7070) == REJECT


@contextlib.contextmanager
def connecting(world: World) -> Iterator[list[Reply | str]]:
    """Connect again and again, from outside and from a pod, while the block runs; yields the outcomes."""
    outcomes: list[Reply | str] = []
    stop = threading.Event()

    def connect() -> None:
        while not stop.is_set():
            outcomes.append(probe(world.client, world.at.cluster_ip, PORT))
            outcomes.append(probe(world.pod, world.at.cluster_ip, PORT, udp=True))

    client = threading.Thread(target=connect)
    client.start()
    try:
        yield outcomes
    finally:
        stop.set()
        client.join()


def failures(outcomes: list[Reply | str]) -> list[Reply | str]:
    assert outcomes
    return [outcome for outcome in outcomes if not isinstance(outcome, Reply)]


def test_rewriting_the_skeleton_under_traffic_loses_no_connection(world: World) -> None:
    world.install(world.cluster_ip())
    with connecting(world) as outcomes:
        for number in range(200):
            settings = SkeletonSettings(pods=world.settings().pods, masquerade_bit=number % 32)
            world.commit(skeleton(world.table, settings))
    assert failures(outcomes) == []


def test_growing_and_shrinking_a_set_under_traffic_loses_no_connection(world: World) -> None:
    world.install(world.cluster_ip("cluster-1"), EndpointChain(slots=2).messages(world.table))
    keys = [world.key(world.at.cluster_ip, PORT, protocol) for protocol in (TCP, UDP)]
    seconds = [layout.slot_key(key, 1) for key in keys]
    value = layout.endpoint_value(world.packed(world.at.pod2), ECHO_PORT)
    with connecting(world) as outcomes:
        for number in range(1000):
            chain, grow = (b"cluster-1", False) if number % 2 else (b"cluster-2", True)
            world.commit(
                delete_keys(world.table, layout.SERVICE_IPS, keys),
                add_elements(world.table, layout.SERVICE_IPS, [(key, chain) for key in keys]),
                add_elements(world.table, layout.ENDPOINTS, [(second, value) for second in seconds])
                if grow
                else delete_keys(world.table, layout.ENDPOINTS, seconds),
            )
    assert failures(outcomes) == []


def test_a_slot_that_is_not_there_falls_back_to_the_first(world: World) -> None:
    world.install(world.cluster_ip("cluster-9"))
    names, _ = seen(world.pod, world.at.cluster_ip)
    assert names == {"pod1", "pod2"}


def test_an_empty_set_drops_instead_of_letting_through(world: World) -> None:
    world.install(world.cluster_ip())
    world.commit([flush_set(world.table, layout.ENDPOINTS)])
    assert probe(world.pod, world.at.cluster_ip, PORT, silent=True) == DROP


def test_replacing_the_table_under_traffic_refuses_no_connection_twice(world: World) -> None:
    """A packet under way at that very moment may find the old rules and no elements; the next one finds all."""
    world.install(world.cluster_ip())
    with connecting(world) as outcomes:
        for _ in range(200):
            world.install(world.cluster_ip())
    assert all(
        isinstance(before, Reply) or isinstance(after, Reply)
        for before, after in zip(outcomes[::2], outcomes[2::2], strict=False)
    )
    assert len(failures(outcomes)) <= len(outcomes) // 10
