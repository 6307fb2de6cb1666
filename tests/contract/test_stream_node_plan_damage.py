# SPDX-License-Identifier: Apache-2.0
"""Deltas that get lost or altered between a real planner and a real enforcer: found by digest, repaired by bucket."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from pointsman.plan.v1 import plan_service_pb2 as pb
from pointsman_enforcer.disk.plan_journal import load_plan
from pointsman_model.digest import plan_digest
from pointsman_model.names import ServiceKey
from pointsman_model.wire.plan import encode_service_plan
from pointsman_planner.core.node_plan import plan
from support.cluster_objects import endpoint, endpoint_slice, node, service
from support.enforcer_node import Node
from support.plan_relay import PlanRelay, plan_relay
from support.plan_server import PlanServer, eventually, plan_server

SERVICES = 300
HEARTBEAT_SECONDS = 0.5


def web(number: int, *ips: str) -> tuple[object, ...]:
    name = f"svc-{number}"
    return (
        service(f"shop/{name}", f"10.96.{number // 250}.{number % 250 + 1}", ports=["p:80"]),
        endpoint_slice(f"shop/{name}-x", name, [endpoint(ip, node="node-z") for ip in ips], ["p:8080"]),
    )


@dataclass(frozen=True, kw_only=True)
class World:
    """A planner, a node whose kernel has its plan, and what is between them."""

    server: PlanServer
    relay: PlanRelay
    node: Node

    def change(self, number: int, *ips: str) -> None:
        self.server.put(*web(number, *ips))  # type: ignore[arg-type]  # what the builders make

    async def settle(self) -> None:
        await eventually(lambda: self.server.is_converged("node-1"), "the kernel has what the planner wants")

    def held(self) -> dict[ServiceKey, bytes]:
        store = load_plan(self.node.directory).store
        return {each: store.get(each) or b"" for each in store}

    def wanted(self) -> dict[ServiceKey, bytes]:
        plans = plan("node-1", self.server.planner.cluster).services
        return {each: encode_service_plan(value) for each, value in plans.items()}


@asynccontextmanager
async def damaged_world(directory: Path) -> AsyncIterator[World]:
    async with plan_server(heartbeat_seconds=HEARTBEAT_SECONDS) as server, plan_relay(server.address) as relay:
        server.put(node("node-1", "192.168.0.2"), *[each for n in range(SERVICES) for each in web(n, "10.1.0.1")])  # type: ignore[arg-type]  # what the builders make
        held = Node(directory)
        async with held.enforcer(relay.address):
            world = World(server=server, relay=relay, node=held)
            await world.settle()
            relay.down.clear()
            relay.up.clear()
            yield world


def once(damage: Callable[[pb.Transaction], pb.Transaction | None]) -> Callable[..., pb.StreamNodePlanResponse | None]:
    """Damage the next transaction, and no other."""
    is_done = False

    def alter(message: pb.StreamNodePlanResponse) -> pb.StreamNodePlanResponse | None:
        nonlocal is_done
        if is_done or not message.HasField("transaction"):
            return message
        is_done = True
        altered = damage(message.transaction)
        return None if altered is None else pb.StreamNodePlanResponse(transaction=altered)

    return alter


def other_plan(part: pb.Transaction) -> pb.Transaction:
    """Another plan than was meant, which any enforcer can program."""
    part.updates[0].plan = pb.ServicePlan().SerializeToString()
    return part


def forged(part: pb.Transaction) -> pb.Transaction:
    """The same, with a digest that agrees with it: only the planner can know better."""
    before, was = part.updates[0].plan, part.digest
    name = ServiceKey(part.updates[0].name.namespace, part.updates[0].name.name)
    other_plan(part)
    part.digest = (was - plan_digest(name, before) + plan_digest(name, part.updates[0].plan)) % 2**64
    return part


@pytest.mark.parametrize(
    "damage", [lambda _: None, other_plan, forged], ids=["lost", "altered", "altered with its digest"]
)
async def test_a_damaged_delta_is_found_within_a_heartbeat_and_costs_its_bucket(
    damage: Callable[[pb.Transaction], pb.Transaction | None], tmp_path: Path
) -> None:
    async with damaged_world(tmp_path) as world:
        world.relay.alter = once(damage)
        world.change(7, "10.1.0.7", "10.1.0.8")
        await eventually(lambda: world.relay.count("resync") == 1, "the enforcer asks for what differs")
        await world.settle()
        assert world.relay.count("heartbeat") <= 2
        assert world.relay.services_sent <= 8, "a bucket holds few of 300 services"
        assert not any(message.transaction.replaces_all for message in world.relay.down)
    assert world.held() == world.wanted()


async def test_two_lost_deltas_in_a_row_do_not_block_the_stream(tmp_path: Path) -> None:
    async with damaged_world(tmp_path) as world:
        lost = []

        def lose_two(message: pb.StreamNodePlanResponse) -> pb.StreamNodePlanResponse | None:
            if message.HasField("transaction") and len(lost) < 2:
                lost.append(message.transaction.nonce)
                return None
            return message

        world.relay.alter = lose_two
        world.change(7, "10.1.0.7")
        await eventually(lambda: len(lost) == 1, "the first delta is lost")
        world.change(8, "10.1.0.8")
        await eventually(lambda: len(lost) == 2, "and the second")
        world.change(9, "10.1.0.9")
        await world.settle()
        assert world.relay.services_sent <= 16
    assert world.held() == world.wanted()
