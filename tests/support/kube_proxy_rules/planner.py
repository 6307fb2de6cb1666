# SPDX-License-Identifier: Apache-2.0
"""A planner inside the node's namespace that tells every enforcer the same whole plan."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from pointsman_model.plan import NodePlan
from pointsman_model.wire.plan import encode_service_plan
from support.netns import NetNs
from support.scripted_planner import scripted_planner

_START_SECONDS = 30.0


@contextmanager
def planner_of(node: NetNs, plan: NodePlan) -> Iterator[str]:
    """Its address, while it serves."""
    addresses: queue.Queue[str] = queue.Queue()
    stop: queue.Queue[asyncio.AbstractEventLoop] = queue.Queue()
    over = asyncio.Event()

    async def serve() -> None:
        stop.put(asyncio.get_running_loop())
        encoded = {key: encode_service_plan(service) for key, service in plan.services.items()}
        async with scripted_planner() as planner:
            addresses.put(planner.address)
            ending = asyncio.create_task(over.wait())
            while not ending.done():
                coming = asyncio.create_task(planner.stream())
                await asyncio.wait({coming, ending}, return_when=asyncio.FIRST_COMPLETED)
                coming.cancel()
                with contextlib.suppress(asyncio.CancelledError, TimeoutError):
                    stream = await coming
                    await stream.welcome()
                    await stream.send(1, encoded, facts=plan.facts)

    thread = threading.Thread(target=lambda: node.call(lambda: asyncio.run(serve())))
    thread.start()
    try:
        yield addresses.get(timeout=_START_SECONDS)
    finally:
        stop.get(timeout=_START_SECONDS).call_soon_threadsafe(over.set)
        thread.join()
