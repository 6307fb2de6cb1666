# SPDX-License-Identifier: Apache-2.0
"""A node whose address is within a Service's source ranges also admits the load balancer's own address as source.

Packet-flow rows 37 and 38, when addresses change at run time: a load balancer that loops back keeps the VIP as source.
"""

from __future__ import annotations

import pytest

from pointsman_model.cluster import Change, ClusterObject, ClusterPosition, key_of
from pointsman_model.names import ServiceKey, parse_address
from pointsman_model.plan import FrontendKind
from pointsman_model.wire.plan import decode_service_plan
from pointsman_planner.api.plan_codec import decode_message
from pointsman_planner.core.messages import Hello
from pointsman_planner.core.planner import Batch, Planner
from support.cluster_objects import endpoint_slice, node, service
from support.model_enforcer import ModelEnforcer

KEY = ServiceKey("shop", "web")
RANGED = service(
    "shop/web",
    "10.96.0.1",
    "fd00:96::1",
    ports=["p:80"],
    load_balancer_ips=["1.2.3.4", "2001:db8:f::4"],
    source_ranges=["192.168.7.0/24", "2001:db8:7::/64"],
)
SLICE = endpoint_slice("shop/web-x", "web", ["10.1.0.1"], ["p:80"])
SLICE_6 = endpoint_slice("shop/web-y", "web", ["fd00:1::1"], ["p:80"])


class Site:
    """A planner, and a node that acknowledges everything."""

    def __init__(self, *addresses: str) -> None:
        self.planner, self.enforcer, self.revision = Planner(), ModelEnforcer("n"), 0
        self.change(node("n", *addresses), node("other", "192.168.7.9"), RANGED, SLICE, SLICE_6)
        hello = decode_message(self.enforcer.hello().SerializeToString())
        assert isinstance(hello, Hello)
        self.session = self.planner.open(hello, now_ns=0)

    def change(self, *objects: ClusterObject) -> None:
        self.revision += 1
        position = ClusterPosition(epoch="e", revision=self.revision)
        self.planner.apply(
            Batch(changes=tuple(Change(key=key_of(value), value=value) for value in objects), position=position)
        )

    def admitted(self, vip: str) -> bool:
        """Whether the node, once it has everything, lets the VIP through as a source of packets to itself."""
        while (frame := self.session.next_transaction(now_ns=0)) is not None:
            for part in frame.parts():
                nonce = self.enforcer.receive(part)
                if nonce is not None:
                    message = decode_message(self.enforcer.ack(nonce).SerializeToString())
                    self.session.receive(message, now_ns=0)
        address = parse_address(vip)
        (frontend,) = [
            frontend
            for port in decode_service_plan(self.enforcer.plans[KEY]).ports
            for frontend in port.frontends
            if frontend.kind is FrontendKind.LOAD_BALANCER_IP and frontend.address == address
        ]
        assert frontend.source_ranges
        return any(prefix.contains(address) for prefix in frontend.source_ranges)


@pytest.mark.parametrize(
    ("outside", "within", "vip"),
    [("192.168.0.2", "192.168.7.2", "1.2.3.4"), ("2001:db8::2", "2001:db8:7::2", "2001:db8:f::4")],
    ids=["IPv4", "IPv6"],
)
def test_the_address_of_the_node_comes_into_the_ranges_and_leaves_them(outside: str, within: str, vip: str) -> None:
    site = Site(outside)
    assert not site.admitted(vip)
    site.change(node("n", within))
    assert site.admitted(vip)
    site.change(node("n", outside, within))
    assert not site.admitted(vip), "the primary address of the family counts"
    site.change(node("n"))
    assert not site.admitted(vip)


def test_each_family_goes_by_its_own_address() -> None:
    site = Site("192.168.7.2", "2001:db8::2")
    assert site.admitted("1.2.3.4")
    assert not site.admitted("2001:db8:f::4")


def test_the_ranges_themselves_may_change() -> None:
    site = Site("192.168.0.2")
    assert not site.admitted("1.2.3.4")
    wider = service(
        "shop/web", "10.96.0.1", ports=["p:80"], load_balancer_ips=["1.2.3.4"], source_ranges=["192.168.0.0/16"]
    )
    site.change(wider)
    assert site.admitted("1.2.3.4")
