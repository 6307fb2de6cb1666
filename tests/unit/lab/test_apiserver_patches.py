# SPDX-License-Identifier: Apache-2.0
"""The four patch formats, as tables of object, patch and result."""

import copy
from typing import Any

import pytest

from pointsman_lab.apiserver import ApiError
from pointsman_lab.apiserver.patches import JSON_PATCH, MERGE_PATCH, STRATEGIC_PATCH, apply_patch
from pointsman_lab.apiserver.patches.apply import field_set, server_side_apply

Json = dict[str, Any]
UDP = {"name": "dns", "port": 53, "protocol": "UDP"}
TCP = {"name": "dns-tcp", "port": 53, "protocol": "TCP"}


@pytest.mark.parametrize(
    ("current", "patch", "result"),
    [
        ({"a": 1}, {"a": None}, {}),
        ({"a": {"b": 1, "c": 2}}, {"a": {"b": 3}}, {"a": {"b": 3, "c": 2}}),
        ({"a": [1, 2]}, {"a": [3]}, {"a": [3]}),
        ({"a": 1}, {"a": {"b": None}}, {"a": {}}),
    ],
)
def test_merge_patch(current: Json, patch: Json, result: Json) -> None:
    before = copy.deepcopy(current)
    assert apply_patch(MERGE_PATCH, current, patch) == result
    assert current == before


def ports(*items: Json, **more: Any) -> Json:
    return {"spec": {"ports": list(items), **more}}


