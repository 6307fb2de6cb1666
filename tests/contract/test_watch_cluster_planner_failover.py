# SPDX-License-Identifier: Apache-2.0
"""A planner changes between watchers of one API server: no gap, no flap, and nothing goes back in time."""

from pointsman_model.cluster import ResourceVersions
from support.cluster_objects import endpoint_slice, service
from support.plan_server import eventually
from support.scripted_watcher import Watcher, at, following, heartbeat, snapshot, versioned, whole

WEB = service("shop/web", "10.96.0.1", ports=["p:80"])
API = service("shop/api", "10.96.0.2", ports=["p:80"])
OLD, NEW = (endpoint_slice("shop/web-x", "web", [address], ["p:80"]) for address in ("10.1.0.1", "10.1.0.2"))
HOLDING = "pointsman_planner_feed_older_holding"


def read(services: int, slices: int) -> ResourceVersions:
    return ResourceVersions(services=services, endpoint_slices=slices)


async def test_the_second_watcher_takes_over_and_only_what_differs_is_a_change() -> None:
    first = Watcher(whole("a", 5, (WEB, 10), (OLD, 11), versions=read(20, 20)))
    second = Watcher(whole("b", 2, (WEB, 10), (NEW, 21), versions=read(10, 21)))
    async with following(first, second) as follower:
        await eventually(at(follower, "a", 5), "the first")
        first.queue.put_nowait(None)
        await eventually(at(follower, "b", 2), "the second")
        assert [applied.services for applied in follower.applied] == [1, 1]
        assert follower.planner.position.resource_versions == read(10, 21)
        assert follower.registry.value(HOLDING) == 0


async def test_a_watcher_that_lags_is_waited_for_on_its_stream_while_the_held_state_is_served() -> None:
    first = Watcher(whole("a", 5, (WEB, 10), (NEW, 21), versions=read(20, 21)))
    lagging = Watcher(whole("b", 1, (WEB, 10), (OLD, 11), versions=read(10, 15)))
    async with following(first, lagging) as follower:
        follower.feed._addresses = follower.feed._addresses[:1]
        await eventually(at(follower, "a", 5), "the first")
        follower.feed._addresses = (f"127.0.0.1:{lagging.port}",)
        first.queue.put_nowait(None)
        await eventually(lambda: follower.registry.value(HOLDING) == 1, "the second is found to be older")
        assert at(follower, "a", 5)()
        lagging.queue.put_nowait(heartbeat(1, read(30, 20)))
        lagging.queue.put_nowait(versioned(2, (NEW, 21), versions=read(30, 21)))
        await eventually(at(follower, "b", 2), "it has caught up")
        assert len(lagging.requests) == 1, "on the same stream"
        assert [applied.services for applied in follower.applied] == [1, 0], "nothing flapped"


async def test_another_watcher_is_tried_when_one_does_not_catch_up() -> None:
    def up_to_date(epoch: str) -> Watcher:
        script = whole(epoch, 5, (WEB, 10), (API, 90), versions=read(90, 1))
        return Watcher(script)

    stuck = Watcher(*(whole("b", 1, (WEB, 10), versions=read(50, 1)),) * 9)
    first, third = up_to_date("a"), up_to_date("c")
    async with following(first, stuck, third) as follower:
        await eventually(at(follower, "a", 5), "the first")
        first.queue.put_nowait(None)
        await eventually(lambda: follower.registry.value(HOLDING) == 1, "the second is found to be older")
        follower.now += 0.1  # its patience is over, the hold time is not
        await eventually(at(follower, "c", 5), "the third")
        assert follower.disconnects("older") == 1
        assert [applied.services for applied in follower.applied] == [2, 0]
        assert follower.registry.value(HOLDING) == 0


async def test_an_api_server_that_is_really_older_is_believed_after_the_hold_time_with_an_alarm() -> None:
    first = Watcher(whole("a", 5, (WEB, 10), (API, 90), versions=read(90, 1)))
    restored = whole("b", 1, (WEB, 10), versions=read(50, 1))
    second = Watcher(*(restored,) * 99)
    async with following(first, second) as follower:
        await eventually(at(follower, "a", 5), "the first")
        first.queue.put_nowait(None)
        await eventually(lambda: bool(second.requests), "the second is asked")
        await eventually(lambda: follower.registry.value(HOLDING) == 1, "and not believed")
        assert follower.services == {"shop/web", "shop/api"}
        follower.now = 61.0
        await eventually(at(follower, "b", 1), "believed")
        assert follower.services == {"shop/web"}
        assert follower.registry.value("pointsman_planner_feed_older_believed_total") == 1
        assert follower.registry.value(HOLDING) == 0


async def test_the_mass_delete_guard_holds_over_a_change_of_watcher() -> None:
    many = [service(f"shop/s{n}", f"10.96.1.{n}") for n in range(1, 11)]
    first = Watcher(snapshot("a", 5, *many), snapshot("c", 1, *many))
    emptied = Watcher(snapshot("b", 1, WEB))
    async with following(first, emptied) as follower:
        await eventually(at(follower, "a", 5), "the first")
        first.queue.put_nowait(None)
        await eventually(at(follower, "c", 1), "the first again, after the second was not believed")
        assert follower.disconnects("held") == 1
        assert [applied.services for applied in follower.applied] == [10, 0]
        assert not first.requests[1].HasField("resume"), "a hold asks for a snapshot"
