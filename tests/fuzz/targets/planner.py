# SPDX-License-Identifier: Apache-2.0
"""What watchers and enforcers send the planner. A stream may end for it; no other service or node may notice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import msgspec
from fuzz.harness import Target
from fuzz.mutation import mutated_bytes, mutated_message
from google.protobuf.message import DecodeError, Message
from hypothesis import strategies as st

from pointsman.cluster.v1 import cluster_service_pb2 as cluster_pb
from pointsman.plan.v1 import plan_service_pb2 as plan_pb
from pointsman_chassis.metrics import Registry
from pointsman_chassis.tls import TransportSecurity
from pointsman_model.cluster import Change, ClusterObject, ClusterPosition, key_of
from pointsman_model.names import Protocol, ServiceKey, ServicePortName, parse_address
from pointsman_model.remembered import ClientKey, RememberedClient
from pointsman_model.wire import WireError
from pointsman_model.wire.cluster import change_to_pb
from pointsman_model.wire.plan import decode_service_plan, node_facts_from_pb
from pointsman_model.wire.remembered import memory_from_pb, memory_to_pb
from pointsman_planner.api.control_codec import status_to_pb
from pointsman_planner.api.plan_codec import decode_message
from pointsman_planner.core import framing
from pointsman_planner.core.feed_state import (
    FeedProtocolError,
    FeedState,
    GuardSettings,
    MassDeleteGuard,
    MassDeleteHeldError,
)
from pointsman_planner.core.freshness import Freshness, OlderWatcherError
from pointsman_planner.core.messages import AffinityReport, Hello, ProtocolViolationError
from pointsman_planner.core.node_session import NodeSession
from pointsman_planner.core.planner import Batch, Planner
from pointsman_planner.core.status import NodeState, NodeStatus
from pointsman_planner.feed.cluster_feed import ClusterFeed
from pointsman_planner.metrics import PlannerMetrics
from pointsman_planner.store.affinity_store import key_of as client_of
from pointsman_planner.store.affinity_store import text_of
from support.cluster_objects import endpoint, endpoint_slice, node, service, service_cidr
from support.model_enforcer import ModelEnforcer

SOUND = ServiceKey("sound", "web")
_ADDRESS = "watcher:1"
_NODE = "n1"
_OTHER = "n2"
_EPOCH = "fuzz"
_TRACEPARENT = f"00-{'a' * 32}-{'b' * 16}-01"
_OBJECTS = (
    node(_NODE, "192.168.0.1", zone="a"),
    node(_OTHER, "192.168.0.2", zone="b"),
    service("sound/web", "10.200.0.1", ports=["p:80"]),
    endpoint_slice("sound/web-1", "web", [endpoint("10.201.0.1"), endpoint("10.201.0.2")], ["p:8080"]),
)
_CLIENT = RememberedClient(
    ClientKey(ServicePortName(SOUND, "p", Protocol.TCP), parse_address("203.0.113.1")),
    (parse_address("10.201.0.1"), 8080),
    60_000,
)
_Response = cluster_pb.WatchClusterResponse


@dataclass(frozen=True, slots=True, kw_only=True)
class _World:
    planner: Planner
    feed: ClusterFeed
    guard: MassDeleteGuard
    enforcers: dict[str, ModelEnforcer]


def _apply(planner: Planner, batch: Batch) -> None:
    planner.apply(batch)


def _world() -> _World:
    planner = Planner()
    guard = MassDeleteGuard(GuardSettings())
    feed = ClusterFeed(
        addresses=[_ADDRESS],
        client_id="fuzz",
        security=TransportSecurity(insecure=True),
        planner=planner,
        guard=guard,
        on_batch=lambda batch: _apply(planner, batch),
        metrics=PlannerMetrics(Registry(process=False)),
    )
    batch = tuple(Change(key=key_of(value), value=value) for value in _OBJECTS)
    planner.apply(Batch(changes=batch, position=ClusterPosition(epoch=_EPOCH, revision=1)))
    world = _World(planner=planner, feed=feed, guard=guard, enforcers={})
    for name in (_NODE, _OTHER):
        world.enforcers[name] = ModelEnforcer(name)
        hello = decode_message(world.enforcers[name].hello().SerializeToString())
        assert isinstance(hello, Hello)
        planner.open(hello, now_ns=1)
        _deliver(world, name)
    return world


def _deliver(world: _World, name: str) -> None:
    """Send what a node is due to its enforcer, which acknowledges; every plan in it can be read."""
    session, enforcer = world.planner.sessions[name], world.enforcers[name]
    while session.has_work:
        frame = session.next_transaction(now_ns=1)
        assert frame is not None
        for part in frame.parts():
            nonce = enforcer.receive(part)
            if nonce is not None:
                session.receive(decode_message(enforcer.ack(nonce).SerializeToString()), now_ns=1)
    session.heartbeat(now_ns=1)
    assert enforcer.agrees
    for plan in enforcer.plans.values():
        decode_service_plan(plan)
    if enforcer.facts is not None:
        node_facts_from_pb(enforcer.facts)


def _opened() -> _Response:
    start = cluster_pb.Opened.START_RESUME
    return _Response(opened=cluster_pb.Opened(epoch=_EPOCH, start=start, heartbeat_interval_ms=1000))


def _delta(revision: int, batch: Sequence[Change]) -> _Response:
    return _Response(
        delta=cluster_pb.Delta(revision=revision, changes=[change_to_pb(change) for change in batch], complete=True)
    )


def _pool() -> tuple[Change, ...]:
    """Sound changes of few names, so that hostile ones meet each other."""
    values: tuple[ClusterObject, ...] = (
        service(
            "shop/web",
            "10.96.0.1",
            ports=["p:80", "q:53/UDP"],
            node_ports={"p": 30080},
            load_balancer_ips=["1.2.3.4"],
            external_ips=["9.9.9.9"],
            external_local=True,
        ),
        service("shop/web", "10.96.0.1", ports=["p:81"]),
        service("shop/api", "10.96.0.2", ports=["p:80"], external_ips=["9.9.9.9", "10.96.0.1"]),
        service("default/kubernetes", "fd00:96::1", ports=["p:443"]),
        *(
            replace(
                endpoint_slice(
                    f"shop/web-{number}",
                    "web",
                    [
                        endpoint(f"10.1.{number}.1", node=_NODE, zone_hints=["a"]),
                        endpoint(f"10.1.{number}.2", node=_OTHER, ready=False, serving=True, terminating=True),
                    ],
                    ["p:8080", "q:5353/UDP"],
                ),
                trigger_time_ns=1_700_000_000_000_000_000,
            )
            for number in (1, 2)
        ),
        endpoint_slice("default/kubernetes-1", "kubernetes", [endpoint("fd00::1")], ["p:6443"]),
        node(_NODE, "192.168.0.1", zone="b"),
        node("n3", "192.168.0.3", "fd00::3", zone="a"),
        service_cidr("kubernetes", "10.96.0.0/16", "fd00:96::/112"),
    )
    upserts = tuple(
        Change(key=key_of(value), value=value, traceparent=_TRACEPARENT, observed_at_ns=1_700_000_000_500_000_000)
        for value in values
    )
    return (*upserts, *(Change(key=change.key, value=None) for change in upserts[::3]))


_deltas = st.lists(
    st.tuples(st.integers(2, 9), st.lists(st.sampled_from(_pool()), min_size=1, max_size=4)).map(
        lambda parts: _delta(*parts)
    ),
    min_size=1,
    max_size=3,
)
_sound_messages = _deltas.map(
    lambda deltas: [_opened(), deltas[0], _Response(in_sync=cluster_pb.InSync(revision=1)), *deltas[1:]]
)


def _mutated_messages(
    change: Callable[[st.SearchStrategy[Message]], st.SearchStrategy[bytes]],
) -> st.SearchStrategy[list[bytes]]:
    """A stream in which each message but the first may be hostile."""
    return _sound_messages.flatmap(
        lambda messages: st.tuples(
            st.just(messages[0].SerializeToString()), *(change(st.just(message)) for message in messages[1:])
        ).map(list)
    )


def _as_bytes(sound: st.SearchStrategy[Message]) -> st.SearchStrategy[bytes]:
    return mutated_bytes(sound.map(lambda message: message.SerializeToString()))


def _as_fields(sound: st.SearchStrategy[Message]) -> st.SearchStrategy[bytes]:
    return mutated_message(sound).map(lambda message: message.SerializeToString())


def check_feed(messages: list[bytes]) -> None:
    """A watcher's stream ends by a documented error or goes on; plans of services it does not name stay."""
    world = _world()
    before = {name: enforcer.plans[SOUND] for name, enforcer in world.enforcers.items()}
    state = FeedState(world.planner.cluster, world.guard, Freshness(), world.planner.position)
    for data in messages:
        try:
            message = _Response.FromString(data)
        except DecodeError:
            continue
        is_about_sound = b"sound" in data or b"\x0a\xc8\x00\x01" in data
        try:
            world.feed._take(state, message, _ADDRESS)
        except (FeedProtocolError, WireError, MassDeleteHeldError, OlderWatcherError):
            break
        if is_about_sound:
            return
    for name in world.enforcers:
        _deliver(world, name)
    after = {name: enforcer.plans[SOUND] for name, enforcer in world.enforcers.items()}
    assert after == before
    one = Change(key=key_of(_OBJECTS[0]), value=_OBJECTS[0])
    world.planner.apply(Batch(changes=(one,), position=ClusterPosition(epoch=_EPOCH, revision=99)))
    for name in world.enforcers:
        _deliver(world, name)


