# SPDX-License-Identifier: Apache-2.0
"""Calls over a Unix socket: any number at once, errors as errors, a lost server noticed."""

import asyncio
from pathlib import Path

import pytest

from pointsman_lab.errors import LabUsageError, RemoteError
from pointsman_lab.rpc import RpcClient, RpcServer


async def test_calls_are_answered_in_any_order(tmp_path: Path) -> None:
    gate = asyncio.Event()

    async def wait() -> str:
        await gate.wait()
        return "waited"

    async def open_gate() -> str:
        gate.set()
        return "opened"

    server = RpcServer(tmp_path / "s", {"wait": wait, "open": open_gate})
    await server.start()
    client = RpcClient(tmp_path / "s")
    await client.connect()
    first, second = await asyncio.gather(client.call("wait"), client.call("open"))
    assert (first, second) == ("waited", "opened")
    await client.close()
    await server.stop()


async def test_errors_reach_the_caller(tmp_path: Path) -> None:
    async def refuse() -> None:
        raise LabUsageError("no such thing")

    server = RpcServer(tmp_path / "s", {"refuse": refuse})
    await server.start()
    client = RpcClient(tmp_path / "s")
    await client.connect()
    with pytest.raises(RemoteError, match="no such thing"):
        await client.call("refuse")
    with pytest.raises(RemoteError, match="no method 'absent'"):
        await client.call("absent")
    with pytest.raises(RemoteError, match="unexpected keyword"):
        await client.call("refuse", extra=1)
    await client.close()
    await server.stop()


async def test_a_call_to_nobody_says_so(tmp_path: Path) -> None:
    with pytest.raises(RemoteError, match="no lab answers"):
        await RpcClient(tmp_path / "absent").connect()
