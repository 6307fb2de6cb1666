# SPDX-License-Identifier: Apache-2.0
"""What docs/control-api.md shows works as it stands: every Python example, and every request of a grpcurl line."""

import asyncio
import json
import re
import shlex
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from google.protobuf import json_format

from pointsman.control.v1 import control_service_pb2 as pb
from pointsman.control.v1 import control_service_pb2_grpc as pb_grpc
from support.cluster_objects import endpoint, endpoint_slice, node, service
from support.model_enforcer import ModelEnforcer
from support.plan_server import DEADLINE_SECONDS, PlanServer, enforcer_client, eventually, plan_server

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "control-api.md"
ADDRESS = "127.0.0.1:7402"
SERVICE = pb.DESCRIPTOR.services_by_name["ControlService"]


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)


def commands() -> list[tuple[str, str]]:
    """Method and JSON of each grpcurl line."""
    found = []
    for line in "\n".join(blocks("sh")).replace("\\\n", " ").split("grpcurl ")[1:]:
        words = shlex.split(line)
        assert (words[0], words[1], words[3]) == ("-plaintext", "-d", ADDRESS)
        name, _, method = words[4].rpartition("/")
        assert name == SERVICE.full_name
        found.append((method, words[2]))
    return found


@asynccontextmanager
async def cluster() -> AsyncIterator[PlanServer]:
    async with plan_server() as server, enforcer_client(server, ModelEnforcer("node-1")):
        server.put(
            node("node-1", "192.168.0.2", labels={"pool": "edge"}),
            service("default/web", "10.96.0.1", ports=["p:80"], labels={"tier": "web"}),
            endpoint_slice("default/web-x", "web", [endpoint("10.1.0.1")], ["p:8080"]),
        )
        server.versions = server.versions._replace(endpoint_slices=1)
        server.put()
        await eventually(lambda: server.is_converged("node-1"), "first sync")
        yield server


@pytest.mark.parametrize("number", range(len(blocks("python"))))
async def test_python_examples_run(number: int) -> None:
    async with cluster() as server:
        program = blocks("python")[number].replace(ADDRESS, server.address)
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        async with asyncio.timeout(DEADLINE_SECONDS):
            out, err = await process.communicate()
    assert (process.returncode, err.decode()) == (0, "")
    assert out.decode().strip() in {"1 of 1 nodes have it", "{'node-1': 'STATE_SYNCED'}"}


@pytest.mark.parametrize(("method", "text"), commands())
async def test_requests_of_the_command_lines_are_answered(method: str, text: str) -> None:
    descriptor = SERVICE.methods_by_name[method]
    request = json_format.ParseDict(json.loads(text), getattr(pb, descriptor.input_type.name)())
    async with cluster() as server, grpc.aio.insecure_channel(server.address) as channel:
        stub: Any = pb_grpc.ControlServiceStub(channel)
        call = getattr(stub, method)(request)
        async with asyncio.timeout(DEADLINE_SECONDS):
            answer = await (call.read() if descriptor.server_streaming else call)
    assert answer.ByteSize() > 0
    if method == "WaitConverged":
        assert answer.converged


def test_every_call_is_in_the_guide() -> None:
    text = GUIDE.read_text(encoding="utf-8")
    assert [name for name in SERVICE.methods_by_name if f"`{name}`" not in text and name != "GetService"] == []