def _requests() -> list[plan_pb.StreamNodePlanRequest]:
    enforcer = ModelEnforcer(_NODE)
    hello = enforcer.hello()
    hello.hello.capabilities.extend(["a", "b"])
    hello.hello.settings.detect_local = plan_pb.DataplaneSettings.DETECT_LOCAL_CIDR
    hello.hello.settings.detect_local_cidrs.add(address=bytes((10, 0, 0, 0)), length=8)
    ack = enforcer.ack(1)
    ack.ack.applied_at.seconds = 1_700_000_000
    ack.ack.drift.repairs, ack.ack.drift.process = 1, "nft"
    ack.ack.drift.repaired_at.seconds = 1_700_000_000
    nack = enforcer.nack(1, SOUND, "no")
    conditions = plan_pb.StreamNodePlanRequest(conditions=plan_pb.Conditions(total=1))
    condition = conditions.conditions.conditions.add(
        kind=plan_pb.ServiceCondition.KIND_HEALTH_CHECK_NODE_PORT, message="no"
    )
    condition.service.namespace, condition.service.name = SOUND
    condition.since.seconds = 1_700_000_000
    affinity = plan_pb.StreamNodePlanRequest(affinity=memory_to_pb([_CLIENT, _CLIENT]))
    return [hello, ack, nack, conditions, affinity, enforcer.resync(), enforcer.heartbeat(), enforcer.ack(2)]


