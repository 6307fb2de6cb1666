# SPDX-License-Identifier: Apache-2.0
"""What the controllers look at again after a change, and that they never go back in time."""

from pointsman_lab.controller.state import ROUTES_KEY, ClusterState
from support.lab_objects import Object, deployment, pod, service


def versioned(obj: Object, version: int) -> Object:
    obj["metadata"]["resourceVersion"] = str(version)
    return obj


def test_an_older_event_is_ignored() -> None:
    state = ClusterState(now=lambda: "T")
    state.observe("pods", versioned(pod(ready=False), 5))
    state.take_dirty()
    state.observe("pods", versioned(pod(ready=True), 4))
    assert state.take_dirty() == []
    known = state.caches["pods"].get("default/web-1")
    assert known is not None
    assert known["metadata"]["resourceVersion"] == "5"


def test_a_late_event_does_not_bring_a_deleted_object_back() -> None:
    state = ClusterState(now=lambda: "T")
    state.observe("pods", versioned(pod(), 1))
    state.observe_gone("pods", versioned(pod(), 2))
    state.observe("pods", versioned(pod(), 1))
    assert len(state.caches["pods"]) == 0


def test_a_pod_marks_itself_its_deployment_and_the_services_that_select_it() -> None:
    state = ClusterState(now=lambda: "T")
    state.observe("services", versioned(service(), 1))
    state.observe("services", versioned(service("other", selector={"app": "other"}), 2))
    state.take_dirty()
    state.observe("pods", versioned(pod(owner="web"), 3))
    assert set(state.take_dirty()) == {
        ("pod", "default/web-1"),
        ("deployment", "default/web"),
        ("service", "default/web"),
    }


def test_a_pod_that_changes_its_labels_marks_the_service_it_leaves() -> None:
    state = ClusterState(now=lambda: "T")
    state.observe("services", versioned(service(), 1))
    state.observe("pods", versioned(pod(), 2))
    state.take_dirty()
    state.observe("pods", versioned(pod(labels={"app": "else"}), 3))
    assert ("service", "default/web") in state.take_dirty()


def test_the_trigger_time_is_that_of_the_first_change() -> None:
    instants = iter(["T1", "T2", "T3"])
    state = ClusterState(now=lambda: next(instants))
    state.observe("services", versioned(service(), 1))
    state.observe("pods", versioned(pod(), 2))
    assert state.trigger_times == {"default/web": "T1"}


def test_only_services_with_outside_addresses_touch_routes() -> None:
    state = ClusterState(now=lambda: "T")
    state.observe("services", versioned(service(), 1))
    assert ROUTES_KEY not in state.take_dirty()
    state.observe("services", versioned(service(type="LoadBalancer"), 2))
    assert ROUTES_KEY in state.take_dirty()
    state.observe("services", versioned(service(), 3))
    assert ROUTES_KEY in state.take_dirty()


def test_a_new_list_marks_what_changed_and_what_went() -> None:
    state = ClusterState(now=lambda: "T")
    state.observe_list("pods", [versioned(pod("a"), 1), versioned(pod("b"), 2)])
    state.take_dirty()
    state.observe_list("pods", [versioned(pod("b"), 2), versioned(pod("c"), 3)])
    assert set(state.take_dirty()) == {("pod", "default/a"), ("pod", "default/c")}


def test_a_deployment_that_goes_marks_its_pods() -> None:
    state = ClusterState(now=lambda: "T")
    state.observe("deployments", versioned(deployment(), 1))
    state.observe("pods", versioned(pod(owner="web"), 2))
    state.take_dirty()
    state.observe_gone("deployments", versioned(deployment(), 3))
    assert ("pod", "default/web-1") in state.take_dirty()
