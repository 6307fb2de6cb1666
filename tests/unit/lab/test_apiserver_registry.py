# SPDX-License-Identifier: Apache-2.0
"""The verbs: what creates, updates and deletes do to metadata, status, generation and namespaces."""

from typing import Any

import pytest

from pointsman_lab.apiserver import ApiError, DeleteOptions, ListOptions, Patch, Registry, new_cluster
from pointsman_lab.apiserver.patches import APPLY_PATCH, MERGE_PATCH
from pointsman_lab.apiserver.resources import (
    DEPLOYMENTS,
    ENDPOINTSLICES,
    NAMESPACES,
    PODS,
    SERVICECIDRS,
    SERVICES,
    by_plural,
)

Json = dict[str, Any]
CONFIGMAPS = by_plural("", "configmaps")


@pytest.fixture
def registry() -> Registry:
    return new_cluster()


def pod(name: str = "p", **spec: Any) -> Json:
    return {"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "echo"}], **spec}}


def deployment(**spec: Any) -> Json:
    template = {"metadata": {"labels": {"app": "web"}}, "spec": pod()["spec"]}
    return {
        "metadata": {"name": "web"},
        "spec": {"selector": {"matchLabels": {"app": "web"}}, "template": template, **spec},
    }


def merge(registry: Registry, resource: Any, name: str, document: Json, subresource: str = "") -> Json:
    change = Patch(media_type=MERGE_PATCH, document=document)
    result: Json = registry.patch(resource, change, "default", name, subresource).decode()
    return result


def test_fresh_cluster_has_what_every_cluster_has(registry: Registry) -> None:
    assert {"default", "kube-system"} <= {o.name for o in registry.list(NAMESPACES).objects}
    assert registry.get(SERVICES, "default", "kubernetes").decode()["spec"]["clusterIP"] == "10.96.0.1"
    assert registry.get(SERVICECIDRS, "", "kubernetes").decode()["status"]["conditions"][0]["status"] == "True"


def test_generation_rises_with_the_spec_only(registry: Registry) -> None:
    registry.create(DEPLOYMENTS, deployment(), "default")
    assert merge(registry, DEPLOYMENTS, "web", {"metadata": {"labels": {"a": "b"}}})["metadata"]["generation"] == 1
    status = merge(registry, DEPLOYMENTS, "web", {"status": {"replicas": 1}, "spec": {"replicas": 9}}, "status")
    assert (status["metadata"]["generation"], status["spec"]["replicas"], status["status"]) == (1, 1, {"replicas": 1})
    changed = merge(registry, DEPLOYMENTS, "web", {"spec": {"replicas": 3}, "status": {"replicas": 7}})
    assert (changed["metadata"]["generation"], changed["status"]) == (2, {"replicas": 1})


def test_update_that_changes_nothing_writes_nothing(registry: Registry) -> None:
    stored = registry.create(DEPLOYMENTS, deployment(), "default")
    again = registry.update(DEPLOYMENTS, stored.decode(), "default", "web")
    assert again.resource_version == stored.resource_version


def test_stale_update_conflicts_and_unversioned_update_wins(registry: Registry) -> None:
    old = registry.create(CONFIGMAPS, {"metadata": {"name": "c"}, "data": {"a": "1"}}, "default").decode()
    merge(registry, CONFIGMAPS, "c", {"data": {"a": "2"}})
    with pytest.raises(ApiError) as refused:
        registry.update(CONFIGMAPS, old, "default", "c")
    assert refused.value.reason == "Conflict"
    del old["metadata"]["resourceVersion"]
    assert registry.update(CONFIGMAPS, old, "default", "c").decode()["data"] == {"a": "1"}


def test_dry_run_writes_nothing(registry: Registry) -> None:
    before = registry.store.revision
    tried = registry.create(
        SERVICES, {"metadata": {"name": "s"}, "spec": {"ports": [{"port": 1}]}}, "default", dry_run=True
    )
    assert tried.decode()["spec"]["clusterIP"]
    assert registry.store.revision == before


def test_generated_names_are_unique(registry: Registry) -> None:
    names = {registry.create(PODS, {**pod(), "metadata": {"generateName": "web-"}}, "default").name for _ in range(20)}
    assert len(names) == 20
    assert all(name.startswith("web-") for name in names)


def test_pod_on_a_node_ends_in_two_steps_and_a_pending_one_at_once(registry: Registry) -> None:
    registry.create(PODS, pod("placed", nodeName="n", terminationGracePeriodSeconds=7), "default")
    marked, gone = registry.delete(PODS, "default", "placed")
    metadata = marked.decode()["metadata"]
    assert (gone, metadata["deletionGracePeriodSeconds"]) == (False, 7)
    assert metadata["deletionTimestamp"] >= metadata["creationTimestamp"]
    assert registry.delete(PODS, "default", "placed", DeleteOptions(grace_period_seconds=0))[1] is True
    registry.create(PODS, pod("pending"), "default")
    assert registry.delete(PODS, "default", "pending")[1] is True
    with pytest.raises(ApiError):
        registry.get(PODS, "default", "placed")


def test_finalizer_holds_an_object_until_it_is_taken_off(registry: Registry) -> None:
    registry.create(CONFIGMAPS, {"metadata": {"name": "c", "finalizers": ["x/y"]}}, "default")
    assert registry.delete(CONFIGMAPS, "default", "c")[1] is False
    merge(registry, CONFIGMAPS, "c", {"metadata": {"finalizers": None}})
    with pytest.raises(ApiError) as refused:
        registry.get(CONFIGMAPS, "default", "c")
    assert refused.value.code == 404


def test_delete_preconditions_are_kept(registry: Registry) -> None:
    registry.create(CONFIGMAPS, {"metadata": {"name": "c"}}, "default")
    for options in (DeleteOptions(uid="other"), DeleteOptions(resource_version="1")):
        with pytest.raises(ApiError) as refused:
            registry.delete(CONFIGMAPS, "default", "c", options)
        assert refused.value.reason == "Conflict"


def test_delete_collection_takes_what_is_selected(registry: Registry) -> None:
    for name in "abc":
        registry.create(CONFIGMAPS, {"metadata": {"name": name}}, "default")
    registry.delete_collection(CONFIGMAPS, ListOptions(namespace="kube-system"), DeleteOptions())
    assert len(registry.list(CONFIGMAPS).objects) == 3
    registry.delete_collection(CONFIGMAPS, ListOptions(namespace="default"), DeleteOptions())
    assert registry.list(CONFIGMAPS).objects == []


def test_what_is_in_a_deleted_namespace_can_be_deleted_by_name_until_it_is_emptied(registry: Registry) -> None:
    work: list[Any] = []
    registry.empty_namespaces_with(work.append)
    registry.create(NAMESPACES, {"metadata": {"name": "shop"}})
    for name in ("a", "b"):
        registry.create(CONFIGMAPS, {"metadata": {"name": name}}, "shop")
    _, is_gone = registry.delete(NAMESPACES, "", "shop")
    assert not is_gone
    registry.delete(CONFIGMAPS, "shop", "a")
    with pytest.raises(ApiError, match="being terminated"):
        registry.create(CONFIGMAPS, {"metadata": {"name": "c"}}, "shop")
    work.pop()()
    assert "shop" not in {o.name for o in registry.list(NAMESPACES).objects}
    registry.create(NAMESPACES, {"metadata": {"name": "shop"}})
    registry.create(CONFIGMAPS, {"metadata": {"name": "a"}}, "shop")
    registry.delete(NAMESPACES, "", "shop")
    registry.delete(CONFIGMAPS, "shop", "a")
    registry.create(NAMESPACES, {"metadata": {"name": "shop"}})
    registry.create(CONFIGMAPS, {"metadata": {"name": "new"}}, "shop")
    work.pop()()
    assert registry.get(CONFIGMAPS, "shop", "new")


def test_namespace_empties_itself_and_goes_when_its_last_pod_has(registry: Registry) -> None:
    registry.create(NAMESPACES, {"metadata": {"name": "shop"}})
    registry.create(CONFIGMAPS, {"metadata": {"name": "c"}}, "shop")
    registry.create(PODS, pod("p", nodeName="n"), "shop")
    assert registry.delete(NAMESPACES, "", "shop")[1] is False
    assert registry.get(NAMESPACES, "", "shop").decode()["status"]["phase"] == "Terminating"
    assert registry.list(CONFIGMAPS, ListOptions(namespace="shop")).objects == []
    with pytest.raises(ApiError) as refused:
        registry.create(CONFIGMAPS, {"metadata": {"name": "d"}}, "shop")
    assert refused.value.reason == "Forbidden"
    registry.delete(PODS, "shop", "p", DeleteOptions(grace_period_seconds=0))
    with pytest.raises(ApiError) as refused:
        registry.get(NAMESPACES, "", "shop")
    assert refused.value.code == 404


def test_orphaning_takes_the_owner_references_away(registry: Registry) -> None:
    owner = registry.create(CONFIGMAPS, {"metadata": {"name": "owner"}}, "default").decode()["metadata"]["uid"]
    reference = {"uid": owner, "name": "owner", "kind": "ConfigMap", "apiVersion": "v1"}
    registry.create(CONFIGMAPS, {"metadata": {"name": "d", "ownerReferences": [reference]}}, "default")
    registry.delete(CONFIGMAPS, "default", "owner", DeleteOptions(orphan=True))
    assert not registry.get(CONFIGMAPS, "default", "d").decode()["metadata"].get("ownerReferences")


def test_apply_creates_what_is_missing_and_repeats_without_a_write(registry: Registry) -> None:
    patch = Patch(media_type=APPLY_PATCH, document=deployment(replicas=2), manager="m")
    made = registry.patch(DEPLOYMENTS, patch, "default", "web")
    assert made.decode()["metadata"]["managedFields"][0]["manager"] == "m"
    again = Patch(media_type=APPLY_PATCH, document=deployment(replicas=2), manager="m")
    assert registry.patch(DEPLOYMENTS, again, "default", "web").resource_version == made.resource_version


@pytest.mark.parametrize(
    ("resource", "body", "namespace", "code"),
    [
        (PODS, {"metadata": {"name": "x"}, "spec": {}}, "default", 422),
        (PODS, pod("Bad_Name"), "default", 422),
        (PODS, pod(), "nowhere", 404),
        (PODS, {**pod(), "kind": "Service"}, "default", 400),
        (PODS, {**pod(), "apiVersion": "v2"}, "default", 400),
        (PODS, {**pod(), "metadata": {"name": "p", "namespace": "other"}}, "default", 400),
        (PODS, {**pod(), "metadata": {"name": "p", "resourceVersion": "5"}}, "default", 400),
        (PODS, {**pod(), "metadata": {}}, "default", 422),
        (PODS, "text", "default", 400),
        (CONFIGMAPS, {"metadata": {"name": "x", "labels": {"a": 1}}}, "default", 422),
        (DEPLOYMENTS, deployment(selector={"matchLabels": {"app": "other"}}), "default", 422),
        (DEPLOYMENTS, deployment(replicas=-1), "default", 422),
        (ENDPOINTSLICES, {"metadata": {"name": "x"}}, "default", 422),
        (ENDPOINTSLICES, {"metadata": {"name": "x"}, "addressType": "IPv5"}, "default", 422),
        (
            ENDPOINTSLICES,
            {"metadata": {"name": "x"}, "addressType": "IPv4", "endpoints": [{"addresses": ["fd00::1"]}]},
            "default",
            422,
        ),
        (SERVICECIDRS, {"metadata": {"name": "x"}, "spec": {"cidrs": ["nope"]}}, "", 422),
    ],
)
def test_bad_object_is_refused(registry: Registry, resource: Any, body: Any, namespace: str, code: int) -> None:
    before = registry.store.revision
    with pytest.raises(ApiError) as refused:
        registry.create(resource, body, namespace)
    assert refused.value.code == code
    assert registry.store.revision == before


@pytest.mark.parametrize(
    ("resource", "body"),
    [
        (SERVICES, {"metadata": {"name": "x"}, "spec": "text"}),
        (SERVICES, {"metadata": {"name": "x"}, "spec": {"ports": ["text"]}}),
        (SERVICES, {"metadata": {"name": "x"}, "spec": {"ports": 5}}),
        (SERVICES, {"metadata": {"name": 5}, "spec": {}}),
        (SERVICES, {"metadata": []}),
        (PODS, {"metadata": {"name": "x"}, "spec": {"containers": [7]}}),
        (DEPLOYMENTS, {"metadata": {"name": "x"}, "spec": {"template": [1]}}),
        (ENDPOINTSLICES, {"metadata": {"name": "x"}, "addressType": [], "endpoints": [1]}),
        (SERVICECIDRS, {"metadata": {"name": "x"}, "spec": {"cidrs": [[]]}}),
    ],
)
def test_field_of_the_wrong_type_is_refused_and_changes_nothing(registry: Registry, resource: Any, body: Json) -> None:
    before = registry.store.revision
    with pytest.raises(ApiError) as refused:
        registry.create(resource, body, "default" if resource.namespaced else "")
    assert refused.value.code in (400, 422)
    assert registry.store.revision == before
