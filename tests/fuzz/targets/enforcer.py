# SPDX-License-Identifier: Apache-2.0
"""What a planner sends an enforcer: streams and single plans. A service that no message names keeps its elements."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace

from fuzz.harness import Target
from fuzz.mutation import mutated_bytes, mutated_message
from google.protobuf.message import DecodeError, Message
from hypothesis import strategies as st

from pointsman.plan.v1 import plan_service_pb2 as pb
from pointsman_chassis.clock import VirtualClock
from pointsman_enforcer.core.errors import PlanProtocolError
from pointsman_enforcer.core.messages import transaction_to_pb
from pointsman_enforcer.core.plan_session import Action, Commit, PlanSession, Send
from pointsman_enforcer.core.plan_store import PlanStore
from pointsman_enforcer.core.transaction import Position, Transaction
from pointsman_enforcer.dataplane.base import UnsupportedPlanError
from pointsman_enforcer.dataplane.nftables.backend import NftablesDataplane
from pointsman_enforcer.dataplane.nftables.change import NftChange, diff
from pointsman_enforcer.dataplane.nftables.render import RenderContext, render_service
from pointsman_enforcer.dataplane.node_settings import NodeSettings
from pointsman_enforcer.dataplane.reconciler import Reconciler, ServicesFailedError
from pointsman_model.names import Family, ServiceKey, parse_prefix
from pointsman_model.plan import ServicePlan
from pointsman_model.wire.plan import PlanFormatError, decode_service_plan, encode_service_plan, service_plan_to_pb
from support.enforcer_plans import FACTS, digest_of, key, load_balancer, numbered, service_plans
from support.fake_nftables import FakeNftables

SOUND = ServiceKey("sound", "web")
_SOUND_PLAN = numbered(0xABCD, 3)
_SOUND_ADDRESS = bytes((172, 30, 0xAB, 0xCD))
_SETTINGS = NodeSettings(cluster_cidrs=(parse_prefix("10.0.0.0/8"), parse_prefix("fd00:10::/64")))
_CONTEXT = RenderContext(detects=frozenset(Family))
_WELCOME = pb.StreamNodePlanResponse(welcome=pb.Welcome(planner_id="fuzz"))


class _Node:
    """An enforcer without sockets, and a kernel in memory. To be made in a running loop."""

    def __init__(self) -> None:
        self.kernel = FakeNftables()
        self.store = PlanStore()
        self.session = PlanSession(hello=pb.Hello(node_name="node-1"), store=self.store, now=0.0)
        self.session.open(0.0)
        self.reconciler: Reconciler[NftChange] = Reconciler(
            dataplane=NftablesDataplane(node_settings=_SETTINGS, kernel=self.kernel),
            store=self.store,
            clock=VirtualClock(),
            on_synced=self._synced,
        )

    def _synced(self, _pending: object, programmed: object, _tally: object) -> None:
        self.session.programmed(programmed, 1.0)  # type: ignore[arg-type]  # the reconciler's own value

    async def take(self, message: pb.StreamNodePlanResponse) -> None:
        """As the stream does it."""
        actions: list[Action] = self.session.receive(message, 1.0)
        for action in actions:
            if isinstance(action, Commit):
                self.reconciler.commit(action, stream=self, received_at=0.0, received_ns=1)
                try:
                    await self.reconciler.run()
                except ServicesFailedError:
                    continue
            elif isinstance(action, Send):
                action.message.SerializeToString()

    def sound_elements(self) -> set[tuple[object, ...]]:
        """What the kernel has of the sound service, in any map."""
        return {
            (where, element)
            for where, elements in self.kernel.elements().items()
            for element in elements
            if element.key.startswith(_SOUND_ADDRESS)
        }


_CHANGES = (
    (numbered(0, 1), numbered(0, 3, first=2), ServicePlan()),
    (load_balancer(), ServicePlan(ports=load_balancer().ports[:1], affinity_timeout_seconds=10800)),
    (numbered(2, 20), numbered(2, 1, first=5)),
)


def _transaction(nonce: int, plans: Mapping[ServiceKey, ServicePlan], held: dict[ServiceKey, bytes]) -> Message:
    encoded = {name: encode_service_plan(plan) for name, plan in plans.items()}
    held.update(encoded)
    transaction = Transaction(
        nonce=nonce,
        position=Position("fuzz", nonce),
        updates=encoded,
        replaces_all=nonce == 1,
        facts=FACTS,
        digest=digest_of(held),
        in_sync=True,
    )
    return pb.StreamNodePlanResponse(transaction=transaction_to_pb(transaction))


@st.composite
def _streams(draw: st.DrawFn) -> list[bytes]:
    """The first transaction is sound, the others need not be."""
    held: dict[ServiceKey, bytes] = {}
    first = {SOUND: _SOUND_PLAN, key(0): numbered(0, 2), key(1): load_balancer()}
    messages = [_WELCOME.SerializeToString(), _transaction(1, first, held).SerializeToString()]
    for nonce in range(2, draw(st.integers(3, 5))):
        owner = draw(st.integers(0, len(_CHANGES) - 1))
        sound = _transaction(nonce, {key(owner): draw(st.sampled_from(_CHANGES[owner]))}, held)
        hostile = (
            mutated_message(st.just(sound)).map(lambda message: message.SerializeToString())
            if draw(st.booleans())
            else mutated_bytes(st.just(sound.SerializeToString()))
        )
        messages.append(draw(hostile))
    return messages


def _touches_sound(data: bytes, message: pb.StreamNodePlanResponse) -> bool:
    transaction = message.transaction
    named = b"sound" in data or _SOUND_ADDRESS in data
    return named or transaction.replaces_all or bool(transaction.replaced_buckets)


async def _play(messages: list[bytes]) -> None:
    node = _Node()
    before: set[tuple[object, ...]] = set()
    for index, data in enumerate(messages):
        try:
            message = pb.StreamNodePlanResponse.FromString(data)
        except DecodeError:
            continue
        try:
            await node.take(message)
        except PlanProtocolError:
            break
        node.session.next_tick()
        if index == 1:
            before = node.sound_elements()
            assert before
        if index > 1 and _touches_sound(data, message):
            return
    assert node.sound_elements() == before
    assert node.store.get(SOUND) == encode_service_plan(_SOUND_PLAN)


def check_stream(messages: list[bytes]) -> None:
    """The stream ends by PlanProtocolError or goes on."""
    asyncio.run(_play(messages))


def _weighted() -> ServicePlan:
    """Several frontends, and an endpoint that asks for all the slots there are."""
    (port,) = numbered(3, 2).ports
    frontends = tuple(port.frontends[0]._replace(port=number) for number in range(80, 86))
    (first, second), *_ = port.endpoint_sets
    heavy = ((first, second._replace(weight=(1 << 32) - 1)),)
    return ServicePlan(ports=(replace(port, frontends=frontends, endpoint_sets=heavy),))


_PLANS = (load_balancer(), numbered(1), numbered(2, 200), _weighted())
_plan_bytes = st.one_of(
    mutated_message(st.sampled_from([service_plan_to_pb(plan) for plan in _PLANS]), changes_max=6).map(
        lambda message: message.SerializeToString()
    ),
    mutated_bytes(st.sampled_from([encode_service_plan(plan) for plan in _PLANS])),
    mutated_bytes(service_plans(0).map(encode_service_plan), changes_max=2),
)


def check_plan(value: tuple[bytes, ServicePlan]) -> None:
    """A plan is programmed, or refused by a documented error; the way back costs what the way there does."""
    data, previous = value
    before = render_service(previous, b"", _CONTEXT)
    try:
        plan = decode_service_plan(data)
        after = render_service(plan, before, _CONTEXT)
    except (PlanFormatError, UnsupportedPlanError):
        return
    assert decode_service_plan(encode_service_plan(plan)) == plan
    assert render_service(plan, after, _CONTEXT) == after
    assert diff(before, after).operations == diff(after, before).operations


TARGETS = (
    Target(name="enforcer: stream of a planner", values=_streams(), check=check_stream, examples=80),
    Target(
        name="enforcer: plans of services",
        values=st.tuples(_plan_bytes, service_plans(0)),
        check=check_plan,
        examples=200,
    ),
)
