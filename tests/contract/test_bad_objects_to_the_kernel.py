# SPDX-License-Identifier: Apache-2.0
"""Objects that no API server should let through, through watcher, planner and enforcer: only what is bad is missing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web
from structlog.testing import capture_logs

from pointsman.cluster.v1 import cluster_service_pb2 as cluster_pb
from pointsman_chassis.lifecycle import Stop
from pointsman_chassis.tls import TransportSecurity
from pointsman_enforcer.app import Enforcer
from pointsman_enforcer.dataplane.nftables.backend import NftablesDataplane
from pointsman_enforcer.dataplane.nftables.message import Family
from pointsman_enforcer.settings import EnforcerConfiguration
from pointsman_model.cluster import ClusterObject
from pointsman_model.wire.cluster import change_from_pb
from pointsman_watcher.core.resources import ENDPOINT_SLICES, SERVICES
from support.cluster_objects import Json, endpoint_json, endpoint_slice_json, list_json, node, service_json
from support.fake_nftables import FakeNftables
from support.plan_server import PlanServer, eventually, plan_server
from support.scripted_api_server import ScriptedApiServer, World, reply, write_kubeconfig

FAULTY = "pointsman_watcher_faulty_fields_total"


@pytest.fixture
async def watcher(tmp_path: Path) -> AsyncIterator[World]:
    """A watcher's reflectors and feed, on an API server that lists what the test says."""
    server = ScriptedApiServer()
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", server.answer)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    write_kubeconfig(tmp_path / "kubeconfig", server.url, {"token": "secret"})
    world = World(server, tmp_path / "kubeconfig")
    yield world
    await world.close()
    server.close()
    await runner.cleanup()


class Node:
    """What an enforcer has put into its kernel."""

    def __init__(self) -> None:
        self.kernel = FakeNftables()

    def _elements(self, name: str) -> list[bytes]:
        return [each.key for each in self.kernel.elements().get((Family.IPV4, "pointsman", name), frozenset())]

    def frontends(self) -> set[str]:
        """Cluster IPs with ports."""
        return {
            f"{'.'.join(map(str, key[:4]))}:{int.from_bytes(key[8:10], 'big')}" for key in self._elements("service_ips")
        }

    def slots(self) -> int:
        """Endpoints, counted for each port."""
        return len(self._elements("endpoints"))


@asynccontextmanager
async def enforcer(server: PlanServer, directory: Path) -> AsyncIterator[Node]:
    node_ = Node()
    config = EnforcerConfiguration(
        planner_addresses=(server.address,),
        state_directory=str(directory),
        cluster_cidr="10.0.0.0/8",
        healthz_bind_address="",
        metrics_bind_address="",
        security=TransportSecurity(insecure=True),
    )
    stop = Stop()
    dataplane = NftablesDataplane(node_settings=config.node_settings(), kernel=node_.kernel)
    task = asyncio.create_task(Enforcer(config, "node-a", dataplane=dataplane).run(stop))
    try:
        yield node_
    finally:
        stop.set("the test is over")
        assert await task == 0


async def watched(world: World, services: list[Json], slices: list[Json]) -> list[ClusterObject]:
    """What the watcher tells planners of these lists."""

    async def answer(request: web.Request) -> web.StreamResponse:
        return await reply(list_json(slices if "endpointslices" in request.path else services))(request)

    world.server.lists = [answer]
    world.start(SERVICES)
    world.start(ENDPOINT_SLICES)
    for _ in range(2):
        await world.server.next_watch()
    entries = [world.feed.store.entry(key) for key in world.feed.store.present_keys()]
    changes = [change_from_pb(cluster_pb.Change.FromString(each.body + each.meta + each.trace)) for each in entries]
    return [change.value for change in changes if change.value is not None]


SOUND = service_json("shop/sound", "10.96.0.1", ports=["http:80"])
SOUND_SLICE = endpoint_slice_json("shop/sound-x", "sound", [endpoint_json("10.1.0.1")], ["http:8080"])


async def test_an_impossible_port_is_named_and_the_other_ports_work(watcher: World, tmp_path: Path) -> None:
    good = [{"name": "http", "port": 80, "protocol": "TCP"}]
    bad = [
        {"name": "zero", "port": 0, "protocol": "TCP"},
        {"name": "high", "port": 65536, "protocol": "TCP"},
        {"name": "low", "port": -1, "protocol": "TCP"},
        {"name": "tape", "port": 81, "protocol": "DCCP"},
    ]
    ported = service_json("shop/web", "10.96.0.2", spec={"ports": [*bad, *good], "healthCheckNodePort": 99999})
    sliced = endpoint_slice_json("shop/web-x", "web", [endpoint_json("10.1.0.2")], ["http:8080"])
    sliced["ports"] += [
        {"name": "zero", "port": 0, "protocol": "TCP"},
        {"name": "high", "port": 70000, "protocol": "TCP"},
    ]
    with capture_logs() as logs:
        objects = await watched(watcher, [SOUND, ported], [SOUND_SLICE, sliced])
    async with plan_server() as server, enforcer(server, tmp_path / "state") as made:
        server.put(node("node-a", "192.168.0.2"), *objects)
        await eventually(lambda: server.is_converged("node-a"), "the node to converge")
        assert made.frontends() == {"10.96.0.1:80", "10.96.0.2:80"}
        assert made.slots() == 2
    lines = {line["object"]: str(line) for line in logs if line["log_level"] == "warning"}
    assert set(lines) == {"service shop/web", "endpoint_slice shop/web-x"}
    for field in ("spec.ports[0].port", "spec.ports[1].port", "spec.ports[2].port", "spec.ports[3].protocol"):
        assert field in lines["service shop/web"]
    assert "ports[2].port" in lines["endpoint_slice shop/web-x"]
    assert watcher.registry.value(FAULTY, {"resource": "services"}) == 5


async def test_a_thousand_malformed_endpoints_are_one_line_and_a_thousand_in_the_count(
    watcher: World, tmp_path: Path
) -> None:
    kinds = ("nonsense", "10.0.0.256", "fd00::1", "127.0.0.1", "", "10.1.1.1/24", "224.1.2.3", "10.0.0")
    bad = [endpoint_json(kinds[number % len(kinds)]) for number in range(1000)]
    sliced = endpoint_slice_json(
        "shop/sound-y", "sound", [*bad, endpoint_json("10.1.0.2")], ["http:8080"], address_type="IPv4"
    )
    with capture_logs() as logs:
        objects = await watched(watcher, [SOUND], [SOUND_SLICE, sliced])
    async with plan_server() as server, enforcer(server, tmp_path / "state") as made:
        server.put(node("node-a", "192.168.0.2"), *objects)
        await eventually(lambda: server.is_converged("node-a"), "the node to converge")
        assert made.slots() == 2
    (line,) = [line for line in logs if line["log_level"] == "warning"]
    assert (line["object"], line["problem_count"]) == ("endpoint_slice shop/sound-y", 1000)
    assert "endpoints[0].addresses[0]" in line["problems"][0]
    assert "nonsense" in line["problems"][0]
    assert len(str(line)) < 2000
    assert watcher.registry.value(FAULTY, {"resource": "endpointslices"}) == 1000
