# SPDX-License-Identifier: Apache-2.0
"""Which endpoints a remembered client may have, and that each node is told everything once, in whatever steps."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman_model.cluster import Endpoint
from pointsman_model.names import Protocol, ServiceKey, ServicePortName, format_address, parse_address
from pointsman_model.remembered import ClientKey
from pointsman_planner.core.affinity import SeedLog, usable_endpoints
from pointsman_planner.core.service_state import ServiceState, join
from pointsman_planner.store.affinity_store import key_of, text_of
from support.cluster_objects import endpoint, endpoint_slice, service

A, B, C = "10.1.0.1", "10.1.0.2", "10.1.0.3"
PORT = ServicePortName(ServiceKey("shop", "web"), "p", Protocol.TCP)


def state(*endpoints: str | Endpoint, **changes: object) -> ServiceState:
    options = {"node_ports": {"p": 30080}, "affinity_timeout_seconds": 600} | changes
    web = service("shop/web", "10.96.0.1", ports=["p:80"], **options)  # type: ignore[arg-type]  # by name
    return join(web, [endpoint_slice("shop/web-x", "web", endpoints, ["p:8080"])])


def usable(made: ServiceState) -> set[str]:
    found = usable_endpoints(made)
    assert set(found) <= {(PORT, 4)}
    return {f"{format_address(address)}:{port}" for address, port in found.get((PORT, 4), ())}


def test_endpoints_that_are_ready_are_possible() -> None:
    gone = endpoint(C, ready=False)
    assert usable(state(A, B, gone)) == {f"{A}:8080", f"{B}:8080"}


def test_those_that_end_count_only_while_none_is_ready() -> None:
    ending = endpoint(B, ready=False, serving=True, terminating=True)
    assert usable(state(A, ending)) == {f"{A}:8080"}
    assert usable(state(ending, endpoint(C, ready=False))) == {f"{B}:8080"}


@pytest.mark.parametrize(
    "changes",
    [{"affinity_timeout_seconds": 0}, {"node_ports": None}, {"node_ports": None, "external_ips": ["2001:db8::1"]}],
    ids=["no affinity", "cluster IP alone", "external IP of the other family"],
)
def test_a_service_whose_clients_come_through_no_other_node_has_none(changes: dict[str, object]) -> None:
    assert usable(state(A, B, **changes)) == set()


@pytest.mark.parametrize("changes", [{"external_ips": ["198.51.100.1"]}, {"load_balancer_ips": ["198.51.100.2"]}])
def test_external_and_load_balancer_addresses_are_reached_through_any_node(changes: dict[str, object]) -> None:
    assert usable(state(A, node_ports=None, **changes)) == {f"{A}:8080"}


def client(number: int) -> ClientKey:
    return ClientKey(PORT, bytes((203, 0, 113, number)))


actions = st.lists(
    st.tuples(st.sampled_from(["put", "drop"]), st.integers(0, 20)) | st.tuples(st.just("read"), st.integers(1, 5)),
    max_size=200,
)


@given(actions)
def test_a_node_that_reads_in_steps_ends_with_the_last_word_on_every_client(done: list[tuple[str, int]]) -> None:
    log = SeedLog()
    told: dict[ClientKey, int] = {}
    put: dict[ClientKey, int] = {}
    place = clock = 0
    for action, number in done:
        clock += 1
        if action == "read":
            keys, place = log.after(place, number)
            assert len(set(keys)) == len(keys) <= number
            told.update(dict.fromkeys(keys, clock))
        elif action == "put":
            log.put(client(number))
            put[client(number)] = clock
        else:
            log.drop(client(number))
            put.pop(client(number), None)
    while place < log.end:
        keys, place = log.after(place, 3)
        told.update(dict.fromkeys(keys, clock + 1))
    assert len(log) == len(put)
    assert all(told[key] > at for key, at in put.items())
    everything, _ = log.after(0, 1000)
    assert set(everything) == put.keys()
    assert log.after(place, 1000) == ([], log.end)


names = st.text("ab-/\0é", max_size=5)


@given(
    names,
    names,
    names,
    st.sampled_from(list(Protocol)),
    st.binary(min_size=4, max_size=4) | st.binary(min_size=16, max_size=16),
)
def test_a_key_in_the_store_names_one_client_or_none(
    namespace: str, name: str, port: str, protocol: Protocol, address: bytes
) -> None:
    key = ClientKey(ServicePortName(ServiceKey(namespace, name), port, protocol), address)
    text = text_of(key)
    is_sound = bool(namespace and name) and "/" not in namespace + name + port
    assert text is None or key_of(text) in ({key} if is_sound else {None})
    assert (text is not None) or not is_sound


@given(st.text(max_size=60))
def test_no_text_at_all_breaks_it(text: str) -> None:
    found = key_of(text)
    assert found is None or text_of(found) == text


def test_an_address_in_another_spelling_is_none_of_ours() -> None:
    assert key_of("shop/web/p/TCP/203.0.113.001") is None
    assert key_of("shop/web/p/TCP/203.0.113.1") == ClientKey(PORT, parse_address("203.0.113.1"))
