# SPDX-License-Identifier: Apache-2.0
"""What the rules and what the proxy get of a plan; renderings and their differences."""

from __future__ import annotations

import pytest

from pointsman_enforcer.dataplane.base import UnsupportedPlanError
from pointsman_enforcer.dataplane.userspace.change import diff
from pointsman_enforcer.dataplane.userspace.redirect import redirect
from pointsman_enforcer.dataplane.userspace.target import (
    Listener,
    Target,
    listeners_of,
    pack,
    parse_listener,
    parse_target,
    rules_of,
)
from pointsman_model.names import Family, Protocol
from pointsman_model.plan import (
    DROP,
    REJECT,
    Action,
    Frontend,
    FrontendKind,
    PlanEndpoint,
    ServicePlan,
    ServicePortPlan,
    Verdict,
)

NODE = bytes((192, 168, 0, 2))
LOCAL, REMOTE = PlanEndpoint(bytes((10, 0, 1, 1)), 8080, hairpin=True), PlanEndpoint(bytes((10, 0, 2, 1)), 8080, 3)
ALL, HERE = Verdict(Action.FORWARD, 0, True), Verdict(Action.FORWARD, 1)
NODE_PORT = Frontend(FrontendKind.NODE_PORT, b"", 30080, ALL, ALL, HERE)


def plan(protocol: Protocol = Protocol.TCP, frontend: Frontend = NODE_PORT, affinity: int = 0) -> ServicePlan:
    port = ServicePortPlan(
        name="http",
        protocol=protocol,
        family=Family.IPV4,
        frontends=(frontend,),
        endpoint_sets=((LOCAL, REMOTE), (LOCAL,)),
        also_serving=(PlanEndpoint(bytes((10, 0, 3, 1)), 8080),) if protocol is Protocol.UDP else (),
    )
    return ServicePlan(ports=(port,), affinity_timeout_seconds=affinity)


class Promises:
    def __init__(self) -> None:
        self.made: dict[bytes, Listener] = {}

    def __call__(self, identity: bytes, family: Family, protocol: Protocol) -> Listener:
        assert family is Family.IPV4
        return self.made.setdefault(identity, Listener(NODE, protocol, 40000 + len(self.made)))


def test_each_endpoint_set_in_use_becomes_one_listener_and_rules_lead_there_without_masquerade() -> None:
    divided = redirect(plan(affinity=60), Promises())
    (port,) = divided.proxied.ports
    assert port.endpoint_sets == ((PlanEndpoint(NODE, 40000),), (PlanEndpoint(NODE, 40001),))
    assert port.frontends[0].from_pod == Verdict(Action.FORWARD, 0, masquerade=False)
    assert divided.proxied.affinity_timeout_seconds == 0
    targets = {parse_listener(key).port: parse_target(value) for key, value in divided.listeners.items()}
    assert [(each.address, each.weight) for each in targets[40000].endpoints] == [
        (LOCAL.address, 1),
        (REMOTE.address, 3),
    ]
    assert [each.address for each in targets[40001].endpoints] == [LOCAL.address]
    assert targets[40000].memory == targets[40001].memory
    assert targets[40000].affinity_seconds == 60


def test_nobody_may_go_to_a_listener_but_through_a_frontend() -> None:
    (port,) = redirect(plan(), Promises()).proxied.ports
    guards = port.frontends[1:]
    assert [(each.address, each.port) for each in guards] == [(NODE, 40000), (NODE, 40001)]
    assert all(verdict is REJECT for each in guards for verdict in each[3:6])


def test_what_no_verdict_names_is_not_listened_for() -> None:
    refused = NODE_PORT._replace(from_pod=REJECT, from_host=DROP, from_outside=HERE)
    divided = redirect(plan(frontend=refused), Promises())
    assert len(divided.listeners) == 1
    assert divided.proxied.ports[0].frontends[0][3:5] == (REJECT, DROP)


def test_sctp_is_left_to_the_rules() -> None:
    divided = redirect(plan(Protocol.SCTP, affinity=60), Promises())
    assert divided.direct == plan(Protocol.SCTP, affinity=60)
    assert divided.proxied.ports == ()
    assert not divided.listeners


def test_udp_flows_go_on_to_whoever_serves() -> None:
    divided = redirect(plan(Protocol.UDP), Promises())
    narrow = next(parse_target(value) for value in divided.listeners.values())
    assert narrow.serving == {(bytes((10, 0, number, 1)), 8080) for number in (1, 2, 3)}


def test_a_plan_without_a_place_to_listen_is_refused_in_words() -> None:
    def nowhere(_identity: bytes, _family: Family, _protocol: Protocol) -> Listener:
        raise OSError("this node has no IPV4 address")

    with pytest.raises(UnsupportedPlanError, match="nowhere to listen for http: this node has no IPV4 address"):
        redirect(plan(), nowhere)


def test_targets_and_renderings_come_back_as_they_were() -> None:
    for address in (bytes((10, 0, 0, 1)), bytes(15) + b"\1"):
        target = Target(b"abcdefgh", 10800, (PlanEndpoint(address, 80, 65_536),), frozenset({(address, 81)}))
        assert parse_target(target.pack()) == target
        listener = Listener(address, Protocol.UDP, 53)
        assert parse_listener(listener.pack()) == listener
        rendering = pack(b"rules", {listener.pack(): target.pack()})
        assert rules_of(rendering) == b"rules"
        assert listeners_of(rendering) == {listener.pack(): target.pack()}
    assert pack(b"", {}) == b""
    assert rules_of(b"") == b""


def test_a_difference_names_what_is_served_anew_and_what_no_more() -> None:
    keys = [Listener(NODE, Protocol.TCP, 40000 + number).pack() for number in range(3)]
    one, other = (Target(b"abcdefgh", 0, (each,)).pack() for each in (LOCAL, REMOTE))
    change = diff(pack(b"", {keys[0]: one, keys[1]: one}), pack(b"", {keys[0]: one, keys[1]: other, keys[2]: one}))
    assert change.serves == {keys[1]: other, keys[2]: one}
    assert not change.closes
    back = diff(pack(b"", {keys[2]: one}), b"")
    assert list(back.closes) == [keys[2]]
    change.include(back)
    assert not change.closes
    assert diff(b"", b"").is_empty
