# SPDX-License-Identifier: Apache-2.0
"""How much callers may ask for: each limit refuses with its own words, is counted, and hurts nobody else."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from pointsman.control.v1 import control_service_pb2 as pb
from pointsman_chassis.duration import Duration
from pointsman_chassis.guard import CallLimits
from support.guarded_planner import GuardedPlanner, control, guarded_planner, refusal
from support.plan_server import DEADLINE_SECONDS, METHOD, eventually

LIST = "/pointsman.control.v1.ControlService/ListServices"
EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED


@asynccontextmanager
async def limited(directory: Path, **words: Any) -> AsyncIterator[tuple[GuardedPlanner, grpc.aio.Channel]]:
    limits = CallLimits(**words)
    async with guarded_planner(directory, limits=limits) as planner, planner.dial("alice") as channel:
        yield planner, channel


async def test_rate_exceeded_is_refused_counted_and_per_identity(tmp_path: Path) -> None:
    async with limited(tmp_path, calls_per_second=0.01, calls_burst=3) as (planner, channel):
        for _ in range(3):
            await control(channel).ListServices(pb.ListServicesRequest())
        code, details = await refusal(control(channel).ListServices(pb.ListServicesRequest()))
        assert (code, "calls a second" in details) == (EXHAUSTED, True)
        assert planner.refused("rate") == 1
        async with planner.dial("bob") as other:
            await control(other).ListServices(pb.ListServicesRequest())


async def test_too_many_streams_of_one_identity_are_refused_until_one_ends(tmp_path: Path) -> None:
    async with limited(tmp_path, calls_per_identity_max=2) as (planner, channel):
        watches = [control(channel).WatchNodes(pb.WatchNodesRequest()) for _ in range(2)]
        for watch in watches:
            assert await watch.read()
        code, details = await refusal(control(channel).WatchNodes(pb.WatchNodesRequest()).read())
        assert (code, "of this identity" in details) == (EXHAUSTED, True)
        assert planner.refused("too_many_of_identity") == 1
        async with planner.dial("bob") as other:
            await control(other).ListServices(pb.ListServicesRequest())
        watches[0].cancel()
        await eventually(lambda: planner.registry.value("pointsman_planner_calls_open") == 1, "one stream is over")
        await control(channel).ListServices(pb.ListServicesRequest())


async def test_too_many_streams_in_all_are_refused(tmp_path: Path) -> None:
    async with limited(tmp_path, calls_max=3) as (planner, channel), AsyncExitStack() as stack:
        for number in range(3):
            other = await stack.enter_async_context(planner.dial(f"user-{number}"))
            assert await control(other).WatchNodes(pb.WatchNodesRequest()).read()
        code, details = await refusal(control(channel).ListServices(pb.ListServicesRequest()))
        assert (code, "3 calls are open" in details) == (EXHAUSTED, True)
        assert planner.refused("too_many") == 1


async def test_oversized_frame_of_a_call_is_refused_and_counted(tmp_path: Path) -> None:
    async with limited(tmp_path, request_bytes_max=1024) as (planner, channel):
        code, details = await refusal(channel.unary_unary(LIST)(bytes(1500)))
        assert (code, "at most 1024" in details) == (EXHAUSTED, True)
        assert planner.refused("oversized") == 1
        code, _ = await refusal(channel.unary_unary(LIST)(bytes(1 << 20)))
        assert code is EXHAUSTED
        await eventually(lambda: planner.refused("no_request") == 1, "gRPC cut it off")
        await control(channel).ListServices(pb.ListServicesRequest())


async def test_oversized_frame_of_a_stream_ends_it(tmp_path: Path) -> None:
    async with guarded_planner(tmp_path, limits=CallLimits(request_bytes_max=1024)) as planner:
        async with planner.dial("node-a") as channel:
            call = channel.stream_stream(METHOD)()
            await call.write(bytes(1500))
            assert (await refusal(call.read()))[0] is EXHAUSTED
        assert planner.refused("oversized") == 1
        assert not planner.planner.sessions


async def test_nonsense_in_the_place_of_a_request_is_refused(tmp_path: Path) -> None:
    async with limited(tmp_path) as (planner, channel):
        assert (await refusal(channel.unary_unary(LIST)(b"\xff\xff")))[0] is grpc.StatusCode.INVALID_ARGUMENT
        assert planner.refused("malformed") == 1


async def test_slowloris_an_open_call_without_a_request_is_ended(tmp_path: Path) -> None:
    async with limited(tmp_path, request_timeout=Duration(0.3)) as (planner, channel):
        # The client's side of a streaming call opens without a message; on the wire it is the method's own call.
        call = channel.stream_unary(LIST)()
        code, details = await refusal(call)
        assert (code, "no request within" in details) == (grpc.StatusCode.INVALID_ARGUMENT, True)
        assert planner.refused("no_request") == 1


async def test_slowloris_an_open_stream_without_hello_is_ended(tmp_path: Path) -> None:
    async with limited(tmp_path, request_timeout=Duration(0.3)) as (planner, channel):
        code, details = await refusal(channel.stream_stream(METHOD)().read())
        assert planner.refused("no_request") == 1
    assert (code, "no request within" in details) == (grpc.StatusCode.INVALID_ARGUMENT, True)


async def test_slowloris_a_connection_without_a_handshake_is_closed(tmp_path: Path) -> None:
    async with guarded_planner(tmp_path, limits=CallLimits(request_timeout=Duration(0.5))) as planner:
        reader, writer = await asyncio.open_connection("127.0.0.1", planner.port)
        writer.write(b"\x16\x03\x01")  # the beginning of a TLS record that never ends
        async with asyncio.timeout(DEADLINE_SECONDS):
            while await reader.read(4096):
                pass
        writer.close()
        async with planner.dial("alice") as channel:
            await control(channel).ListServices(pb.ListServicesRequest())
