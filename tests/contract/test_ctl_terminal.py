# SPDX-License-Identifier: Apache-2.0
"""On a terminal `pointsmanctl` uses colours and redraws; NO_COLOR and pipes get plain text; kubectl finds it."""

from __future__ import annotations

import asyncio
import os
import pty
import shutil
import sys
from pathlib import Path

import pytest

from support.cluster_objects import node
from support.plan_server import PlanServer, plan_server
from support.pointsmanctl import ask

RED, CLEAR = "\x1b[31m", "\x1b[2J"


async def on_terminal(server: PlanServer, *arguments: str, until: str, **environment: str) -> str:
    """What a terminal is sent, up to `until`."""
    ours, theirs = pty.openpty()
    chosen = (
        os.environ | {"POINTSMAN_SERVERS": server.address, "POINTSMAN_INSECURE": "1", "TERM": "xterm"} | environment
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "pointsman_ctl", *arguments, env=chosen, stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    text = ""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(30):
        while until not in text:
            text += (await loop.run_in_executor(None, os.read, ours, 4096)).decode()
    if process.returncode is None:
        process.terminate()
    await process.wait()
    os.close(ours)
    return text


async def test_states_have_colours_on_a_terminal_only_and_no_color_is_heeded() -> None:
    async with plan_server() as server:
        server.put(node("node-1", "192.168.0.2"))
        assert f"{RED}Disconnected" in await on_terminal(server, "status", until="never connected")
        plain = await on_terminal(server, "status", until="never connected", NO_COLOR="1")
        assert "\x1b[3" not in plain
        dumb = await on_terminal(server, "status", until="never connected", TERM="dumb")
        assert "\x1b[3" not in dumb
        assert "\x1b" not in (await ask(server.address, "status")).stdout


async def test_a_watch_is_a_page_that_is_drawn_anew() -> None:
    async with plan_server(heartbeat_seconds=0.2) as server:
        server.put(node("node-1", "192.168.0.2"))
        text = await on_terminal(server, "status", "--watch", until=f"{CLEAR}\x1b[3J1 node: 1 Disconnected")
        assert CLEAR in text


async def test_progress_is_shown_on_a_terminal_and_wiped() -> None:
    async with plan_server() as server:
        server.put(node("node-1", "192.168.0.2"))
        text = await on_terminal(server, "wait", "--all", "--timeout", "100ms", until="never connected")
        assert "waiting for everything ...\r\x1b[K" in text
        assert "waiting" not in (await ask(server.address, "wait", "--all", "--timeout", "10ms")).stderr


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
async def test_kubectl_finds_its_plugin() -> None:
    programs = Path(sys.executable).parent
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    process = await asyncio.create_subprocess_exec(
        "kubectl", "pointsman", "explain", "--help", env=os.environ | {"PATH": path}, stdout=asyncio.subprocess.PIPE
    )
    stdout, _ = await process.communicate()
    assert stdout.decode().startswith("Usage: kubectl pointsman explain ")
