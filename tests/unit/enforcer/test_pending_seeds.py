# SPDX-License-Identifier: Apache-2.0
"""Clients of other nodes wait for the plan that has their endpoint: not for ever, and not without bound."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman_enforcer.core import pending_seeds
from pointsman_enforcer.core.pending_seeds import PATIENCE_SECONDS, PendingSeeds
from pointsman_model.names import Protocol, ServiceKey, ServicePortName
from pointsman_model.remembered import ClientKey, RememberedClient

WEB, API = ServiceKey("default", "web"), ServiceKey("default", "api")
ENDPOINT, OTHER = (b"\x0a\1\0\1", 8080), (b"\x0a\1\0\2", 8080)


def port(service: ServiceKey = WEB) -> ServicePortName:
    return ServicePortName(service, "", Protocol.TCP)


def client(number: int, service: ServiceKey = WEB, endpoint: tuple[bytes, int] = ENDPOINT) -> RememberedClient:
    return RememberedClient(ClientKey(port(service), bytes((203, 0, 113, number))), endpoint, 60_000)


def taken(
    seeds: PendingSeeds, service: ServiceKey, endpoints: pending_seeds.Endpoints, now: float, most: int
) -> list[RememberedClient]:
    """What is ready, and is done then."""
    found = seeds.ready(service, endpoints, now, most)
    assert seeds.ready(service, endpoints, now, most) == found, "they wait until they are done"
    seeds.done(service, found)
    return found


def test_they_are_taken_once_with_the_time_that_is_left() -> None:
    seeds = PendingSeeds()
    assert seeds.put([client(1), client(2)], 100.0) == 0
    endpoints = {(port(), 4): {ENDPOINT}}
    assert taken(seeds, WEB, endpoints, 101.5, 10) == [each._replace(left_ms=58_500) for each in (client(1), client(2))]
    assert (taken(seeds, WEB, endpoints, 101.5, 10), len(seeds), seeds.services) == ([], 0, ())


def test_those_whose_endpoint_is_not_here_wait_until_it_is() -> None:
    seeds = PendingSeeds()
    seeds.put([client(1), client(2, endpoint=OTHER), client(3, API)], 0.0)
    assert taken(seeds, WEB, {(port(), 4): {ENDPOINT}}, 0.0, 10) == [client(1)]
    assert taken(seeds, WEB, {(port(), 16): {ENDPOINT, OTHER}}, 0.0, 10) == []
    assert taken(seeds, WEB, {(port(), 4): {OTHER}}, 0.0, 10) == [client(2, endpoint=OTHER)]
    assert (len(seeds), seeds.services) == (1, (API,))


def test_they_do_not_wait_for_ever() -> None:
    seeds = PendingSeeds()
    seeds.put([client(1)], 0.0)
    seeds.put([client(2, API)], 5.0)
    assert (seeds.expire(PATIENCE_SECONDS - 0.1), seeds.expire(PATIENCE_SECONDS), len(seeds)) == (0, 1, 1)


def test_the_newest_word_on_a_client_counts() -> None:
    seeds = PendingSeeds()
    seeds.put([client(1), client(1, endpoint=OTHER)], 0.0)
    assert taken(seeds, WEB, {(port(), 4): {ENDPOINT, OTHER}}, 0.0, 10) == [client(1, endpoint=OTHER)]


def test_a_newer_word_that_comes_while_the_kernel_is_told_waits_on() -> None:
    seeds = PendingSeeds()
    seeds.put([client(1)], 0.0)
    ready = seeds.ready(WEB, {(port(), 4): {ENDPOINT, OTHER}}, 0.0, 10)
    seeds.put([client(1, endpoint=OTHER)], 0.0)
    seeds.done(WEB, ready)
    assert taken(seeds, WEB, {(port(), 4): {ENDPOINT, OTHER}}, 0.0, 10) == [client(1, endpoint=OTHER)]
    seeds.done(WEB, ready)
    assert len(seeds) == 0


def test_no_more_wait_than_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pending_seeds, "SEEDS_MAX", 3)
    seeds = PendingSeeds()
    assert seeds.put([client(number) for number in range(5)], 0.0) == 2
    assert len(seeds) == 3


@given(st.lists(st.tuples(st.integers(0, 8), st.sampled_from([WEB, API]), st.sampled_from([ENDPOINT, OTHER]))))
def test_their_number_is_how_many_can_be_taken(chosen: list[tuple[int, ServiceKey, tuple[bytes, int]]]) -> None:
    seeds = PendingSeeds()
    seeds.put([client(*each) for each in chosen], 0.0)
    assert len(seeds) == len({each[:2] for each in chosen})
    count = 0
    for service in seeds.services:
        while some := taken(seeds, service, {(port(service), 4): {ENDPOINT, OTHER}}, 0.0, 2):
            count += len(some)
    assert (count, len(seeds)) == (len({each[:2] for each in chosen}), 0)
