# SPDX-License-Identifier: Apache-2.0
"""A Service whose plan fits no message is refused by name; it neither ends a stream nor holds up another Service."""

from __future__ import annotations

import asyncio
from pathlib import Path

from pointsman.plan.v1 import plan_service_pb2 as pb
from pointsman_chassis.lifecycle import Stop
from pointsman_chassis.tls import TransportSecurity
from pointsman_enforcer.app import Enforcer
from pointsman_enforcer.dataplane.nftables.backend import NftablesDataplane
from pointsman_enforcer.dataplane.nftables.message import Family
from pointsman_enforcer.settings import EnforcerConfiguration
from pointsman_model.cluster import EndpointSlice, key_of
from pointsman_planner.core.framing import MESSAGE_BYTES_MAX
from support.cluster_objects import endpoint_slice, node, service
from support.fake_nftables import FakeNftables
from support.model_enforcer import ModelEnforcer
from support.plan_server import enforcer_client, eventually, plan_server

PORTS = [f"p{number}:{8000 + number}" for number in range(100)]
HUGE = service("shop/huge", "10.96.0.1", ports=PORTS)
SMALL = service("shop/small", "10.96.0.2", ports=["p:80"])
SMALL_SLICE = endpoint_slice("shop/small-x", "small", ["10.1.0.1"], ["p:8080"])


def huge_slices(count: int) -> list[EndpointSlice]:
    """So many slices of a thousand endpoints, each with a hundred ports."""
    return [
        endpoint_slice(f"shop/huge-{each}", "huge", [f"10.{each}.{n // 250}.{n % 250 + 1}" for n in range(1000)], PORTS)
        for each in range(2, 2 + count)
    ]


async def test_no_message_is_above_the_limit_and_the_plan_in_its_place_can_be_programmed_by_nobody() -> None:
    async with plan_server() as server, enforcer_client(server, ModelEnforcer("node-a")) as client:
        server.put(node("node-a", "192.168.0.2"), HUGE, SMALL, SMALL_SLICE, *huge_slices(2))
        await eventually(lambda: server.is_converged("node-a"), "first sync")
        assert max(response.ByteSize() for response in client.responses) <= MESSAGE_BYTES_MAX
        plan = pb.ServicePlan.FromString(client.enforcer.plans[HUGE.key])
        assert (len(plan.ports), list(plan.required_capabilities)) == (0, ["plan-above-1-mib"])
        assert server.planner.cache.statistics.oversized == 1


async def test_a_node_refuses_it_by_name_keeps_what_it_had_and_programs_everything_else(tmp_path: Path) -> None:
    kernel = FakeNftables()

    def addresses() -> set[str]:
        found = kernel.elements().get((Family.IPV4, "pointsman", "service_ips"), frozenset())
        return {".".join(map(str, element.key[:4])) for element in found}

    async with plan_server() as server:
        config = EnforcerConfiguration(
            planner_addresses=(server.address,),
            state_directory=str(tmp_path),
            cluster_cidr="10.0.0.0/8",
            healthz_bind_address="",
            metrics_bind_address="",
            security=TransportSecurity(insecure=True),
        )
        dataplane = NftablesDataplane(node_settings=config.node_settings(), kernel=kernel)
        stop = Stop()
        task = asyncio.create_task(Enforcer(config, "node-a", dataplane=dataplane).run(stop))
        few = huge_slices(1)[0]
        server.put(node("node-a", "192.168.0.2"), HUGE, few)
        await eventually(lambda: server.is_converged("node-a"), "the Service while it is small enough")
        session = server.planner.sessions["node-a"]

        server.put(*huge_slices(2))
        await eventually(lambda: bool(session.failures), "the refusal")
        (failure,) = session.failures
        assert (failure.service, failure.stage.name) == (HUGE.key, "UNSUPPORTED")
        assert "plan-above-1-mib" in failure.message
        server.put(SMALL, SMALL_SLICE)
        await eventually(
            lambda: addresses() == {"10.96.0.1", "10.96.0.2"}, "the other Service beside the last good state"
        )
        assert server.planner.sessions["node-a"] is session, "the stream goes on"

        server.remove(key_of(huge_slices(2)[1]))
        await eventually(lambda: server.is_converged("node-a"), "the Service when it is small enough again")
        assert not session.failures
        stop.set("the test is over")
        assert await task == 0
