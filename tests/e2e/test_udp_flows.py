# SPDX-License-Identifier: Apache-2.0
"""UDP flows that never pause follow their Service's endpoints, from the API server to the connection table."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from support.lab_process import bring_back, take_away, wait_figure
from support.lab_world import OUTSIDE

if TYPE_CHECKING:
    from support.lab_world import World

pytestmark = [pytest.mark.root, pytest.mark.lab, pytest.mark.asyncio(loop_scope="session")]

ONE_SOCKET = {"persistent": True, "workers": 1, "interval_seconds": 0.01}


async def test_one_socket_follows_the_endpoints_of_its_service(world: World) -> None:
    one, two, three = world.backends
    service = await world.service(type="NodePort")
    vip, node_port = service["spec"]["clusterIP"], service["spec"]["ports"][1]["nodePort"]
    await world.endpoints([one])
    await world.expect_everywhere(vip, [one], 53, "UDP")
    node = world.cluster.nodes[0].address.ipv4
    async with (
        world.cluster.traffic(world.clients[0], vip, 53, "UDP", **ONE_SOCKET) as inside,
        world.cluster.traffic(OUTSIDE, node, node_port, "UDP", **ONE_SOCKET) as outside,
    ):
        for backend in (one, two, three):
            await world.endpoints([backend])
            await inside.wait_answer_of(backend.name)
            await outside.wait_answer_of(backend.name)


async def test_a_draining_endpoint_keeps_its_socket_and_a_stopped_one_loses_it(world: World) -> None:
    one, two, _ = world.backends
    vip = (await world.service())["spec"]["clusterIP"]
    await world.endpoints([one], slice_name="old")
    await world.expect_everywhere(vip, [one], 53, "UDP")
    async with world.cluster.traffic(world.clients[0], vip, 53, "UDP", **ONE_SOCKET) as flow:
        await flow.wait_answer_of(one.name)
        await world.endpoints([two], slice_name="new")
        await world.endpoints([one], slice_name="old", ready=False, serving=True, terminating=True)
        await world.expect_everywhere(vip, [two], 53, "UDP")
        before = await flow.report()

        async def has_gone_on() -> bool:
            return (await flow.report()).by_pod[one.name] > before.by_pod[one.name] + 20

        await world.cluster.wait_until(has_gone_on, "twenty more answers of the draining pod")
        assert set((await flow.report()).by_pod) == {one.name}
        await world.endpoints([one], slice_name="old", ready=False, serving=False, terminating=True)
        await flow.wait_answer_of(two.name)


async def test_a_restart_of_the_enforcer_ends_flows_to_what_went_meanwhile_and_no_other(world: World) -> None:
    one, two, _ = world.backends
    cluster, process = world.cluster, f"enforcer-{world.cluster.nodes[0].name}"
    stays = (await world.service("stays"))["spec"]["clusterIP"]
    moves = (await world.service("moves"))["spec"]["clusterIP"]
    for name, vip in (("stays", stays), ("moves", moves)):
        await world.endpoints([one], name)
        await world.expect(world.clients[0], vip, [one], 53, "UDP")
    async with (
        cluster.traffic(world.clients[0], stays, 53, "UDP", **ONE_SOCKET) as staying,
        cluster.traffic(world.clients[0], moves, 53, "UDP", **ONE_SOCKET) as moving,
    ):
        await staying.wait_answer_of(one.name)
        await moving.wait_answer_of(one.name)
        await take_away(cluster, process, "killed")
        await world.endpoints([one, two], "stays")
        await world.endpoints([two], "moves")
        await bring_back(cluster, process)
        await moving.wait_answer_of(two.name)
        report = await staying.stop()
        assert (report.failed, set(report.by_pod)) == (0, {one.name})
    # The count is written when the whole look is over, the flow moves in the middle of it.
    await wait_figure(cluster, process, "kubeproxy_conntrack_reconciler_deleted_entries_total", 1)
