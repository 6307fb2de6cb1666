# SPDX-License-Identifier: Apache-2.0
"""What a reflector asks next, for every answer an API server may give. No clock, no socket."""

import random
from typing import Final

import msgspec
import pytest

from pointsman_watcher.core.resources import NODES, SERVICE_CIDRS, SERVICES, Resource
from pointsman_watcher.kube.machine import Ending, Phase, ReflectorMachine
from pointsman_watcher.settings import KubernetesSettings

PAGES: Final = KubernetesSettings(initial_list="chunkedList")


def make(resource: Resource = SERVICES, settings: KubernetesSettings = PAGES) -> ReflectorMachine:
    return ReflectorMachine(resource, settings, random_source=random.Random(1))


def parameters(machine: ReflectorMachine) -> dict[str, str]:
    return dict(machine.next_request().parameters)


def watching(resource: Resource = SERVICES) -> ReflectorMachine:
    machine = make(resource)
    assert machine.page_received("7", "")
    return machine


def test_a_list_in_pages_is_filtered_at_the_server_and_limited() -> None:
    assert parameters(make()) == {
        "labelSelector": "!service.kubernetes.io/service-proxy-name",
        "fieldSelector": "spec.clusterIP!=None",
        "limit": "500",
    }
    assert parameters(make(NODES)) == {"limit": "500"}


def test_pages_follow_their_token_and_the_watch_starts_at_the_lists_version() -> None:
    machine = make()
    assert not machine.page_received("7", "token")
    assert parameters(machine)["continue"] == "token"
    assert machine.page_received("7", "")
    request = machine.next_request()
    assert request.is_watch
    assert not request.is_initial
    asked = dict(request.parameters)
    assert (asked["resourceVersion"], asked["allowWatchBookmarks"]) == ("7", "true")
    assert "limit" not in asked
    assert 300 <= int(asked["timeoutSeconds"]) <= 600


def test_a_watch_list_asks_for_initial_events_and_goes_on_as_a_watch() -> None:
    machine = make(settings=KubernetesSettings())
    request = machine.next_request()
    asked = dict(request.parameters)
    assert request.is_watch
    assert request.is_initial
    assert (asked["sendInitialEvents"], asked["resourceVersionMatch"]) == ("true", "NotOlderThan")
    assert asked["resourceVersion"] == ""
    machine.initial_events_ended("9")
    machine.version_seen("11")
    assert machine.phase is Phase.WATCHING
    assert parameters(machine)["resourceVersion"] == "11"


@pytest.mark.parametrize("ending", [Ending.CLOSED, Ending.LOST, Ending.STALLED])
def test_a_watch_that_ends_goes_on_where_it_was_without_a_list(ending: Ending) -> None:
    machine = watching()
    machine.version_seen("8")
    machine.watch_ended(ending, brought_events=True)
    assert machine.delay_seconds == 0
    if ending is not Ending.CLOSED:
        assert not machine.version_probed("8")
    assert parameters(machine)["resourceVersion"] == "8"


@pytest.mark.parametrize("ending", [Ending.LOST, Ending.STALLED])
def test_a_server_that_was_lost_is_asked_for_its_version_and_listed_anew_when_that_is_older(ending: Ending) -> None:
    machine = watching()
    machine.version_seen("80")
    machine.watch_ended(ending, brought_events=True)
    question = machine.next_request()
    assert (question.is_watch, question.is_initial, dict(question.parameters)["limit"]) == (False, False, "1")
    assert machine.version_probed("79")
    assert machine.next_request().is_initial


@pytest.mark.parametrize("version", ["80", "81", "", "opaque"])
def test_a_server_that_is_not_known_to_be_older_is_watched_on(version: str) -> None:
    machine = watching()
    machine.version_seen("80")
    machine.unanswered()
    assert not machine.version_probed(version)
    assert dict(machine.next_request().parameters)["resourceVersion"] == "80"


def test_the_question_for_the_version_is_asked_again_unless_it_is_refused_for_good() -> None:
    machine = watching()
    machine.watch_ended(Ending.LOST, brought_events=True)
    machine.unanswered()
    assert not machine.next_request().is_watch
    machine.refused(503, "busy")
    assert not machine.next_request().is_watch
    machine.refused(403, "no list for you")
    assert machine.next_request().is_watch


def test_a_watch_that_ends_at_once_again_and_again_is_asked_ever_more_slowly() -> None:
    machine = watching()
    delays = []
    for _ in range(12):
        machine.watch_ended(Ending.LOST, brought_events=False)
        delays.append(machine.delay_seconds)
    assert 0 < delays[0] <= 0.2
    assert max(delays) <= 30
    assert delays[-1] >= 15
    machine.version_seen("8")
    machine.watch_ended(Ending.LOST, brought_events=False)
    assert machine.delay_seconds <= 0.2


def test_lost_history_is_a_new_list() -> None:
    machine = watching()
    machine.watch_ended(Ending.ERROR, brought_events=True, code=410)
    assert machine.phase is Phase.INITIAL
    assert "continue" not in parameters(machine)
    also = watching()
    also.refused(410, "too old resource version")
    assert also.phase is Phase.INITIAL


def test_other_errors_of_a_watch_keep_the_place() -> None:
    machine = watching()
    machine.watch_ended(Ending.ERROR, brought_events=True, code=500)
    assert machine.delay_seconds > 0
    assert parameters(machine)["resourceVersion"] == "7"


