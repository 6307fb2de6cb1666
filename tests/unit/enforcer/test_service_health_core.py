# SPDX-License-Identifier: Apache-2.0
"""Health check node ports without IO: where to listen and what to say. Packet-flow rows 140 to 144."""

from __future__ import annotations

import json

import pytest

from pointsman_enforcer.core.service_health import Listener, health_answer, listen_addresses, wanted_listeners
from pointsman_model.names import ServiceKey, parse_address, parse_prefix
from pointsman_model.plan import HealthCheck

SERVICE = ServiceKey("ns", "svc")
LOCAL = tuple(map(parse_address, ("127.0.0.1", "192.168.0.2", "192.168.0.3", "::1", "2001:db8::1")))


@pytest.mark.parametrize(
    ("blocks", "expected"),
    [
        (("0.0.0.0/0", "::/0"), ("0.0.0.0", "::")),  # noqa: S104 - addresses to compare with
        (("127.0.0.0/8",), ("127.0.0.1",)),
        (("127.0.0.0/8", "::/0"), ("::", "127.0.0.1")),
        (("192.168.0.2/32", "2001:db8::1/128"), ("192.168.0.2", "2001:db8::1")),
        (("192.168.0.0/24",), ("192.168.0.2", "192.168.0.3")),
        (("10.0.0.0/8",), ()),
        ((), ()),
    ],
)
def test_row_143_sockets_are_at_the_addresses_that_accept_node_ports(
    blocks: tuple[str, ...], expected: tuple[str, ...]
) -> None:
    assert set(listen_addresses(map(parse_prefix, blocks), LOCAL)) == set(map(parse_address, expected))


def test_each_service_has_a_socket_at_each_address() -> None:
    other = ServiceKey("ns", "other")
    checks = {SERVICE: HealthCheck(node_port=1, local_endpoints=0), other: HealthCheck(node_port=2, local_endpoints=3)}
    assert wanted_listeners(checks, (b"\1\1\1\1", b"\2\2\2\2")) == {
        Listener(SERVICE, b"\1\1\1\1", 1),
        Listener(SERVICE, b"\2\2\2\2", 1),
        Listener(other, b"\1\1\1\1", 2),
        Listener(other, b"\2\2\2\2", 2),
    }


@pytest.mark.parametrize(
    ("count", "is_healthy", "status"), [(0, True, 503), (18, True, 200), (1, True, 200), (18, False, 503)]
)
def test_rows_140_and_142_good_news_needs_endpoints_and_a_healthy_proxy(
    count: int, is_healthy: bool, status: int
) -> None:
    answer = health_answer(SERVICE, count, is_healthy=is_healthy)
    assert (answer.status, answer.weight) == (status, count)
    assert json.loads(answer.body) == {
        "service": {"namespace": "ns", "name": "svc"},
        "localEndpoints": count,
        "serviceProxyHealthy": is_healthy,
    }


def test_the_body_is_kube_proxys_byte_for_byte() -> None:
    expected = (
        '{\n\t"service": {\n\t\t"namespace": "ns",\n\t\t"name": "svc"\n\t},\n'
        '\t"localEndpoints": 2,\n\t"serviceProxyHealthy": true\n}'
    )
    assert health_answer(SERVICE, 2, is_healthy=True).body == expected.encode()
