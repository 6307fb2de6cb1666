# SPDX-License-Identifier: Apache-2.0
"""Which exceptions of session affinity are told: what others can use, once, and nothing that nobody uses any more."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from pointsman_enforcer.core.exception_book import REPEAT_SECONDS, ExceptionBook, shared_ports
from pointsman_model.names import Protocol, ServiceKey, ServicePortName, parse_address
from pointsman_model.plan import Frontend, FrontendKind, ServicePlan
from pointsman_model.remembered import ClientKey, RememberedClient
from support.enforcer_plans import cluster_ip, endpoints, forward

PORT = ServicePortName(ServiceKey("default", "web"), "", Protocol.TCP)
KEY = ClientKey(PORT, parse_address("203.0.113.1"))
HERE, THERE = ((parse_address(text), 8080) for text in ("10.1.0.1", "10.1.0.2"))
TIMEOUT = 600


def client(seconds: float, endpoint: tuple[bytes, int] = HERE, key: ClientKey = KEY) -> RememberedClient:
    return RememberedClient(key, endpoint, round(seconds * 1000))


def due(book: ExceptionBook, found: RememberedClient, now: float, timeout: int = TIMEOUT) -> bool:
    """What the node does: look whether it is due, and tell."""
    is_due = book.is_due(found, timeout_seconds=timeout, now=now)
    if is_due:
        book.told([found], now)
    return is_due


def test_an_exception_is_told_once_while_its_client_stays_away() -> None:
    book = ExceptionBook()
    assert [due(book, client(TIMEOUT - now), now) for now in range(0, int(REPEAT_SECONDS), 10)] == [True] + [False] * 29


def test_it_is_repeated_from_time_to_time_in_case_it_got_lost() -> None:
    book = ExceptionBook()
    told = [now for now in range(0, 3600, 10) if due(book, client(10_800 - now), now, 10_800)]
    assert told == list(range(0, 3600, int(REPEAT_SECONDS)))


def test_another_endpoint_is_told_at_once() -> None:
    book = ExceptionBook()
    assert due(book, client(TIMEOUT), 0)
    assert due(book, client(TIMEOUT, THERE), 1)


def test_a_client_that_connects_again_and_again_is_told_before_its_time_is_over_and_seldom() -> None:
    book = ExceptionBook()
    known_until = 0.0
    told = 0
    for now in range(0, 6000, 10):
        assert known_until > now or now == 0
        if due(book, client(TIMEOUT), now):
            told += 1
            known_until = now + TIMEOUT
    assert told <= 6000 / REPEAT_SECONDS


def test_another_planner_is_told_everything() -> None:
    book = ExceptionBook()
    assert due(book, client(TIMEOUT), 0)
    book.forget()
    assert due(book, client(TIMEOUT - 1), 1)


def test_what_a_planner_told_is_not_told_back_before_the_client_connects_here() -> None:
    book = ExceptionBook()
    assert book.learned([client(TIMEOUT)], 0) == [client(TIMEOUT)]
    assert not any(due(book, client(TIMEOUT - now), now) for now in range(0, TIMEOUT, 10))
    assert due(book, client(TIMEOUT), TIMEOUT - 20)


def test_what_comes_back_from_the_planner_is_no_news() -> None:
    book = ExceptionBook()
    assert due(book, client(TIMEOUT), 0)
    assert book.learned([client(TIMEOUT)], 0.5) == []
    assert book.learned([client(TIMEOUT)], 100) == [client(TIMEOUT)]
    assert book.learned([client(TIMEOUT, THERE)], 101) == [client(TIMEOUT, THERE)]


def test_who_is_forgotten_costs_nothing() -> None:
    book = ExceptionBook()
    due(book, client(10), 0)
    book.prune(9)
    assert len(book) == 1
    book.prune(10)
    assert len(book) == 0


@settings(max_examples=200)
@given(st.data())
def test_nodes_that_tell_each_other_keep_nobody_alive_who_does_not_connect(data: st.DataObject) -> None:
    """Each message takes its time, up to a second; the client connected to the first node only, at 0."""
    timeout = data.draw(st.integers(2, 200))
    books = [ExceptionBook() for _ in range(3)]
    ends = [float(timeout), 0.0, 0.0]
    for now in range(3 * timeout + 60):
        for node, book in enumerate(books):
            if ends[node] <= now:
                continue
            found = client(ends[node] - now)
            if not due(book, found, now, timeout):
                continue
            for other in range(3):
                late = now + data.draw(st.floats(0, 1))
                if other != node and books[other].learned([found], late) and ends[other] <= now:
                    ends[other] = late + found.left_ms / 1000
    assert max(ends) <= timeout + 3


def service(kind: FrontendKind, timeout: int = TIMEOUT) -> ServicePlan:
    port = cluster_ip("172.30.0.1", 80, endpoints("10.1.0.1"))
    frontend = Frontend(kind, b"", 30080, forward(), forward(), forward())
    return ServicePlan(ports=(replace(port, frontends=(*port.frontends, frontend)),), affinity_timeout_seconds=timeout)


def test_only_ports_that_clients_reach_through_other_nodes_are_shared() -> None:
    for kind in (FrontendKind.NODE_PORT, FrontendKind.EXTERNAL_IP, FrontendKind.LOAD_BALANCER_IP):
        assert shared_ports(service(kind)).ports
        assert not shared_ports(service(kind, timeout=0)).ports
    alone = ServicePlan(ports=(cluster_ip("172.30.0.1", 80, endpoints("10.1.0.1")),), affinity_timeout_seconds=TIMEOUT)
    assert not shared_ports(alone).ports
    assert not shared_ports(ServicePlan()).ports