@pytest.mark.parametrize(
    ("current", "patch", "result"),
    [
        pytest.param(
            {"spec": {"containers": [{"name": "a", "image": "1"}, {"name": "b"}]}},
            {"spec": {"containers": [{"name": "a", "image": "2"}]}},
            {"spec": {"containers": [{"name": "a", "image": "2"}, {"name": "b"}]}},
            id="containers by name",
        ),
        pytest.param(
            {"spec": {"containers": [{"name": "a"}, {"name": "b"}]}},
            {"spec": {"containers": [{"name": "a", "$patch": "delete"}]}},
            {"spec": {"containers": [{"name": "b"}]}},
            id="item deleted",
        ),
        pytest.param(
            {"spec": {"selector": {"app": "a", "x": "y"}}},
            {"spec": {"selector": {"$patch": "replace", "app": "b"}}},
            {"spec": {"selector": {"app": "b"}}},
            id="map replaced",
        ),
        pytest.param(
            ports({"port": 1}, {"port": 2}),
            ports({"$patch": "replace"}, {"port": 3}),
            ports({"port": 3}),
            id="list replaced",
        ),
        pytest.param(
            ports(UDP, TCP),
            ports({"port": 53, "protocol": "TCP", "targetPort": 5353}),
            ports(UDP, TCP | {"targetPort": 5353}),
            id="ports of one number are told apart by protocol",
        ),
        pytest.param(
            ports(UDP),
            ports(TCP) | {"spec": {"ports": [TCP], "$setElementOrder/ports": [{"port": 53}, {"port": 53}]}},
            ports(UDP, TCP),
            id="second protocol of a port is a new port",
        ),
        pytest.param(
            ports(UDP),
            ports({"port": 53, "protocol": "TCP"}),
            ports(UDP | {"protocol": "TCP"}),
            id="protocol of the only port changes",
        ),
        pytest.param(
            {"spec": {"containers": [{"name": "a"}, {"name": "b"}]}},
            {"spec": {"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}], "containers": [{"name": "a"}]}},
            {"spec": {"containers": [{"name": "b"}, {"name": "a"}]}},
            id="order is set",
        ),
        pytest.param(
            {"metadata": {"finalizers": ["a", "b"]}},
            {"metadata": {"finalizers": ["c"], "$deleteFromPrimitiveList/finalizers": ["a"]}},
            {"metadata": {"finalizers": ["b", "c"]}},
            id="finalizers are a set",
        ),
        pytest.param(
            {"endpoints": [{"addresses": ["a"]}], "ports": [{"port": 1}]},
            {"ports": [{"port": 2}]},
            {"endpoints": [{"addresses": ["a"]}], "ports": [{"port": 2}]},
            id="ports of an endpoint slice are atomic",
        ),
        pytest.param(
            {"status": {"conditions": [{"type": "A", "status": "False"}]}},
            {"status": {"conditions": [{"type": "A", "status": "True"}, {"type": "B"}]}},
            {"status": {"conditions": [{"type": "A", "status": "True"}, {"type": "B"}]}},
            id="conditions by type",
        ),
        pytest.param(
            {"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {}}}},
            {"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}},
            {"spec": {"strategy": {"type": "Recreate"}}},
            id="only named keys are retained",
        ),
    ],
)
def test_strategic_merge_patch(current: Json, patch: Json, result: Json) -> None:
    before = copy.deepcopy(current)
    assert apply_patch(STRATEGIC_PATCH, current, patch) == result
    assert current == before


@pytest.mark.parametrize(
    ("operations", "result"),
    [
        ([{"op": "add", "path": "/a/-", "value": 3}], {"a": [1, 2, 3], "b/c": 1}),
        ([{"op": "add", "path": "/a/0", "value": 0}], {"a": [0, 1, 2], "b/c": 1}),
        ([{"op": "remove", "path": "/b~1c"}], {"a": [1, 2]}),
        ([{"op": "replace", "path": "/a/1", "value": 9}], {"a": [1, 9], "b/c": 1}),
        ([{"op": "move", "from": "/b~1c", "path": "/d"}], {"a": [1, 2], "d": 1}),
        ([{"op": "copy", "from": "/a", "path": "/d"}], {"a": [1, 2], "b/c": 1, "d": [1, 2]}),
        ([{"op": "test", "path": "/a/0", "value": 1}], {"a": [1, 2], "b/c": 1}),
    ],
)
def test_json_patch(operations: list[Json], result: Json) -> None:
    assert apply_patch(JSON_PATCH, {"a": [1, 2], "b/c": 1}, operations) == result


@pytest.mark.parametrize(
    ("patch", "code"),
    [
        ([{"op": "remove", "path": "/x"}], 422),
        ([{"op": "test", "path": "/a", "value": 2}], 422),
        ([{"op": "add", "path": "/l/5", "value": 2}], 422),
        ([{"op": "dance", "path": "/a"}], 400),
        ([{"op": "add", "path": "/a"}], 400),
        ({"a": 1}, 400),
    ],
)
def test_json_patch_that_cannot_be_applied_is_refused(patch: Any, code: int) -> None:
    with pytest.raises(ApiError) as refused:
        apply_patch(JSON_PATCH, {"a": 1, "l": []}, patch)
    assert refused.value.code == code


def applied(current: Json, stated: Json, manager: str = "me", *, force: bool = False) -> Json:
    return server_side_apply(current, stated, manager=manager, force=force, now="2026-01-01T00:00:00Z")


def test_apply_removes_what_its_manager_no_longer_states() -> None:
    first = applied({}, {"metadata": {"name": "a"}, "spec": {"x": 1, "y": 2, "ports": [UDP, TCP]}})
    first["spec"]["z"] = 3
    second = applied(first, {"metadata": {"name": "a"}, "spec": {"x": 1, "ports": [TCP]}})
    assert second["spec"] == {"x": 1, "z": 3, "ports": [TCP]}
    assert len(second["metadata"]["managedFields"]) == 1


def test_apply_of_the_same_object_by_two_managers_conflicts_only_on_different_values() -> None:
    first = applied({}, {"metadata": {"labels": {"a": "1"}}, "spec": {"x": 1}}, "one")
    agreed = applied(first, {"metadata": {"labels": {"b": "1"}}, "spec": {"x": 1}}, "two")
    assert agreed["metadata"]["labels"] == {"a": "1", "b": "1"}
    with pytest.raises(ApiError) as refused:
        applied(first, {"spec": {"x": 2}}, "two")
    assert (refused.value.code, refused.value.message) == (
        409,
        'Apply failed with 1 conflict: conflict with "one": .spec.x',
    )
    forced = applied(first, {"spec": {"x": 2}}, "two", force=True)
    assert forced["spec"]["x"] == 2
    later = applied(forced, {"metadata": {"labels": {"a": "1"}}}, "one")
    assert later["spec"]["x"] == 2


def test_field_set_is_in_the_form_of_managed_fields() -> None:
    assert field_set({"kind": "Service", "metadata": {"name": "x", "labels": {"a": "b"}}, **ports(UDP)}) == {
        "f:metadata": {"f:labels": {"f:a": {}}},
        "f:spec": {
            "f:ports": {'k:{"port":53,"protocol":"UDP"}': {".": {}, "f:name": {}, "f:port": {}, "f:protocol": {}}}
        },
    }
