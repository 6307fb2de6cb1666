# SPDX-License-Identifier: Apache-2.0
"""One whole cluster for all end-to-end tests, and a namespace of its own for each."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from pointsman_lab.cluster import Cluster
from support.lab_cluster import ALL_SERVICES, lab
from support.lab_process import bring_back, wait_synced
from support.lab_world import Backend, World, fresh_namespace, start_backends


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def cluster() -> AsyncIterator[Cluster]:
    """Three nodes in two zones, every process there is."""
    async with lab(nodes=3, zones=2, services=ALL_SERVICES) as running:
        yield running


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def backends(cluster: Cluster) -> tuple[Backend, ...]:
    """One pod on each node."""
    started = await start_backends(cluster)
    await wait_synced(cluster)
    return started


@pytest.fixture(scope="session")
def namespace_names() -> Iterator[str]:
    """Names no test had before."""
    return (f"e2e-{number}" for number in itertools.count(1))


@pytest_asyncio.fixture(loop_scope="session")
async def world(
    cluster: Cluster, backends: tuple[Backend, ...], namespace_names: Iterator[str]
) -> AsyncIterator[World]:
    """The cluster with a fresh namespace; a test that breaks something and fails does not break the next one."""
    async with fresh_namespace(cluster, backends, next(namespace_names)) as fresh:
        yield fresh
        await cluster.clear_faults()
        for process in await cluster.processes():
            await bring_back(cluster, process)
        for node in cluster.nodes:
            await cluster.heal(node.name)