def test_a_list_that_is_compacted_while_it_is_paged_starts_again_and_then_comes_in_one_piece() -> None:
    machine = make()
    for _ in range(2):
        machine.page_received("7", "token")
        machine.refused(410, "The provided continue parameter is too old")
        assert parameters(machine)["limit"] == "500"
        assert "continue" not in parameters(machine)
        assert machine.delay_seconds == 0
    machine.page_received("7", "token")
    machine.refused(410, "again")
    assert "limit" not in parameters(machine)
    machine.page_received("9", "")
    machine.watch_ended(Ending.ERROR, brought_events=True, code=410)
    assert parameters(machine)["limit"] == "500"


def test_a_refused_field_selector_is_given_up_at_once_and_for_good() -> None:
    machine = make()
    words = machine.refused(400, 'field label not supported: "spec.clusterIP"')
    assert "filtering here" in words
    assert machine.delay_seconds == 0
    assert "fieldSelector" not in parameters(machine)
    machine.page_received("7", "")
    assert "fieldSelector" not in parameters(machine)
    assert "labelSelector" in parameters(machine)


def test_a_refused_watch_list_becomes_pages_and_keeps_the_field_selector() -> None:
    machine = make(settings=KubernetesSettings())
    message = "sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled"
    assert "listing in pages" in machine.refused(422, message)
    assert machine.delay_seconds == 0
    asked = parameters(machine)
    assert asked["limit"] == "500"
    assert "fieldSelector" in asked


def test_a_field_selector_refused_by_a_watch_list_does_not_cost_the_watch_list() -> None:
    machine = make(settings=KubernetesSettings())
    machine.refused(400, 'field label not supported: "spec.clusterIP"')
    asked = parameters(machine)
    assert "fieldSelector" not in asked
    assert asked["sendInitialEvents"] == "true"


@pytest.mark.parametrize("brought_events", [False, True])
def test_initial_events_without_an_end_fall_back_to_pages(brought_events: bool) -> None:
    machine = make(settings=KubernetesSettings())
    machine.watch_ended(Ending.STALLED, brought_events=brought_events)
    assert "limit" in parameters(machine)


def test_initial_events_that_break_off_start_again_after_a_delay() -> None:
    machine = make(settings=KubernetesSettings())
    machine.watch_ended(Ending.LOST, brought_events=True)
    assert machine.delay_seconds > 0
    assert parameters(machine)["sendInitialEvents"] == "true"


@pytest.mark.parametrize("status", [401, 403, 429, 500, 503, 404])
def test_other_refusals_wait_and_ask_the_same_again(status: int) -> None:
    machine = make()
    before = parameters(machine)
    machine.refused(status, "no")
    assert machine.delay_seconds > 0
    assert parameters(machine) == before


def test_retry_after_is_obeyed() -> None:
    machine = make()
    machine.refused(429, "slow down", retry_after_seconds=17)
    assert machine.delay_seconds == 17


def test_an_absent_optional_resource_is_empty_and_looked_for_again() -> None:
    machine = make(SERVICE_CIDRS, KubernetesSettings())
    machine.refused(404, "404 page not found")
    assert machine.phase is Phase.ABSENT
    assert machine.delay_seconds == 600
    assert not machine.next_request().is_watch
    machine.page_received("7", "")
    assert machine.next_request().is_watch


def test_a_resource_that_was_there_is_not_taken_as_empty_because_of_a_404() -> None:
    machine = watching(SERVICE_CIDRS)
    machine.refused(404, "404 page not found")
    assert machine.phase is Phase.WATCHING


def test_unreadable_watches_resume_and_then_list_anew() -> None:
    machine = watching()
    for _ in range(2):
        machine.watch_ended(Ending.GARBAGE, brought_events=True)
        assert machine.phase is Phase.WATCHING
        assert machine.delay_seconds > 0
    machine.watch_ended(Ending.GARBAGE, brought_events=True)
    assert machine.phase is Phase.INITIAL


def test_pages_above_the_limit_are_asked_for_smaller_down_to_single_objects() -> None:
    machine = make()
    sizes = []
    for _ in range(4):
        machine.page_too_large()
        sizes.append(parameters(machine)["limit"])
    assert sizes == ["62", "7", "1", "1"]
    assert machine.delay_seconds > 0
    machine.page_received("7", "")
    machine.watch_ended(Ending.ERROR, brought_events=True, code=410)
    assert parameters(machine)["limit"] == "500"


def test_a_garbled_continue_token_starts_the_list_again() -> None:
    machine = watching(NODES)
    machine.watch_ended(Ending.ERROR, brought_events=True, code=410)
    machine.page_received("7", "token")
    machine.refused(400, "continue key is not valid")
    assert "continue" not in parameters(machine)


def test_the_duration_of_watches_is_spread() -> None:
    machine = watching()
    durations = {parameters(machine)["timeoutSeconds"] for _ in range(50)}
    assert len(durations) > 20


@pytest.mark.parametrize(
    "wrong",
    [
        {"page_size": 0},
        {"watch_line_bytes_max": 10},
        {"watch_duration_min": 700.0},
        {"stall_timeout": 0.0},
        {"backoff_max": 0.1},
    ],
)
def test_settings_that_cannot_work_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"must be|at most"):
        KubernetesSettings(**wrong)  # type: ignore[arg-type] # wrong on purpose
    assert msgspec.structs.replace(PAGES, page_size=1).page_size == 1
