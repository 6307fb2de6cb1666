# SPDX-License-Identifier: Apache-2.0
"""What becomes ours and what ceases to be, while everything runs: labels, families, ranges of service addresses."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

from pointsman_lab.apiserver.resources import ENDPOINTSLICES, SERVICECIDRS, SERVICES
from pointsman_lab.probe.outcome import Outcome

if TYPE_CHECKING:
    from support.lab_world import World

pytestmark = [pytest.mark.root, pytest.mark.lab, pytest.mark.asyncio(loop_scope="session")]

PROXY_NAME = "service.kubernetes.io/service-proxy-name"
HEADLESS = "service.kubernetes.io/headless"


def labelled(label: str, value: str | None) -> dict[str, Any]:
    return {"metadata": {"labels": {label: value}}}


async def test_the_proxy_name_label_takes_a_service_away_and_without_it_the_service_returns(world: World) -> None:
    vip = (await world.service())["spec"]["clusterIP"]
    await world.endpoints(world.backends)
    await world.expect_everywhere(vip, world.backends)
    await world.cluster.api.patch(SERVICES, "web", labelled(PROXY_NAME, ""), world.namespace)
    await world.expect_everywhere(vip, Outcome.TIMEOUT)
    await world.endpoints(world.backends[:2])
    await world.cluster.api.patch(SERVICES, "web", labelled(PROXY_NAME, None), world.namespace)
    await world.expect_everywhere(vip, world.backends[:2])


async def test_the_headless_label_takes_a_slice_away_and_without_it_the_slice_returns(world: World) -> None:
    vip = (await world.service())["spec"]["clusterIP"]
    await world.endpoints(world.backends[:2], slice_name="first")
    await world.endpoints(world.backends[2:], slice_name="second")
    await world.expect_everywhere(vip, world.backends)
    await world.cluster.api.patch(ENDPOINTSLICES, "second", labelled(HEADLESS, ""), world.namespace)
    await world.expect_everywhere(vip, world.backends[:2])
    await world.cluster.api.patch(ENDPOINTSLICES, "second", labelled(HEADLESS, None), world.namespace)
    await world.expect_everywhere(vip, world.backends)


async def test_a_dual_stack_service_has_each_familys_own_endpoints_and_may_give_one_up(world: World) -> None:
    spec = (await world.service(ipFamilyPolicy="RequireDualStack", ipFamilies=["IPv4", "IPv6"]))["spec"]
    four, six = spec["clusterIPs"]
    await world.endpoints(world.backends[:1], family="IPv4")
    await world.endpoints(world.backends[1:], family="IPv6")
    await world.expect_everywhere(four, world.backends[:1])
    await world.expect_everywhere(six, world.backends[1:])
    await world.patch_service({"ipFamilyPolicy": "SingleStack", "ipFamilies": ["IPv4"], "clusterIPs": [four]})
    await world.expect_everywhere(six, Outcome.TIMEOUT)
    await world.expect_everywhere(four, world.backends[:1])


async def test_service_cidrs_that_come_and_go_are_in_every_kernel_at_once(world: World) -> None:
    body = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "ServiceCIDR",
        "metadata": {"name": "more"},
        "spec": {"cidrs": ["10.77.0.0/24", "fd77::/120"]},
    }

    async def have(wanted: bool) -> bool:
        for node in world.cluster.nodes:
            for family, text in (("ip", "10.77.0.0/24"), ("ip6", "fd77::/120")):
                listed = await world.cluster.node_exec(
                    node.name, "nft", "list", "set", family, "pointsman", "service_cidrs"
                )
                if (re.search(rf"\b{re.escape(text)}", listed) is not None) != wanted:
                    return False
        return True

    await world.cluster.api.create(SERVICECIDRS, body)
    await world.cluster.wait_until(lambda: have(True), "the range is dropped on every node")
    await world.cluster.api.delete(SERVICECIDRS, "more")
    await world.cluster.wait_until(lambda: have(False), "the range is nobody's on every node")
