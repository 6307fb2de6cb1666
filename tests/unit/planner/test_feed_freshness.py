# SPDX-License-Identifier: Apache-2.0
"""What one watcher says is not taken in while it is older, kind by kind, than what another one said before."""

import pytest

from pointsman_model.cluster import Change, ClusterObject, ClusterPosition, ObjectKind, ResourceVersions, key_of
from pointsman_planner.core.feed_state import FeedState, GuardSettings, MassDeleteGuard, MassDeleteHeldError
from pointsman_planner.core.freshness import Freshness, FreshnessSettings, OlderWatcherError
from pointsman_planner.core.planner import Batch, Planner
from support.cluster_objects import endpoint_slice, node, service

WEB = service("shop/web", "10.96.0.1", ports=["p:80"])
API = service("shop/api", "10.96.0.2", ports=["p:80"])
SLICE = endpoint_slice("shop/web-x", "web", ["10.1.0.1"], ["p:80"])
EVERYTHING = ResourceVersions(100, 100, 100, 100)


def put(value: ClusterObject, version: int = 0) -> Change:
    return Change(key=key_of(value), value=value, resource_version=str(version) if version else "")


def gone(value: ClusterObject, version: int = 0) -> Change:
    return Change(key=key_of(value), value=None, resource_version=str(version) if version else "")


class World:
    """A planner that follows streams one after the other."""

    def __init__(self) -> None:
        self.planner = Planner()
        self.now = 0.0
        self.alarms: list[str] = []
        self.guard = MassDeleteGuard(GuardSettings(minimum=2, hold_seconds=10.0), now=lambda: self.now)
        settings = FreshnessSettings(hold_seconds=60.0)
        self.freshness = Freshness(settings, now=lambda: self.now, on_older=self.alarms.append)

    def stream(
        self, epoch: str = "e2", *, is_snapshot: bool = True, resume: ClusterPosition | None = None
    ) -> FeedState:
        state = FeedState(self.planner.cluster, self.guard, self.freshness, resume)
        state.opened(epoch, is_snapshot=is_snapshot)
        return state

    def take(self, batch: Batch | None) -> bool:
        if batch is not None:
            self.planner.apply(batch)
        return batch is not None

    def holds(self) -> set[str]:
        return {key.name for key in self.planner.cluster.services}


def held(*changes: Change, versions: ResourceVersions = EVERYTHING) -> World:
    """A world that has taken these in from a first watcher."""
    world = World()
    state = world.stream("e1")
    state.delta(1, list(changes), is_complete=True, versions=versions)
    assert world.take(state.in_sync(1, versions))
    return world


def test_a_watcher_with_equal_objects_and_older_bookmarks_is_not_older() -> None:
    world = held(put(WEB, 20), put(SLICE, 30))
    state = world.stream()
    state.delta(1, [put(WEB, 20), put(SLICE, 30)], is_complete=True)
    assert world.take(state.in_sync(1, ResourceVersions(20, 30, 5, 5)))
    assert world.planner.position.resource_versions == ResourceVersions(20, 30, 5, 5)


def test_a_snapshot_that_is_older_waits_until_its_watcher_has_caught_up() -> None:
    world = held(put(WEB, 20), put(API, 40), put(SLICE, 30))
    state = world.stream()
    state.delta(7, [put(WEB, 20), put(SLICE, 30)], is_complete=True)
    assert not world.take(state.in_sync(7, ResourceVersions(20, 30, 9, 9)))
    assert state.is_catching_up
    assert world.holds() == {"web", "api"}
    assert not world.take(state.delta(8, [put(SLICE, 31)], is_complete=True, versions=ResourceVersions(20, 31, 9, 9)))
    assert world.take(state.delta(9, [put(API, 40)], is_complete=True, versions=ResourceVersions(40, 31, 9, 9)))
    assert (state.is_in_sync, state.is_catching_up, world.freshness.is_holding) == (True, False, False)
    assert world.holds() == {"web", "api"}
    assert world.planner.position == ClusterPosition(epoch="e2", revision=9)
    assert not world.alarms


def test_a_bookmark_alone_can_prove_that_a_watcher_has_caught_up() -> None:
    world = held(put(WEB, 20), put(API, 30), versions=ResourceVersions(services=30))
    first = world.stream("e1", is_snapshot=False, resume=world.planner.position)
    assert world.take(first.delta(2, [gone(API, 40)], is_complete=True, versions=ResourceVersions(services=40)))
    state = world.stream()
    state.delta(7, [put(WEB, 20)], is_complete=True)
    assert not world.take(state.in_sync(7, ResourceVersions(services=39)))
    assert not world.take(state.heartbeat(6, EVERYTHING)), "of another revision"
    assert world.take(state.heartbeat(7, ResourceVersions(services=40)))


@pytest.mark.parametrize("kind", list(ObjectKind)[:3])
def test_each_kind_is_compared_for_itself(kind: ObjectKind) -> None:
    world = held(put(WEB, 50), put(SLICE, 50), put(node("node-a", "192.168.0.2"), 50))
    state = world.stream()
    assert state.in_sync(1, EVERYTHING.having(kind, 49)) is None
    assert kind.name.lower() in str(state.older())


