# SPDX-License-Identifier: Apache-2.0
"""Session affinity over three nodes in real packets: the same pod through every node, whatever happens to endpoints."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pointsman_lab.apiserver.resources import ENDPOINTSLICES
from pointsman_lab.bench.affinity import manifests, play

if TYPE_CHECKING:
    from pointsman_lab.bench.affinity_report import Step
    from pointsman_lab.cluster import Cluster

pytestmark = [pytest.mark.root, pytest.mark.lab, pytest.mark.asyncio(loop_scope="session")]
NAMESPACE = "affinity"
CLIENTS = 48


async def test_a_client_meets_the_same_pod_through_every_node(cluster: Cluster) -> None:
    """Endpoints added move nobody, one removed moves its own clients; so it is for a new node, and without Redis."""
    try:
        steps = await play(cluster, NAMESPACE, clients=CLIENTS)
    finally:
        for item in (await cluster.api.list(ENDPOINTSLICES, NAMESPACE))["items"]:
            await cluster.api.delete(ENDPOINTSLICES, item["metadata"]["name"], NAMESPACE)
        await cluster.delete_text(manifests(NAMESPACE))
    assert [(step.name, *counted(step)) for step in steps] == [(step.name, 0, 0) for step in steps]
    assert [step.clients for step in steps] == [*[CLIENTS] * 4, CLIENTS + CLIENTS // 2]


def counted(step: Step) -> tuple[int, int]:
    return step.moved, step.wrong
