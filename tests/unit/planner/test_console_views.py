# SPDX-License-Identifier: Apache-2.0
"""What the console lets in and shows: hosts, addresses in words, bounds."""

import msgspec
import pytest

from pointsman.control.v1 import control_service_pb2 as pb
from pointsman.types.v1 import types_pb2
from pointsman_model.names import ServiceKey, parse_address
from pointsman_planner.console.model import ROWS_MAX, SERVICES_OFFERED, endpoints_view, explanation_view, services_view
from pointsman_planner.console.page import is_local_host
from pointsman_planner.settings import ConsoleSettings


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8080", "127.0.0.1:9404", "127.8.0.1", "[::1]:9404", "[::1]"])
def test_loopback_hosts_are_answered(host: str) -> None:
    assert is_local_host(host)


@pytest.mark.parametrize(
    "host",
    [
        "",
        "evil.example",
        "evil.example:9404",
        "localhost.evil.example",
        "10.0.0.1:9404",
        "127.0.0.1.evil.example",
        "localhost:x",
        "[fe80::1]:1",
    ],
)
def test_other_hosts_are_not(host: str) -> None:
    assert not is_local_host(host)


@pytest.mark.parametrize("address", ["127.0.0.1:9404", "[::1]:9404", "localhost:0", ""])
def test_the_console_listens_on_loopback(address: str) -> None:
    assert ConsoleSettings(listen_address=address).listen_address == address


@pytest.mark.parametrize("address", ["0.0.0.0:9404", "10.0.0.1:9404", "planner:9404", "nonsense"])
def test_and_nowhere_else(address: str) -> None:
    with pytest.raises(ValueError, match="listenAddress"):
        ConsoleSettings(listen_address=address)


def test_an_explanation_is_in_words() -> None:
    answer = pb.ExplainPacketResponse(
        outcome=pb.ExplainPacketResponse.OUTCOME_FORWARD,
        service=types_pb2.NamespacedName(namespace="shop", name="web"),
        endpoints=[pb.ExplainPacketResponse.Backend(address=parse_address("fd00::1"), port=80, weight=1)],
        steps=["it does"],
    )
    view = explanation_view(answer)
    assert (view["outcome"], view["service"], view["steps"]) == ("forward", "shop/web", ["it does"])
    assert view["endpoints"] == [{"endpoint": "[fd00::1]:80", "weight": 1, "masquerade": False}]


def test_ten_thousand_endpoints_are_counted_and_the_first_are_shown() -> None:
    rows = [pb.EndpointState(port=80) for _ in range(10_000)]
    for number, row in enumerate(rows):
        row.facts.address = (10 << 24 | number).to_bytes(4, "big")
    view = endpoints_view(pb.GetEndpointsResponse(endpoints=pb.ServiceEndpoints(unused=rows)))
    assert (view["total"], len(view["rows"])) == (10_000, ROWS_MAX)
    assert len(msgspec.json.encode(view)) < 300_000


def test_services_are_offered_by_what_was_typed() -> None:
    keys = [ServiceKey("a", f"web-{number}") for number in range(100)] + [
        ServiceKey("weber", "x"),
        ServiceKey("b", "my-web"),
    ]
    offered = services_view(keys, "web")
    assert len(offered) == SERVICES_OFFERED
    assert "b/my-web" not in offered
    assert services_view(keys, "my-") == ["b/my-web"]
