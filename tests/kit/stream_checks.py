# SPDX-License-Identifier: Apache-2.0
"""The rules of StreamNodePlan about streams that come and go, one check each, for an enforcer in any language.

A check talks to the enforcer through the kit's planner; the plan that it must hold then is in the book. Rules are
numbered as in the comment of `PlanService`. What the enforcer's kernel has is not looked at: its own tests do that.
"""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import Final

from kit.bench import Bench
from kit.enforcer_checks import ONE
from kit.plan_book import service_plan
from kit.planner import PATIENCE_SECONDS, kit_planner
from kit.verdicts import UnseenRuleError, require
from pointsman.plan.v1 import plan_service_pb2 as pb


async def unfinished(bench: Bench) -> None:
    stream = await bench.synced()
    stream.nonce += 1
    ahead = bench.book.copy()
    ahead.change({("kit", "half"): service_plan(70)})
    first, _ = stream.parts(ahead, {("kit", "half"): service_plan(70)}, 2)
    await stream.write(pb.StreamNodePlanResponse(transaction=first))
    await stream.silence(0.3, "after a part without commit")
    again = await bench.redial()
    require(list(again.hello.bucket_digests) == bench.book.buckets, "hello after it does not say the plan before it")


async def reconnect(bench: Bench) -> None:
    stream = bench.stream if bench.stream is not None and not bench.stream.nonce else await bench.redial()
    theirs, mine = list(stream.hello.bucket_digests), bench.book.buckets
    require(theirs == mine, "hello.bucket_digests are not those of the plan that was acknowledged")
    await bench.greet(stream)
    await bench.holds(stream, await stream.send(bench.book, {}))


async def backoff(bench: Bench) -> None:
    planner = bench.planner
    planner.is_refusing = True
    if bench.stream is not None:
        bench.stream.end()
        bench.stream = None
    del planner.dialed_at[:]
    await asyncio.sleep(bench.refusal_seconds)
    planner.is_refusing = False
    dials = list(planner.dialed_at)
    require(dials, f"the enforcer did not dial again within {bench.refusal_seconds:.0f} s")
    seconds = bench.refusal_seconds
    require(len(dials) <= 10 * seconds, f"{len(dials)} dials in {seconds:.0f} s are a flood")
    gaps = [later - earlier for earlier, later in pairwise(dials)]
    require(len(gaps) < 4 or max(gaps) - min(gaps) > 0.01, "all dials are equally spaced: a herd stays a herd")


async def silent_planner(bench: Bench) -> None:
    stream = await bench.redial()
    await stream.greet(interval_seconds=0.3, beats=False)
    await stream.ended(10, "a planner with intervals of 0.3 s fell silent")
    bench.stream = None


async def conditions(bench: Bench) -> None:
    stream = await bench.redial()
    await bench.greet(stream, capabilities=())
    await bench.holds(stream, await stream.send(bench.book, bench.book.held, replaces_all=True))
    await stream.silence(2 * bench.interval_seconds, "on a stream in sync")
    require("conditions" not in stream.heard, "conditions were sent, and welcome did not name the capability")


async def redirect(bench: Bench) -> None:
    stream = await bench.redial()
    candidates = [("kit-other", bench.other.address)]
    await bench.greet(stream, candidates=candidates)
    await stream.write(_redirect(candidates, pb.Redirect.REASON_NOT_OWNER))
    bench.stream = await bench.other.stream(within=PATIENCE_SECONDS)
    require(not bench.stream.hello.unreachable_planners, "candidates are named as unreachable that were not tried")


async def unreachable(bench: Bench) -> None:
    if bench.stream is None:
        raise UnseenRuleError("the enforcer followed no redirect before")
    async with kit_planner() as gone:
        address = gone.address
    candidates = [("kit-gone", address), ("kit-first", bench.planner.address)]
    await bench.greet(bench.stream, candidates=candidates)
    await bench.stream.write(_redirect(candidates, pb.Redirect.REASON_NOT_OWNER))
    stream = await bench.planner.stream(within=2 * PATIENCE_SECONDS)
    bench.stream = stream
    named = list(stream.hello.unreachable_planners)
    require(named == ["kit-gone"], f"hello.unreachable_planners is {named}, and kit-gone was not reachable")


async def make_before_break(bench: Bench) -> None:
    old = await bench.synced()
    await old.write(_redirect([("kit-other", bench.other.address)], pb.Redirect.REASON_DRAINING))
    new = await bench.other.stream(within=PATIENCE_SECONDS)
    await bench.greet(new, candidates=[("kit-other", bench.other.address), ("kit-first", bench.planner.address)])
    await old.silence(0.5, "before the new stream had anything to say")
    bench.book.change({ONE: service_plan(1, 7)})
    await bench.holds(old, await old.send(bench.book, {ONE: bench.book.held[ONE]}))
    require(not new.is_ended, "the new stream was ended")
    await bench.holds(new, await new.send(bench.book, bench.book.held, replaces_all=True))
    await old.ended(PATIENCE_SECONDS, "the new stream was in sync")
    bench.stream = new
    new.end()


def _redirect(candidates: list[tuple[str, str]], reason: pb.Redirect.Reason.ValueType) -> pb.StreamNodePlanResponse:
    message = pb.StreamNodePlanResponse(redirect=pb.Redirect(reason=reason))
    message.redirect.grace.seconds = 30
    for planner, address in candidates:
        message.redirect.candidates.add(planner_id=planner, address=address)
    return message


CHECKS: Final = (
    ("4", "an unfinished transaction leaves no trace when the stream breaks", unfinished),
    ("11", "after a disconnect hello says the plan held, and only what differs needs to be sent", reconnect),
    ("11", "dialing is spaced and jittered while planners refuse", backoff),
    ("10", "the enforcer ends a stream whose planner is silent for three intervals, and dials again", silent_planner),
    ("17", "conditions are not sent to a planner that does not know them", conditions),
    ("12", "a redirect is followed: the enforcer dials the candidates in order", redirect),
    ("12", "a candidate that cannot be reached is named in hello.unreachable_planners", unreachable),
    (
        "13",
        "the old stream is used until the new one's first transaction is programmed",
        make_before_break,
    ),
)
"""Rule, fact and check, in the order in which they are run."""
