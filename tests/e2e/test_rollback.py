# SPDX-License-Identifier: Apache-2.0
"""The guide to going back (docs/operating/rollback.md): a version that does not start, and then the former one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

from pointsman_lab.errors import RemoteError
from support.lab_process import bring_back, take_away, wait_synced
from support.lab_world import traffic_everywhere

if TYPE_CHECKING:
    from support.lab_world import World

pytestmark = [pytest.mark.root, pytest.mark.lab, pytest.mark.asyncio(loop_scope="session")]
PROCESS: Final = "enforcer-node-1"


async def test_a_version_that_does_not_start_harms_nothing_and_going_back_is_a_restart(world: World) -> None:
    service = await world.service(type="NodePort")
    await world.endpoints(world.backends[:2])
    await world.expect_everywhere(service["spec"]["clusterIP"], world.backends[:2])
    file = world.cluster.state.config / f"{PROCESS}.yaml"
    good = file.read_text()
    async with traffic_everywhere(world, service) as flows:
        await take_away(world.cluster, PROCESS, "ended")
        file.write_text(f"{good}\nsettingOfAnotherVersion: 1\n")
        with pytest.raises(RemoteError, match="settingOfAnotherVersion: unknown field"):
            await world.cluster.start_process(PROCESS)
        await flows.enough(20)
        file.write_text(good)
        await bring_back(world.cluster, PROCESS)
        await world.endpoints(world.backends[:1])
        await world.expect_everywhere(service["spec"]["clusterIP"], world.backends[:1])
        await wait_synced(world.cluster)