def _show(session: NodeSession) -> None:
    """What an enforcer said of itself can be shown, stored and read back, whatever it said."""
    status = NodeStatus(
        name=_NODE,
        state=NodeState.SYNCED,
        failures=session.failures,
        drift=session.drift,
        conditions=session.conditions,
    )
    status_to_pb(status).SerializeToString()
    assert msgspec.json.decode(msgspec.json.encode(status), type=NodeStatus) == status


def _store(report: AffinityReport) -> None:
    """Clients that an enforcer reports can be stored, read back and told to others, or have no key."""
    for client in report.clients:
        text = text_of(client.key)
        assert text is None or client_of(text) == client.key
    told = plan_pb.StreamNodePlanResponse.FromString(framing.affinity(report.clients))
    assert memory_from_pb(told.affinity) == list(report.clients)


_REQUESTS = _requests()
_requests_mutated = st.lists(
    st.one_of(_as_bytes(st.sampled_from(_REQUESTS)), _as_fields(st.sampled_from(_REQUESTS))), min_size=1, max_size=6
)


def check_requests(messages: list[bytes]) -> None:
    """One enforcer's stream ends by a documented error or goes on; another node's is as it was."""
    world = _world()
    session = world.planner.sessions[_NODE]
    digest, plans = world.planner.digest(_OTHER), dict(world.enforcers[_OTHER].plans)
    for data in messages:
        try:
            message = decode_message(data)
            if isinstance(message, Hello):
                opened = world.planner.open(message, now_ns=2)
                if opened.node != _OTHER:
                    session = opened
                else:
                    return
            elif isinstance(message, AffinityReport):
                _store(message)
            else:
                session.receive(message, now_ns=2)
        except (WireError, ProtocolViolationError):
            break
        while session.has_work:
            frame = session.next_transaction(now_ns=2)
            assert frame is not None
            for part in frame.parts():
                plan_pb.StreamNodePlanResponse.FromString(part)
        session.heartbeat(now_ns=2)
        assert len(session.failures) <= 1000
        _show(session)
    world.planner.close(session)
    _deliver(world, _OTHER)
    assert world.planner.digest(_OTHER) == digest
    assert world.enforcers[_OTHER].plans == plans


TARGETS = (
    Target(
        name="planner: stream of a watcher as bytes", values=_mutated_messages(_as_bytes), check=check_feed, examples=80
    ),
    Target(
        name="planner: stream of a watcher as fields",
        values=_mutated_messages(_as_fields),
        check=check_feed,
        examples=150,
    ),
    Target(name="planner: stream of an enforcer", values=_requests_mutated, check=check_requests, examples=150),
)
