# SPDX-License-Identifier: Apache-2.0
"""Overrides as controllers send them and as the store may hold them: what is taken is legal and keeps to itself."""

from __future__ import annotations

import msgspec
from fuzz.harness import Target
from fuzz.mutation import mutated_bytes, mutated_json, mutated_message
from hypothesis import strategies as st

from pointsman.control.v1 import override_service_pb2 as pb
from pointsman_chassis.errors import PeerError
from pointsman_enforcer.dataplane.nftables.render import RenderContext, render_service
from pointsman_enforcer.dataplane.nftables.support import CAPABILITIES
from pointsman_model.cluster import Change, key_of
from pointsman_model.names import Family, ServiceKey
from pointsman_model.wire.plan import decode_service_plan, encode_service_plan
from pointsman_planner.api.override_codec import override_from_pb, override_to_pb
from pointsman_planner.core.cluster_state import ClusterState
from pointsman_planner.core.node_plan import plan
from pointsman_planner.core.override import Override, OverrideChange
from pointsman_planner.core.override_advice import warnings
from pointsman_planner.core.override_rules import crowd_problems, problems
from pointsman_planner.store.override_store import decode, encode
from support.cluster_objects import endpoint, endpoint_slice, node, service
from support.overrides import at, drain, pin, register, weight

_OBJECTS = (
    node("n1", "192.168.0.1", zone="a"),
    service("shop/web", "10.96.0.1", "fd00:96::1", ports=["p:80"], external_ips=["9.9.9.9"], external_local=True),
    endpoint_slice("shop/web-1", "web", [endpoint("10.1.0.1", node="n1"), endpoint("10.1.0.2")], ["p:8080"]),
    service("sound/web", "10.200.0.1", ports=["p:80"]),
    endpoint_slice("sound/web-1", "web", [endpoint("10.201.0.1"), endpoint("10.201.0.2")], ["p:8080"]),
)
_SOUND = ServiceKey("sound", "web")
_SAMPLES = (
    drain("shop/d", "web", at("10.1.0.1", port=8080)),
    weight("shop/w", "web", (at(node="n1"), 1000), (at(prefix="x"), 0)),
    pin("shop/p", "web", at("10.1.0.1"), at("fd00::1")),
    register("shop/r", "web", "172.16.0.1", "fd00::5", ports=["p:8080"], node="n1", zone_hints=("a",)),
)


def _check_taken(override: Override) -> None:
    """It is legal: the planner and a node take it, and nobody who is not named notices."""
    cluster = ClusterState()
    cluster.apply(Change(key=key_of(value), value=value) for value in _OBJECTS)
    before = plan("n1", cluster).services[_SOUND]
    warnings(override, cluster.without_overrides(override.service) if override.service else None)
    crowd_problems(override, [])
    cluster.override([OverrideChange(override.key, override)])
    after = plan("n1", cluster).services
    assert after[_SOUND] == before or override.concerns(_SOUND)
    for each in after.values():
        context = RenderContext(detects=frozenset(Family), capabilities=CAPABILITIES)
        assert render_service(decode_service_plan(encode_service_plan(each)), b"", context)
    assert decode(encode(override))[0].wish == override.wish


def check_wish(message: pb.Override) -> None:
    """What a controller sends is refused, or taken as it is."""
    try:
        override = override_from_pb(message)
    except PeerError:
        return
    if not problems(override):
        _check_taken(override)
        assert override_from_pb(override_to_pb(override)).wish == override.wish


def check_record(value: bytes) -> None:
    """What the store holds is left out, or legal."""
    try:
        override, _ = decode(value)
    except (ValueError, RecursionError):
        return
    assert problems(override) == []
    _check_taken(override)
    override_to_pb(override).SerializeToString()


_DOCUMENTS = [msgspec.json.decode(encode(sample)) for sample in _SAMPLES]
TARGETS = (
    Target(
        name="overrides that controllers send",
        values=mutated_message(st.sampled_from([override_to_pb(sample) for sample in _SAMPLES])),
        check=check_wish,
    ),
    Target(
        name="overrides in the store",
        values=st.one_of(
            st.sampled_from(_DOCUMENTS).flatmap(mutated_json).map(msgspec.json.encode),
            mutated_bytes(st.sampled_from([encode(sample) for sample in _SAMPLES])),
        ),
        check=check_record,
    ),
)
