# SPDX-License-Identifier: Apache-2.0
"""What stands in the store that planners share: anybody who may write there can put anything into it."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import msgspec
from fuzz.harness import Target
from fuzz.mutation import mutated_bytes, mutated_json
from hypothesis import strategies as st

from pointsman_chassis.clock import SystemClock
from pointsman_chassis.errors import ConfigError
from pointsman_chassis.metrics import Registry
from pointsman_model.cluster import ClusterPosition
from pointsman_model.names import ServiceKey
from pointsman_planner.api.control_codec import status_to_pb
from pointsman_planner.core import framing
from pointsman_planner.core.messages import AckLevel, Condition, Conditions, Drift, Failure, FailureStage
from pointsman_planner.core.ownership import Member, candidates
from pointsman_planner.core.reached import Reached
from pointsman_planner.core.status import NodeState, NodeStatus
from pointsman_planner.metrics import ShardingMetrics, StoreMetrics
from pointsman_planner.store.connection import parse_store_url
from pointsman_planner.store.member_store import PLANNERS, MemberStore
from pointsman_planner.store.memory_store import MemoryStore
from pointsman_planner.store.node_status_store import NODES, NodeStatusStore
from pointsman_planner.store.port import Write
from pointsman_planner.store.replicas import Replicas

_POSITION = ClusterPosition(epoch="e", revision=9)
_STATUS = NodeStatus(
    name="node-a",
    state=NodeState.NACKED,
    planner_id="p1",
    mode=1,
    sent=_POSITION,
    programmed=_POSITION,
    desired_digest=2**64 - 1,
    reached=(Reached(level=AckLevel.PROGRAMMED, position=_POSITION, digest=5, at_ns=7),),
    failures=(Failure(service=ServiceKey("shop", "web"), stage=FailureStage.APPLY, message="no"),),
    last_seen_ns=1_700_000_000_000_000_000,
    drift=Drift(repairs=2, kinds=("table",), process="nft", process_id=8),
    conditions=Conditions(conditions=(Condition(service=ServiceKey("shop", "web"), kind=1, message="no"),), total=1),
)
_NEIGHBOUR = NodeStatus(name="node-b", state=NodeState.SYNCED)
_MEMBER = Member(planner_id="p1", address="10.0.0.1:7402", instance_id="i")


_PIECES = re.compile(r"[:/@]")


def _hostile(sound: Any) -> st.SearchStrategy[bytes]:
    document = msgspec.to_builtins(sound)
    encoded = mutated_json(document).map(lambda value: msgspec.json.encode(value, order="sorted"))
    return st.one_of(encoded, mutated_bytes(st.just(msgspec.json.encode(sound))))


def check_status(value: bytes) -> None:
    """A status comes back only if it can be shown; the neighbour's always."""

    async def scenario() -> None:
        store, metrics = MemoryStore(), StoreMetrics(Registry(process=False))
        await store.commit(NODES, [Write(key="node-a", value=value)])
        await store.commit(NODES, [Write(key="node-b", value=msgspec.json.encode(_NEIGHBOUR))])
        found = await NodeStatusStore(store=store, metrics=metrics).read(["node-a", "node-b"])
        assert found["node-b"] == _NEIGHBOUR
        for status in found.values():
            status_to_pb(status).SerializeToString()
        assert set(found) == {"node-b"} or found["node-a"].name == "node-a"

    asyncio.run(scenario())


def check_member(value: bytes) -> None:
    """A member is one only if enforcers can be sent to it; the neighbour always is."""

    async def scenario() -> None:
        store, registry = MemoryStore(), Registry(process=False)
        metrics = StoreMetrics(registry)
        neighbour = Member(planner_id="p2", address="10.0.0.2:7402")
        await store.commit(PLANNERS, [Write(key="p1", value=value)])
        await store.commit(PLANNERS, [Write(key="p2", value=msgspec.json.encode(neighbour))])
        told: list[tuple[Member, ...]] = []
        members = MemberStore(
            planner_id="p3",
            store=store,
            replicas=Replicas(store=store, metrics=metrics),
            lease_seconds=10.0,
            clock=SystemClock(),
            metrics=ShardingMetrics(registry),
            store_metrics=metrics,
            on_change=told.append,
        )
        await members.refresh()
        assert neighbour in members.members
        assert {member.planner_id for member in members.members} <= {"p1", "p2"}
        for member in members.members:
            _, _, port = member.address.rpartition(":")
            assert 0 < int(port) < 65536
        framing.redirect(candidates("node", members.members), framing.RedirectReason.NOT_OWNER, grace_seconds=1.0)

    asyncio.run(scenario())


def check_url(url: str) -> None:
    """An address, or a ConfigError that does not repeat what may be a password."""
    try:
        parse_store_url(url)
    except ConfigError as error:
        shown = str(error)
    else:
        return
    for piece in _PIECES.split(url.partition("://")[2]):
        assert len(piece) < 8 or piece not in shown


_urls = st.builds(
    "{}://{}{}".format,
    st.sampled_from(["redis", "rediss", "unix", "memory", "redis+sentinel", "rediss+cluster", "redis+", "x", ""]),
    st.one_of(
        st.text(max_size=30),
        st.sampled_from(
            [":passw0rd/s3cretly@h", "u:p%00@h:1,h2:2", ":s3cret12@h:s3cret12", "[::1]:7", "[::1", "h:99999"]
        ),
    ),
    st.one_of(st.text(max_size=10), st.sampled_from(["/0", "/main/1", "/x/y/z", "?db=0", "/%ff", "#x"])),
)

TARGETS = (
    Target(name="planner: node status in the store", values=_hostile(_STATUS), check=check_status, examples=200),
    Target(name="planner: members in the store", values=_hostile(_MEMBER), check=check_member, examples=150),
    Target(name="planner: store URL", values=_urls, check=check_url, examples=200),
)
