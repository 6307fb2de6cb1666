# SPDX-License-Identifier: Apache-2.0
"""A real planner, enforcer and kernel: what the kernel refuses or somebody else breaks is known to the planner.

The refusals are real: elements that somebody else added with other values, or took away, in a table that this enforcer
is made not to watch (else it would put them right within milliseconds, and nothing would be refused).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc.aio
import pytest

from pointsman.control.v1 import control_service_pb2 as pb
from pointsman.control.v1 import control_service_pb2_grpc as pb_grpc
from pointsman.plan.v1 import plan_service_pb2
from pointsman_chassis.lifecycle import Stop
from pointsman_chassis.tls import TransportSecurity
from pointsman_enforcer.app import Enforcer
from pointsman_enforcer.dataplane.nftables.backend import NftablesDataplane
from pointsman_enforcer.dataplane.nftables.netlink import NftSocket
from pointsman_enforcer.settings import EnforcerConfiguration
from pointsman_model.cluster import ClusterObject
from support.cluster_objects import endpoint, endpoint_slice, node, service, service_cidr
from support.netns import NetNs
from support.plan_server import PlanServer, eventually, plan_server

pytestmark = pytest.mark.root


def web(number: int, *addresses: str) -> tuple[ClusterObject, ...]:
    name = f"web-{number}"
    made = service(f"shop/{name}", f"10.96.0.{number}", ports=["p:80"])
    return made, endpoint_slice(f"shop/{name}-x", name, [endpoint(each) for each in addresses], ["p:8080"])


class Site:
    """One node of one planner."""

    def __init__(self, namespace: NetNs, server: PlanServer, channel: grpc.aio.Channel) -> None:
        self.namespace = namespace
        self.server = server
        self._stub = pb_grpc.ControlServiceStub(channel)

    async def nft(self, command: str) -> None:
        """Somebody else's nft."""
        await asyncio.to_thread(self.namespace.run, "nft", command)

    async def listing(self) -> str:
        """Our table of IPv4."""
        return await asyncio.to_thread(self.namespace.run, "nft", "list", "table", "ip", "pointsman")

    async def status(self) -> pb.NodeStatus:
        """The node as the planner knows it."""
        [found] = (await self._stub.ListNodes(pb.ListNodesRequest())).nodes
        return found

    def refused(self) -> set[str]:
        """Names of the services that the planner knows to be refused."""
        return {failure.service.name for failure in self.server.planner.sessions["node-a"].failures}

    async def converged(self) -> None:
        """Wait until the kernel has everything."""
        await eventually(lambda: self.server.is_converged("node-a"), "the node to converge")


@asynccontextmanager
async def site(tmp_path: Path, *, is_watched: bool) -> AsyncIterator[Site]:
    with NetNs("refuse") as namespace:
        async with plan_server() as server, grpc.aio.insecure_channel(server.address) as channel:
            config = EnforcerConfiguration(
                planner_addresses=(server.address,),
                state_directory=str(tmp_path),
                cluster_cidr="10.0.0.0/16",
                healthz_bind_address="",
                metrics_bind_address="",
                security=TransportSecurity(insecure=True),
            )
            dataplane = namespace.call(
                lambda: NftablesDataplane(
                    node_settings=config.node_settings(), kernel=None if is_watched else NftSocket()
                )
            )
            stop = Stop()
            server.put(node("node-a", "192.168.0.2"), service_cidr("kubernetes", "10.96.0.0/16"))
            server.put(*web(1, "10.0.0.1", "10.0.0.2"))
            task = asyncio.create_task(Enforcer(config, "node-a", dataplane=dataplane).run(stop))
            made = Site(namespace, server, channel)
            try:
                await made.converged()
                yield made
            finally:
                stop.set("the test is over")
                assert await task == 0


async def test_a_service_the_kernel_refuses_is_named_upstream_and_holds_up_no_other(tmp_path: Path) -> None:
    async with site(tmp_path, is_watched=False) as here:
        await here.nft("add element ip pointsman service_ips { 10.96.0.2 . tcp . 80 : goto drop-traffic }")
        here.server.put(*web(2, "10.0.0.3"), *web(3, "10.0.0.4"))
        await eventually(lambda: here.refused() == {"web-2"}, "the refusal to be known")
        status = await here.status()
        assert status.state == pb.NodeStatus.STATE_NACKED
        [failure] = status.failures
        assert failure.stage == plan_service_pb2.ServiceFailure.STAGE_APPLY
        assert "add elements to service_ips: table ip pointsman" in failure.message
        assert "EBUSY" in failure.message or "EEXIST" in failure.message
        listing = await here.listing()
        assert "10.96.0.3 . tcp . 80 : goto cluster-1" in listing
        assert "10.96.0.2 . tcp . 80 : goto drop-traffic" in listing
        here.server.put(*web(4, "10.0.0.5"))
        await eventually(lambda: not here.server.planner.sessions["node-a"].has_pending, "later changes to go on")
        assert "10.96.0.4 . tcp . 80 : goto cluster-1" in await here.listing()
        await here.nft("delete element ip pointsman service_ips { 10.96.0.2 . tcp . 80 }")
        await here.converged()
        assert (await here.status()).state == pb.NodeStatus.STATE_SYNCED
        assert "10.96.0.2 . tcp . 80 : goto cluster-1" in await here.listing()


async def test_a_refused_update_leaves_the_last_good_state(tmp_path: Path) -> None:
    async with site(tmp_path, is_watched=False) as here:
        await here.nft("add element ip pointsman cluster_ips { 10.96.0.1 }")
        await here.nft("add element ip pointsman endpoints { 10.96.0.1 . tcp . 80 . 2 : 10.9.9.9 . 1 }")
        before = await here.listing()
        here.server.put(*web(1, "10.0.0.1", "10.0.0.2", "10.0.0.3"))
        await eventually(lambda: here.refused() == {"web-1"}, "the refusal to be known")
        assert await here.listing() == before
        await here.nft("delete element ip pointsman endpoints { 10.96.0.1 . tcp . 80 . 2 }")
        await here.converged()
        assert "goto cluster-3" in await here.listing()


async def test_of_two_refused_services_the_one_that_recovers_is_named_no_more(tmp_path: Path) -> None:
    async with site(tmp_path, is_watched=False) as here:
        for number in (2, 3):
            taken = f"{{ 10.96.0.{number} . tcp . 80 : goto drop-traffic }}"
            await here.nft(f"add element ip pointsman service_ips {taken}")
        here.server.put(*web(2, "10.0.0.3"), *web(3, "10.0.0.4"))
        await eventually(lambda: here.refused() == {"web-2", "web-3"}, "both refusals to be known")
        await here.nft("delete element ip pointsman service_ips { 10.96.0.3 . tcp . 80 }")
        await eventually(lambda: here.refused() == {"web-2"}, "one of them to recover")
        assert (await here.status()).state == pb.NodeStatus.STATE_NACKED


async def test_what_somebody_else_changed_is_put_right_and_known_upstream(tmp_path: Path) -> None:
    async with site(tmp_path, is_watched=True) as here:
        assert not (await here.status()).HasField("drift")
        before = await here.listing()
        session = here.server.planner.sessions["node-a"]
        await here.nft("flush ruleset")
        await eventually(lambda: session.drift is not None, "the repair to be known")
        status = await here.status()
        assert status.state == pb.NodeStatus.STATE_SYNCED
        assert (status.drift.repairs, status.drift.process) == (1, "nft")
        assert "table" in status.drift.kinds
        assert 0 < status.drift.duration.ToNanoseconds() < 2e9
        assert sorted(await here.listing()) == sorted(before)
