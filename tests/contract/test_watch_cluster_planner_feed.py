# SPDX-License-Identifier: Apache-2.0
"""The planner's WatchCluster client against scripted watchers on real loopback servers."""

import asyncio

from pointsman.cluster.v1 import cluster_service_pb2 as pb
from support.cluster_objects import endpoint_slice, service
from support.plan_server import DEADLINE_SECONDS, eventually
from support.scripted_watcher import Watcher, at, delta, following, in_sync, opened, removals, snapshot

WEB = service("shop/web", "10.96.0.1", ports=["p:80"])
WEB_SLICE = endpoint_slice("shop/web-x", "web", ["10.1.0.1"], ["p:80"])


async def test_snapshot_is_taken_in_at_in_sync_and_deltas_follow() -> None:
    watcher = Watcher([opened("e1", 5), delta(4, WEB, complete=False), delta(5, WEB_SLICE)])
    async with following(watcher) as follower:
        await eventually(lambda: len(watcher.requests) == 1, "the call")
        assert watcher.requests[0].client_id == "planner-1"
        assert not watcher.requests[0].HasField("resume")
        assert not follower.planner.is_in_sync
        assert not follower.services
        watcher.queue.put_nowait(in_sync(5))
        await eventually(at(follower, "e1", 5), "in sync")
        assert follower.services == {"shop/web"}
        watcher.queue.put_nowait(delta(6, service("shop/api", "10.96.0.2")))
        await eventually(at(follower, "e1", 6), "the delta")
        assert follower.services == {"shop/web", "shop/api"}


async def test_a_delta_in_parts_is_applied_when_complete() -> None:
    watcher = Watcher(snapshot("e1", 5))
    async with following(watcher) as follower:
        await eventually(at(follower, "e1", 5), "in sync")
        watcher.queue.put_nowait(delta(6, WEB, complete=False))
        watcher.queue.put_nowait(delta(6, service("shop/api", "10.96.0.2")))
        await eventually(at(follower, "e1", 6), "the delta")
        assert [applied.services for applied in follower.applied] == [0, 2]


async def test_reconnect_resumes_after_the_last_complete_revision() -> None:
    watcher = Watcher(snapshot("e1", 5, WEB), [opened("e1", 7, resume=True), delta(7, WEB_SLICE), in_sync(7)])
    async with following(watcher) as follower:
        await eventually(at(follower, "e1", 5), "in sync")
        watcher.queue.put_nowait(delta(6, service("half", "10.96.9.9"), complete=False))
        watcher.queue.put_nowait(None)
        await eventually(at(follower, "e1", 7), "resumed")
        assert (watcher.requests[1].resume.epoch, watcher.requests[1].resume.revision) == ("e1", 5)
        assert follower.services == {"shop/web"}


async def test_failover_to_another_watcher_applies_only_the_difference() -> None:
    api = service("shop/api", "10.96.0.2")
    first, second = Watcher(snapshot("e1", 5, WEB, WEB_SLICE, api)), Watcher(snapshot("e2", 90, WEB, WEB_SLICE))
    async with following(first, second) as follower:
        await eventually(at(follower, "e1", 5), "in sync")
        first.queue.put_nowait(None)
        await eventually(at(follower, "e2", 90), "failed over")
        assert follower.services == {"shop/web"}
        assert [applied.services for applied in follower.applied] == [2, 1]


async def test_a_watcher_that_is_down_is_skipped() -> None:
    watcher = Watcher(snapshot("e1", 5, WEB))
    async with following(watcher) as follower:
        follower.feed._addresses = ("127.0.0.1:1", *follower.feed._addresses)
        await eventually(at(follower, "e1", 5), "in sync through the second")
        assert follower.disconnects("unavailable") == 1


async def test_silence_ends_a_stream() -> None:
    watcher = Watcher([opened("e1", 5, heartbeat_ms=60), delta(5, WEB), in_sync(5)], snapshot("e2", 1, WEB))
    async with following(watcher) as follower:
        await eventually(at(follower, "e2", 1), "a new stream")
        assert follower.disconnects("silence") == 1


async def test_a_malformed_change_is_skipped_and_counted() -> None:
    message = delta(5, WEB, service("shop/api", "10.96.0.2"))
    message.delta.changes[0].service.cluster_ips[0] = b"\x01\x02\x03"
    watcher = Watcher([opened("e1", 5), message, in_sync(5)])
    async with following(watcher) as follower:
        await eventually(at(follower, "e1", 5), "in sync")
        assert follower.services == {"shop/api"}
        assert follower.registry.value("pointsman_planner_malformed_changes_total") == 1


async def test_a_snapshot_that_removes_much_is_held_and_forgotten_when_the_next_one_does_not() -> None:
    many = [service(f"shop/s{n}", f"10.96.1.{n}") for n in range(1, 11)]
    lost = Watcher(snapshot("e1", 5, *many), snapshot("e2", 1, WEB), snapshot("e3", 1, *many))
    async with following(lost) as follower:
        await eventually(at(follower, "e1", 5), "in sync")
        lost.queue.put_nowait(None)
        await eventually(at(follower, "e3", 1), "the third snapshot")
        assert len(follower.services) == 10
        assert follower.disconnects("held") == 1
        assert [applied.services for applied in follower.applied] == [10, 0]


async def test_a_mass_deletion_that_is_still_said_after_the_hold_time_is_believed() -> None:
    many = [service(f"shop/s{n}", f"10.96.1.{n}") for n in range(1, 11)]
    watcher = Watcher(snapshot("e1", 5, *many), *(snapshot(f"e{n}", 1, WEB) for n in range(2, 50)))
    async with following(watcher) as follower:
        await eventually(at(follower, "e1", 5), "in sync")
        watcher.queue.put_nowait(None)
        await eventually(lambda: follower.disconnects("held") >= 2, "held, and held again")
        assert len(follower.services) == 10
        assert follower.registry.value("pointsman_planner_mass_delete_holding") == 1
        follower.now = 10.0
        await eventually(lambda: follower.services == {"shop/web"}, "the end of the hold time")
        assert not watcher.requests[2].HasField("resume")
        assert follower.registry.value("pointsman_planner_mass_delete_holding") == 0


async def test_a_delta_that_removes_much_is_held_too() -> None:
    many = [service(f"shop/s{n}", f"10.96.1.{n}") for n in range(1, 11)]
    watcher = Watcher(snapshot("e1", 5, *many), snapshot("e1", 7, *many))
    async with following(watcher) as follower:
        await eventually(at(follower, "e1", 5), "in sync")
        watcher.queue.put_nowait(removals(6, *many[1:]))
        await eventually(at(follower, "e1", 7), "the snapshot asked for instead")
        assert len(follower.services) == 10
        assert follower.disconnects("held") == 1


async def test_protocol_violations_end_the_stream_and_nothing_is_applied() -> None:
    watcher = Watcher(
        [delta(5, WEB)],
        [opened("e1", 5, resume=True)],
        [opened("e1", 5), opened("e1", 5)],
        [opened("e1", 5), delta(5, WEB, complete=False), in_sync(5)],
        [pb.WatchClusterResponse()],
        snapshot("e9", 9),
    )
    async with following(watcher) as follower, asyncio.timeout(DEADLINE_SECONDS):
        await eventually(at(follower, "e9", 9), "a well-behaved stream")
        assert follower.disconnects("protocol") == 5
        assert not follower.services
