# SPDX-License-Identifier: Apache-2.0
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from support.scripted_api_server import ScriptedApiServer, World, write_kubeconfig


@pytest.fixture
async def api_server() -> AsyncIterator[ScriptedApiServer]:
    server = ScriptedApiServer()
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", server.answer)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield server
    server.close()
    await runner.cleanup()


@pytest.fixture
async def world(api_server: ScriptedApiServer, tmp_path: Path) -> AsyncIterator[World]:
    kubeconfig = tmp_path / "kubeconfig"
    write_kubeconfig(kubeconfig, api_server.url, {"token": "secret"})
    built = World(api_server, kubeconfig)
    yield built
    await built.close()
