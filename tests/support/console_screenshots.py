# SPDX-License-Identifier: Apache-2.0
"""Pictures of the console for docs/images: a planner with 5,000 nodes, of which some are connected and few in trouble.

PYTHONPATH=tests python -m support.console_screenshots docs/images
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import AsyncExitStack
from pathlib import Path

from pointsman_planner.core.status import NodeState, NodeStatus
from support.browser import Page, browser
from support.cluster_objects import service
from support.console_world import console_world, node_names
from support.model_enforcer import ModelEnforcer
from support.plan_server import PlanServer, enforcer_client

_NODES = 5_000
_CONNECTED = 24
_WIDTH, _HEIGHT = 1280, 900


async def _taken() -> dict[str, bytes]:
    async with console_world(_NODES) as (server, port), AsyncExitStack() as stack:
        for name in node_names(_CONNECTED):
            await stack.enter_async_context(enforcer_client(server, ModelEnforcer(name)))
        page = await stack.enter_async_context(browser())
        await page.resize(_WIDTH, _HEIGHT)
        await page.open(f"http://127.0.0.1:{port}/")
        await page.until(f"document.querySelectorAll('.cell').length === {_NODES}")
        for number in range(8):
            server.put(service(f"shop/api-{number}", f"10.96.0.{number + 10}", ports=["p:80"]))
            await page.until(f"document.querySelector('#timeline').textContent.includes('api-{number}')")
        _record_the_rest(server)
        await page.until("document.querySelector('#summary').textContent.includes('nacked')")
        shots = {"console-nodes.png": await page.screenshot()}
        await _asked(page)
        shots["console-changes.png"] = await _at(page, "#changes")
        shots["console-explain.png"] = await _at(page, "#endpoints")
        return shots


def _record_the_rest(server: PlanServer) -> None:
    """As another planner would have told: nearly all synced, some not."""
    states = {0: NodeState.STALE, 7: NodeState.NACKED, 13: NodeState.UNRESPONSIVE, 29: NodeState.DISCONNECTED}
    for number, name in enumerate(node_names(_NODES)[_CONNECTED:]):
        digest = server.planner.index.digest_once(name)
        state = states.get(number % 211, NodeState.SYNCED)
        programmed = digest if state is NodeState.SYNCED else 1
        server.store.report(
            NodeStatus(
                name=name, state=state, planner_id="planner-2", desired_digest=digest, programmed_digest=programmed
            )
        )


async def _asked(page: Page) -> None:
    await page.js(
        "(() => { const e = document.querySelector('#endpoints-form'), x = document.querySelector('#explain-form');"
        "e.elements.service.value = 'shop/web'; e.elements.node.value = x.elements.node.value = 'node-0001';"
        "x.elements.source.value = '10.1.0.9'; x.elements.destination.value = '10.96.0.1';"
        "x.elements.port.value = '80'; e.requestSubmit(); x.requestSubmit(); })()"
    )
    await page.until("document.querySelector('#explain-answer .outcome')")
    await page.until("document.querySelector('#endpoints-answer table')")


async def _at(page: Page, selector: str) -> bytes:
    await page.js(f"document.querySelector('{selector}').scrollIntoView()")
    return await page.screenshot()


def main(directory: Path) -> None:
    """Take them."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, shot in asyncio.run(_taken()).items():
        (directory / name).write_bytes(shot)
        print(directory / name)  # noqa: T201 - a command's output


if __name__ == "__main__":
    main(Path(sys.argv[1]))