def test_what_is_removed_without_a_version_is_as_new_as_the_state_that_said_so_for_a_moment() -> None:
    world = held(put(WEB, 20), put(API, 30))
    state = world.stream()
    state.delta(1, [put(WEB, 20)], is_complete=True)
    assert world.take(state.in_sync(1, ResourceVersions(services=70)))
    assert world.holds() == {"web"}
    late = world.stream("e3")
    late.delta(1, [put(WEB, 20), put(API, 30)], is_complete=True)
    assert late.in_sync(1, ResourceVersions(services=69)) is None
    world.now = 5.0
    assert world.take(late.catch_up()), "an idle watcher is not shut out until its next bookmark"
    assert not world.alarms


def test_an_older_state_that_stays_the_only_one_is_believed_in_the_end_and_that_is_an_alarm() -> None:
    world = held(put(WEB, 20), put(API, 90))
    state = world.stream()
    state.delta(1, [put(WEB, 20)], is_complete=True)
    assert not world.take(state.in_sync(1, ResourceVersions(services=50)))
    world.now = 59.9
    assert not world.take(state.catch_up())
    world.now = 60.0
    assert world.take(state.catch_up())
    assert world.holds() == {"web"}
    assert len(world.alarms) == 1
    assert "service objects up to 50, held are 90" in world.alarms[0]
    assert world.take(state.delta(2, [put(API, 51)], is_complete=True, versions=ResourceVersions(services=51)))
    assert len(world.alarms) == 1, "the floor begins anew"


def test_the_clock_of_the_hold_runs_on_from_stream_to_stream() -> None:
    world = held(put(WEB, 20), put(API, 90))
    for second in range(0, 60, 10):
        world.now = float(second)
        state = world.stream(f"e{second}")
        assert state.in_sync(1, ResourceVersions(services=50)) is None
    world.now = 60.0
    state = world.stream("last")
    state.delta(1, [put(WEB, 20)], is_complete=True)
    assert world.take(state.in_sync(1, ResourceVersions(services=50)))


def test_a_watcher_that_is_new_enough_ends_the_hold() -> None:
    world = held(put(WEB, 20), put(API, 90))
    assert world.stream("older").in_sync(1, ResourceVersions(services=50)) is None
    newer = world.stream("newer")
    newer.delta(1, [put(WEB, 20), put(API, 90)], is_complete=True)
    assert world.take(newer.in_sync(1, ResourceVersions(services=90)))
    world.now = 70.0
    assert world.stream("older").in_sync(1, ResourceVersions(services=50)) is None, "the time begins anew"


def test_a_live_stream_that_goes_back_is_ended_and_nothing_of_it_is_applied() -> None:
    world = held(put(WEB, 20), put(API, 90))
    state = world.stream("e1", is_snapshot=False, resume=world.planner.position)
    assert world.take(state.in_sync(1, EVERYTHING))
    assert not world.take(state.heartbeat(1, ResourceVersions(services=60))), "nothing changed, so nothing is lost"
    assert world.planner.position.resource_versions == EVERYTHING
    with pytest.raises(OlderWatcherError, match="service objects up to 60"):
        state.delta(2, [gone(API)], is_complete=True, versions=ResourceVersions(services=60))
    assert world.holds() == {"web", "api"}
    world.now = 60.0
    again = world.stream("e1", is_snapshot=False, resume=world.planner.position)
    batch = again.delta(2, [gone(API)], is_complete=True, versions=ResourceVersions(services=60))
    assert world.take(batch), "it was said for the whole hold time"


def test_heartbeats_move_what_is_proved_to_be_held() -> None:
    world = held(put(WEB, 20))
    state = world.stream("e1", is_snapshot=False, resume=world.planner.position)
    assert world.take(state.in_sync(1, EVERYTHING))
    assert world.take(state.heartbeat(1, EVERYTHING.having(ObjectKind.NODE, 200)))
    assert world.planner.position.resource_versions.nodes == 200
    assert not world.take(state.heartbeat(1, EVERYTHING.having(ObjectKind.NODE, 200))), "nothing new"


def test_servers_whose_versions_are_no_numbers_are_not_compared() -> None:
    world = held(Change(key=key_of(WEB), value=WEB, resource_version="opaque"), versions=ResourceVersions())
    state = world.stream()
    state.delta(1, [put(API)], is_complete=True)
    assert world.take(state.in_sync(1, ResourceVersions()))
    assert world.holds() == {"api"}


def test_an_older_state_that_is_believed_is_still_held_by_the_mass_delete_guard() -> None:
    many = [service(f"shop/s{n}", f"10.96.1.{n}") for n in range(1, 11)]
    world = held(*(put(each, 90) for each in many))
    state = world.stream()
    assert state.in_sync(1, ResourceVersions(services=50)) is None
    world.now = 60.0
    with pytest.raises(MassDeleteHeldError):
        state.catch_up()
    assert len(world.holds()) == 10
