# SPDX-License-Identifier: Apache-2.0
"""An enforcer among several planners: redirects, candidates, two streams at once. Real gRPC, scripted planners."""

from __future__ import annotations

import json
from pathlib import Path

from pointsman.plan.v1 import plan_service_pb2 as pb
from pointsman_model.wire.plan import encode_service_plan
from support.enforcer_node import Node
from support.enforcer_plans import digest_of, key, numbered
from support.scripted_planner import ScriptedStream, eventually, scripted_planner

ONE, TWO, THREE = (encode_service_plan(numbered(number)) for number in (1, 2, 3))


async def serve(stream: ScriptedStream, name: str, *candidates: pb.Candidate) -> pb.Hello:
    """Welcome a node and bring it service 1."""
    hello = await stream.welcome(planner_id=name, candidates=candidates)
    await stream.send(1, {key(1): ONE})
    assert (await stream.receive("ack")).ack.digest == digest_of({key(1): ONE})
    return hello


async def test_a_planner_that_is_not_the_owner_sends_the_node_on_and_both_are_kept_on_disk(tmp_path: Path) -> None:
    node = Node(tmp_path)
    async with scripted_planner() as owner, scripted_planner() as other:
        told = (owner.candidate("owner"), other.candidate("other"))
        async with node.enforcer(other.address):
            first = await other.stream()
            await first.welcome(planner_id="other", candidates=told)
            await first.redirect(*told)
            second = await owner.stream()
            hello = await serve(second, "owner", *told)
            assert list(hello.unreachable_planners) == []
            await eventually(lambda: first.is_closed, "the stream that served nothing is closed")
            await eventually((tmp_path / "planners.json").exists, "the candidates are on disk")
        async with node.enforcer():
            hello = await serve(await owner.stream(), "owner", *told)
            assert sum(hello.bucket_digests) % 2**64 == digest_of({key(1): ONE})
    known = json.loads((tmp_path / "planners.json").read_text())
    assert [each["id"] for each in known["candidates"]] == ["owner", "other"]


async def test_an_owner_that_cannot_be_reached_is_named_to_the_next_candidate(tmp_path: Path) -> None:
    gone = pb.Candidate(planner_id="gone", address="127.0.0.1:1")
    async with scripted_planner() as planner, Node(tmp_path).enforcer(planner.address):
        first = await planner.stream()
        await first.welcome(planner_id="here", candidates=[gone, planner.candidate("here")])
        await first.redirect(gone, planner.candidate("here"))
        hello = await serve(await planner.stream(), "here", gone, planner.candidate("here"))
        assert list(hello.unreachable_planners) == ["gone"]


async def test_a_draining_planner_serves_until_the_next_one_has_programmed_its_plan(tmp_path: Path) -> None:
    node = Node(tmp_path)
    async with scripted_planner() as old, scripted_planner() as new, node.enforcer(old.address):
        before = await old.stream()
        await serve(before, "old")
        await before.redirect(new.candidate("new"), reason=pb.Redirect.REASON_DRAINING)
        after = await new.stream()
        hello = await after.welcome(planner_id="new")
        assert sum(hello.bucket_digests) % 2**64 == digest_of({key(1): ONE})
        await before.send(2, {key(2): TWO})
        assert (await before.receive("ack")).ack.nonce == 2
        assert node.vips() == {"172.30.0.1", "172.30.0.2"}
        assert not before.is_closed
        after.held = {key(1): ONE, key(2): TWO}
        await after.send(1, {key(3): THREE})
        assert (await after.receive("ack")).ack.digest == digest_of(after.held)
        await eventually(lambda: before.is_closed, "the old stream is closed")
        await after.send(2, {}, removals=(key(1),))
        assert (await after.receive("ack")).ack.nonce == 2
        assert node.vips() == {"172.30.0.2", "172.30.0.3"}


async def test_what_the_old_planner_brings_behind_the_new_one_s_back_is_healed_by_a_resync(tmp_path: Path) -> None:
    node = Node(tmp_path)
    async with scripted_planner() as old, scripted_planner() as new, node.enforcer(old.address):
        before = await old.stream()
        await serve(before, "old")
        await before.redirect(new.candidate("new"))
        after = await new.stream()
        await after.welcome(planner_id="new")
        await before.send(2, {key(2): TWO})
        await before.receive("ack")
        after.held = {key(1): ONE}
        await after.send(1, {key(1): ONE})
        resync = await after.receive("resync", passing=("ack",))
        assert sum(resync.resync.bucket_digests) % 2**64 == digest_of({key(1): ONE, key(2): TWO})
        assert not before.is_closed, "the new planner has not brought its plan yet"
        await after.send(2, {key(1): ONE}, replaces_all=True)
        await eventually(lambda: node.vips() == {"172.30.0.1"}, "the plan is the new planner's")
        await eventually(lambda: before.is_closed, "the old stream is closed")


async def test_a_new_planner_that_dies_before_it_served_costs_nothing(tmp_path: Path) -> None:
    node = Node(tmp_path)
    async with scripted_planner() as old, node.enforcer(old.address):
        before = await old.stream()
        await serve(before, "old")
        async with scripted_planner() as new:
            await before.redirect(new.candidate("new"))
            await (await new.stream()).welcome(planner_id="new")
        await before.send(2, {key(2): TWO})
        assert (await before.receive("ack")).ack.nonce == 2
        assert not before.is_closed
        assert old.is_idle


async def test_a_planner_that_dies_is_followed_by_the_second_candidate(tmp_path: Path) -> None:
    node = Node(tmp_path)
    async with scripted_planner() as second:
        async with scripted_planner() as first:
            told = (first.candidate("first"), second.candidate("second"))
            enforcer = node.enforcer(first.address)
            await enforcer.__aenter__()
            await serve(await first.stream(), "first", *told)
        try:
            stream = await second.stream()
            hello = await stream.welcome(planner_id="second", candidates=told)
            assert list(hello.unreachable_planners) == ["first"]
            assert node.vips() == {"172.30.0.1"}
        finally:
            await enforcer.__aexit__(None, None, None)


async def test_a_candidate_that_a_heartbeat_told_of_is_dialled_and_is_no_call_to_move(tmp_path: Path) -> None:
    node = Node(tmp_path)
    async with scripted_planner() as joined:
        async with scripted_planner() as first:
            told = (first.candidate("first"), joined.candidate("joined"))
            enforcer = node.enforcer(first.address)
            await enforcer.__aenter__()
            stream = await first.stream()
            await serve(stream, "first", first.candidate("first"))
            await stream.write(pb.StreamNodePlanResponse(heartbeat=pb.Heartbeat(candidates=told)))

            def is_kept() -> bool:
                path = tmp_path / "planners.json"
                known = json.loads(path.read_text()) if path.exists() else {"candidates": []}
                return [each["id"] for each in known["candidates"]] == ["first", "joined"]

            await eventually(is_kept, "the candidates are on disk")
            assert not stream.is_closed
            assert joined.is_idle
        try:
            hello = await (await joined.stream()).welcome(planner_id="joined", candidates=told)
            assert list(hello.unreachable_planners) == ["first"]
        finally:
            await enforcer.__aexit__(None, None, None)
