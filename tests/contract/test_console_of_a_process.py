# SPDX-License-Identifier: Apache-2.0
"""The console of the planner as an operator starts it: it listens where told, and an open page does not keep it."""

import asyncio
import signal
import socket
import sys
from pathlib import Path

import yaml

from support.console_world import get, stream
from support.plan_server import DEADLINE_SECONDS


async def test_it_serves_where_told_and_ends_while_a_page_is_open(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = {
        "apiVersion": "config.pointsman.io/v1alpha1",
        "kind": "PlannerConfiguration",
        "watcherAddresses": ["127.0.0.1:1"],
        "listenAddress": "127.0.0.1:0",
        "metricsBindAddress": "",
        "security": {"insecure": True},
        "drainPeriod": "0s",
        "console": {"listenAddress": f"127.0.0.1:{port}"},
    }
    file = tmp_path / "planner.yaml"
    file.write_text(yaml.safe_dump(config))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "pointsman_planner", "--config", str(file), stderr=asyncio.subprocess.DEVNULL
    )
    try:
        async with asyncio.timeout(DEADLINE_SECONDS):
            while not await _listens(port):
                await asyncio.sleep(0.05)
        assert (await get(port, "/"))[0] == 200
        assert (await get(port, "/api/explain?node=a&source=10.0.0.1&destination=10.0.0.2&port=1"))[0] == 503
        async with stream(port) as page:
            assert (await page.next())["inSync"] is False
            process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(DEADLINE_SECONDS):
                assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def _listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except ConnectionRefusedError:
        return False
    writer.close()
    return True
