# SPDX-License-Identifier: Apache-2.0
"""An API server that knows where a planner is, and that planner, as one process for a namespace that has nothing else.

Usage: python -m support.cold_boot_main DIRECTORY PLANNER_PORT [--without-api-server]

Writes DIRECTORY/kubeconfig, then serves each enforcer service 1 of `enforcer_plans.numbered` until it is ended, by mTLS
with the certificate `localhost` of DIRECTORY/tls.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from contextlib import AsyncExitStack
from pathlib import Path

from pointsman_model.wire.plan import encode_service_plan
from support.certificates import certificate_files
from support.enforcer_plans import key, numbered
from support.scripted_planner import ScriptedPlanner, ScriptedStream, scripted_planner
from support.slice_server import SliceServer, slice_of


async def _main(directory: Path, planner_port: int, *, has_api_server: bool) -> None:
    security = certificate_files(directory / "tls", "localhost")
    async with AsyncExitStack() as stack, asyncio.TaskGroup() as group:
        planner = await stack.enter_async_context(scripted_planner(planner_port, security=security))
        if has_api_server:
            server = SliceServer(directory)
            server.slices = [slice_of([planner.address])]
            await stack.enter_async_context(server.running())
            server.kubeconfig(directory / "kubeconfig")
        while True:
            group.create_task(_serve(await _next(planner)))


async def _next(planner: ScriptedPlanner) -> ScriptedStream:
    while True:
        with contextlib.suppress(TimeoutError):
            return await planner.stream()


async def _serve(stream: ScriptedStream) -> None:
    await stream.welcome(planner_id="here", heartbeat_seconds=300.0)
    await stream.send(1, {key(1): encode_service_plan(numbered(1))})


if __name__ == "__main__":
    asyncio.run(_main(Path(sys.argv[1]), int(sys.argv[2]), has_api_server="--without-api-server" not in sys.argv))
