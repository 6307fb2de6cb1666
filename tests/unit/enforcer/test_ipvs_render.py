# SPDX-License-Identifier: Apache-2.0
"""A plan as virtual servers and elements of sets: what is shared, what differs by sender, what cannot be said."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pointsman_enforcer.dataplane.base import OccupiedError, UnsupportedPlanError
from pointsman_enforcer.dataplane.ipvs import layout
from pointsman_enforcer.dataplane.ipvs.change import Ledger, diff
from pointsman_enforcer.dataplane.ipvs.genetlink.model import ServiceFlags
from pointsman_enforcer.dataplane.ipvs.layout import DROP_MARK, MASQUERADE, REJECT_MARK, TAKEN, Kind
from pointsman_enforcer.dataplane.ipvs.render import Numbers, RenderContext, render_service
from pointsman_enforcer.dataplane.ipvs.schedulers import Scheduler
from pointsman_model.names import Family, Protocol, make_prefix
from pointsman_model.plan import (
    DROP,
    REJECT,
    Action,
    DataplaneSettings,
    DetectLocal,
    Frontend,
    FrontendKind,
    PlanEndpoint,
    ServicePlan,
    ServicePortPlan,
    Verdict,
)

_POD_CIDR = make_prefix(bytes((10, 180, 0, 0)), 16)
_CONTEXT = RenderContext(
    settings=DataplaneSettings(
        detect_local=DetectLocal.CIDR,
        detect_local_cidrs=(_POD_CIDR,),
        node_port_addresses=(make_prefix(bytes((192, 168, 0, 0)), 16),),
    ),
    addresses=(bytes((192, 168, 0, 2)), bytes((10, 0, 0, 9))),
)
_VIP = bytes((172, 30, 0, 41))
_PLAIN, _MASQUERADED = Verdict(Action.FORWARD), Verdict(Action.FORWARD, 0, True)
_A, _B = PlanEndpoint(bytes((10, 180, 0, 1)), 8080, hairpin=True), PlanEndpoint(bytes((10, 180, 2, 1)), 8080)
_CLUSTER = Frontend(FrontendKind.CLUSTER_IP, _VIP, 80, _PLAIN, _MASQUERADED, _MASQUERADED)
_NODE_PORT = Frontend(FrontendKind.NODE_PORT, b"", 3001, _MASQUERADED, _MASQUERADED, _MASQUERADED)


def _plan(*frontends: Frontend, endpoints: tuple[PlanEndpoint, ...] = (_A, _B), seconds: int = 0) -> ServicePlan:
    port = ServicePortPlan(
        name="http", protocol=Protocol.TCP, family=Family.IPV4, frontends=frontends, endpoint_sets=(endpoints, (_A,))
    )
    return ServicePlan(ports=(port,), affinity_timeout_seconds=seconds)


def _records(plan: ServicePlan, context: RenderContext = _CONTEXT) -> layout.Records:
    return layout.unpack(render_service(plan, context, Numbers()))


def _elements(records: layout.Records) -> dict[str, str]:
    return {record.key.decode(): value.decode() for record, value in records.items() if record.kind is Kind.MEMBER}


def _marks(records: layout.Records) -> dict[str, int]:
    return {key: int(value.split()[1], 16) for key, value in _elements(records).items()}


def _servers(records: layout.Records) -> list[str]:
    return [
        str(layout.server_of(record, value)[0].id) for record, value in records.items() if record.kind is Kind.SERVER
    ]


def test_each_class_has_its_mark_and_masquerade_is_a_virtual_server_of_its_own() -> None:
    marks = _marks(_records(_plan(_CLUSTER)))
    pod, host, others = (marks[f"pointsman-ipvs-{name}4 172.30.0.41,tcp:80"] for name in ("pod", "host", "others"))
    assert host == others == pod | MASQUERADE
    assert pod & TAKEN
    assert not pod & MASQUERADE


def test_frontends_share_the_virtual_servers_of_their_endpoint_set() -> None:
    records = _records(_plan(_CLUSTER, _NODE_PORT))
    assert len(_servers(records)) == 2
    marks = _marks(records)
    assert (
        marks["pointsman-ipvs-ports-others4 0.0.0.0/1,tcp:3001"] == marks["pointsman-ipvs-others4 172.30.0.41,tcp:80"]
    )
    assert "pointsman-ipvs-ports-pod4 0.0.0.0/1,tcp:3001" not in marks


def test_refusals_are_marks_and_need_no_virtual_server() -> None:
    records = _records(_plan(_CLUSTER._replace(from_pod=REJECT, from_host=REJECT, from_outside=DROP)))
    assert _servers(records) == []
    marks = _marks(records)
    assert marks["pointsman-ipvs-pod4 172.30.0.41,tcp:80"] == REJECT_MARK
    assert marks["pointsman-ipvs-others4 172.30.0.41,tcp:80"] == DROP_MARK


def test_affinity_has_a_persistent_virtual_server_for_each_place_on_addresses_that_serve_node_ports() -> None:
    records = _records(_plan(_CLUSTER, _NODE_PORT, seconds=60))
    assert sorted(_servers(records)) == ["TCP 172.30.0.41:80", "TCP 192.168.0.2:3001"]
    found = [layout.server_of(record, value)[0] for record, value in records.items() if record.kind is Kind.SERVER]
    assert {(server.flags, server.timeout_seconds) for server in found} == {(ServiceFlags.PERSISTENT, 60)}


def test_affinity_with_endpoints_that_differ_by_sender_is_refused() -> None:
    local = _CLUSTER._replace(from_outside=Verdict(Action.FORWARD, 1))
    with pytest.raises(UnsupportedPlanError, match="different endpoints"):
        _records(_plan(local, seconds=60))


def test_weights_choose_the_scheduler_unless_one_is_set() -> None:
    weighted = _plan(_CLUSTER, endpoints=(_A, _B._replace(weight=3)))
    for context, wanted in ((_CONTEXT, "wrr"), (replace(_CONTEXT, scheduler=Scheduler("mh")), "mh")):
        records = _records(weighted, context)
        servers = [layout.server_of(*each)[0] for each in records.items() if each[0].kind is Kind.SERVER]
        assert {server.scheduler for server in servers} == {wanted}
        reals = [layout.real_of(*each)[1] for each in records.items() if each[0].kind is Kind.REAL]
        assert sorted(real.weight for real in reals) == [1, 1, 3, 3]
    with pytest.raises(UnsupportedPlanError, match="weight"):
        _records(_plan(_CLUSTER, endpoints=(_A._replace(weight=1 << 16),)))


def test_an_endpoint_that_still_serves_keeps_its_flows_with_weight_0() -> None:
    plan = _plan(_CLUSTER, endpoints=(_A,))
    port = replace(plan.ports[0], protocol=Protocol.UDP, also_serving=(_A._replace(hairpin=False), _B))
    records = _records(replace(plan, ports=(port,)))
    reals = {layout.real_of(*each)[1] for each in records.items() if each[0].kind is Kind.REAL}
    assert {(real.id.address, real.weight) for real in reals} == {(_A.address, 1), (_B.address, 0)}


def test_two_services_with_one_address_are_told_apart_and_the_second_is_refused() -> None:
    rendering = render_service(_plan(_CLUSTER), _CONTEXT, Numbers())
    ledger, change = Ledger(), diff(b"", rendering)
    operations = ledger.resolve(change)
    assert [record.kind for record, _ in operations.servers] == [Kind.SERVER] * 2 + [Kind.REAL] * 4
    ledger.commit(change)
    with pytest.raises(OccupiedError):
        ledger.resolve(diff(b"", rendering))
    gone = ledger.resolve(diff(rendering, b""))
    assert [record.kind for record, _ in gone.gone] == [Kind.REAL] * 4 + [Kind.SERVER] * 2
    assert not ledger.resolve(diff(rendering, rendering)).elements
