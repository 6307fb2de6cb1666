# SPDX-License-Identifier: Apache-2.0
"""The contract kit finds broken rules: enforcers and controllers that break one each, and good ones that pass."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from kit import enforcer_checks, stream_checks
from kit.bench import Bench
from kit.control_api import Call, ControlApi, serving
from kit.controller_checks import judged
from kit.planner import kit_planner
from kit.verdicts import BrokenRuleError, Check, Result, Verdicts
from pointsman.control.v1 import control_service_pb2 as control
from pointsman.control.v1 import override_service_pb2 as overrides
from pointsman.plan.v1 import plan_service_pb2 as pb
from pointsman_model.names import ServiceKey
from support.model_enforcer import ModelEnforcer

CANARY = Path(__file__).resolve().parents[2] / "examples" / "canary.py"
METHOD = "/pointsman.plan.v1.PlanService/StreamNodePlan"


class Enforcer:
    """The model enforcer on a stream, with one habit that the contract forbids, or none."""

    def __init__(self, address: str, habit: str) -> None:
        self.address = address
        self.habit = habit
        self.model = ModelEnforcer("node-1")

    async def run(self) -> None:
        while True:
            async with grpc.aio.insecure_channel(self.address) as channel:
                call = channel.stream_stream(METHOD)()
                try:
                    await self._stream(call)
                except grpc.aio.AioRpcError:
                    await asyncio.sleep(0.05)

    async def _stream(self, call: Any) -> None:
        if self.habit == "forgets":
            self.model.plans = {}
        hello = self.model.hello()
        hello.hello.mode = pb.PROXY_MODE_NFTABLES
        if self.habit == "few buckets":
            del hello.hello.bucket_digests[1:]
        await self._send(call, hello)
        while (data := await call.read()) is not grpc.aio.EOF:
            message = pb.StreamNodePlanResponse.FromString(data)
            if self.habit == "talks first" and message.HasField("welcome"):
                await self._send(call, self.model.resync())
            if message.HasField("transaction"):
                await self._take(call, data, message.transaction)

    async def _take(self, call: Any, data: bytes, part: pb.Transaction) -> None:
        nonce = self.model.receive(data)
        if nonce is None:
            if self.habit == "acks parts":
                await self._send(call, self.model.ack(part.nonce))
            return
        if not self.model.agrees and self.habit != "guesses":
            await self._send(call, self.model.resync())
            return
        bad = ServiceKey("kit", "bad")
        ack = self.model.ack(nonce)
        if b"nonesuch" in self.model.plans.get(bad, b"") and self.habit != "approximates":
            ack.ack.programmed_digest = 1
            nack = self.model.nack(nonce, bad, "unknown capability")
            nack.nack.failures[0].stage = pb.ServiceFailure.STAGE_UNSUPPORTED
            await self._send(call, nack)
        if self.habit != "silent about nothing" or part.updates or part.replaces_all:
            await self._send(call, ack)

    async def _send(self, call: Any, message: pb.StreamNodePlanRequest) -> None:
        await call.write(message.SerializeToString())


@asynccontextmanager
async def bench(habit: str = "") -> AsyncIterator[Bench]:
    async with kit_planner() as planner, kit_planner() as other:
        task = asyncio.create_task(Enforcer(planner.address, habit).run())
        try:
            yield Bench(planner=planner, other=other, is_fresh=True, interval_seconds=0.1, patience_seconds=1.0)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


CHECKS = (
    ("few buckets", enforcer_checks.hello),
    ("talks first", enforcer_checks.start_gate),
    ("acks parts", enforcer_checks.parts),
    ("silent about nothing", enforcer_checks.empty_transaction),
    ("guesses", enforcer_checks.resync),
    ("approximates", enforcer_checks.unsupported),
    ("forgets", stream_checks.reconnect),
)


async def prepared(bench: Bench) -> None:
    """As the checks before leave it."""
    await bench.redial()
    if bench.is_fresh:
        await bench.greet(bench.stream)  # type: ignore[arg-type]  # just dialed


@pytest.mark.parametrize(("habit", "check"), CHECKS, ids=[habit for habit, _ in CHECKS])
async def test_an_enforcer_that_breaks_a_rule_is_found_out(habit: str, check: Any) -> None:
    async with bench(habit) as used:
        if check is stream_checks.reconnect:
            await used.synced()
            used.book.change({enforcer_checks.ONE: enforcer_checks.service_plan(1)})
            stream = used.stream
            assert stream is not None
            await used.holds(stream, await stream.send(used.book, used.book.held))
        elif check is enforcer_checks.parts:
            await prepared(used)
        with pytest.raises(BrokenRuleError):
            await check(used)


async def test_an_enforcer_that_breaks_none_passes_the_same_checks() -> None:
    async with bench() as used:
        for check in (enforcer_checks.hello, enforcer_checks.start_gate):
            await check(used)
        for _, check in CHECKS[2:]:
            await check(used)


WAIT = control.WaitConvergedRequest()


def applied(weight: int, code: grpc.StatusCode = grpc.StatusCode.OK, **words: Any) -> Call:
    override = overrides.Override(owner=words.pop("owner", "c"), etag=words.pop("etag", ""))
    override.spec.weight.rules.add(weight=weight).endpoints.node_name = "n"
    return Call(method="ApplyOverride", request=overrides.ApplyOverrideRequest(override=override), code=code, **words)


def called(method: str, request: Any, code: grpc.StatusCode = grpc.StatusCode.OK, **words: Any) -> Call:
    return Call(method=method, request=request, code=code, **words)


PROVED = called("WaitConverged", WAIT, is_converged=True)
ABORTED, UNAVAILABLE = grpc.StatusCode.ABORTED, grpc.StatusCode.UNAVAILABLE
RENEWED = called("RenewOverride", overrides.RenewOverrideRequest(), grpc.StatusCode.NOT_FOUND)


@pytest.mark.parametrize(
    ("calls", "rule"),
    [
        ([applied(1), applied(2)], "W"),
        ([applied(1), called("WaitConverged", WAIT), applied(2)], "W"),
        ([applied(1), PROVED, applied(2), applied(3)], "W"),
        ([applied(1), called("WaitConverged", WAIT, is_converged=True, has_deadline_for_answer=False)], "W"),
        ([applied(1, owner="")], "O"),
        ([applied(1), PROVED, applied(2, owner="another")], "O"),
        ([applied(1, grpc.StatusCode.INVALID_ARGUMENT)], "O7"),
        ([applied(1, ABORTED, etag="x"), applied(1, ABORTED, etag="x")], "O4"),
        ([RENEWED, RENEWED], "O5"),
        ([applied(1, UNAVAILABLE, at=1.0), applied(1, at=1.01)], "O6"),
    ],
)
def test_a_controller_that_breaks_a_rule_is_found_out(calls: Sequence[Call], rule: str) -> None:
    assert {found for found, _, result, _ in judged(calls) if result is Result.BROKEN} == {rule}


def test_a_controller_that_breaks_none_passes() -> None:
    calls = [
        applied(1, UNAVAILABLE, at=1.0),
        applied(1, at=2.0),
        PROVED,
        applied(2, ABORTED, etag="x"),
        called("GetOverride", overrides.GetOverrideRequest()),
        applied(2, etag="y"),
        PROVED,
        RENEWED,
        applied(2),
    ]
    assert [result for _, _, result, _ in judged(calls)] == [Result.PASSED] * 7
    assert {result for _, _, result, _ in judged([])} == {Result.UNSEEN}


def test_the_report_names_rule_result_and_what_was_seen() -> None:
    verdicts = Verdicts()
    assert str(verdicts.add("4", "it does", Result.PASSED)) == "rule   4  pass      it does"
    broken: Check = verdicts.add("12", "it does", Result.BROKEN, "it did not")
    assert str(broken).splitlines()[1].strip() == "it did not"
    assert (verdicts.broken, list(verdicts.summary())[-1]) == (1, "1 pass, 1 fail, 0 not seen")


@pytest.mark.parametrize(
    ("fault", "status", "words"),
    [
        ("", 0, "100 %: on all 3 nodes"),
        ("lagging", 1, "taken back, since node-3 lags: its enforcer is frozen"),
        ("unavailable", 1, "the store is away"),
        ("conflict", 1, "the etag is"),
    ],
)
async def test_the_example_controller_breaks_no_rule(fault: str, status: int, words: str) -> None:
    api = ControlApi([fault])  # type: ignore[abstract]  # as it says itself
    async with serving(api, "127.0.0.1:0") as address:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, str(CANARY), address, "kit", "web", "web-stable-", "web-canary-", "5", "50", "100"),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        said = (await process.communicate())[0].decode()
    assert (process.returncode, words in said) == (status, True), said
    found = list(judged(api.calls))
    assert [rule for rule, _, result, _ in found if result is Result.BROKEN] == []
    seen = {rule for rule, _, result, _ in found if result is Result.PASSED}
    assert {"": "W", "lagging": "W", "unavailable": "O6", "conflict": "O4"}[fault] in seen
