# SPDX-License-Identifier: Apache-2.0
"""One hostile object costs one report that names it and the field; everything else goes on."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pointsman_model.cluster import ObjectKey, ObjectKind
from pointsman_watcher.core.decode import (
    BODY_BYTES_MAX,
    Bookmark,
    Garbage,
    Observed,
    PageError,
    Rejected,
    WatchFailure,
    decode_event,
    decode_page,
    decode_status,
)
from pointsman_watcher.core.resources import ENDPOINT_SLICES, NODES, RESOURCES, SERVICE_CIDRS, SERVICES, Resource
from support.cluster_objects import (
    Json,
    endpoint_json,
    endpoint_slice_json,
    event,
    list_json,
    node_json,
    service_cidr_json,
    service_json,
)

SOUND: dict[str, tuple[Resource, Json]] = {
    "service": (SERVICES, service_json("shop/web", ports=["http:80"], load_balancer_ips=["203.0.113.1"])),
    "slice": (ENDPOINT_SLICES, endpoint_slice_json("shop/web-1", "web", [endpoint_json("10.0.0.1", zone_hints=["a"])])),
    "node": (NODES, node_json("n1", "192.168.7.2", pod_cidrs=["10.244.0.0/24"], zone="a")),
    "cidr": (SERVICE_CIDRS, service_cidr_json("kubernetes", "10.96.0.0/12")),
}


def changed(value: Json, path: str, to: Any) -> Json:
    """A copy with the field at a dotted path replaced."""
    result: Json = json.loads(json.dumps(value))
    *parents, last = path.split(".")
    place: Any = result
    for name in parents:
        place = place[int(name)] if isinstance(place, list) else place.setdefault(name, {})
    place[int(last) if isinstance(place, list) else last] = to
    return result


WRONG_TYPES = [
    ("service", "spec", "text", "spec"),
    ("service", "spec", None, "spec"),
    ("service", "spec.ports", {"a": 1}, "spec.ports"),
    ("service", "spec.ports.0", 80, "spec.ports[0]"),
    ("service", "spec.ports.0.port", "80", "spec.ports[0].port"),
    ("service", "spec.ports.0.port", 80.5, "spec.ports[0].port"),
    ("service", "spec.clusterIPs", "10.0.0.1", "spec.clusterIPs"),
    ("service", "spec.clusterIPs", [1], "spec.clusterIPs[0]"),
    ("service", "spec.loadBalancerSourceRanges", "10.0.0.0/8", "spec.loadBalancerSourceRanges"),
    ("service", "spec.sessionAffinityConfig", [], "spec.sessionAffinityConfig"),
    ("service", "metadata.labels", {"a": 1}, "metadata.labels[...]"),
    ("service", "status.loadBalancer.ingress", 7, "status.loadBalancer.ingress"),
    ("slice", "endpoints", "none", "endpoints"),
    ("slice", "endpoints.0.addresses", "10.0.0.1", "endpoints[0].addresses"),
    ("slice", "endpoints.0.addresses.0", 167772161, "endpoints[0].addresses[0]"),
    ("slice", "endpoints.0.conditions.ready", "true", "endpoints[0].conditions.ready"),
    ("slice", "endpoints.0.hints.forZones.0.name", None, "endpoints[0].hints.forZones[0].name"),
    ("slice", "ports.0.port", [80], "ports[0].port"),
    ("slice", "metadata.labels", [], "metadata.labels"),
    ("slice", "addressType", None, "addressType"),
    ("node", "status.addresses", [["InternalIP"]], "status.addresses[0]"),
    ("node", "spec.podCIDRs", {}, "spec.podCIDRs"),
    ("cidr", "spec.cidrs", "10.96.0.0/12", "spec.cidrs"),
]


@pytest.mark.parametrize(("which", "path", "value", "field"), WRONG_TYPES)
def test_a_wrong_type_rejects_one_object_and_names_the_field(which: str, path: str, value: Any, field: str) -> None:
    resource, sound = SOUND[which]
    hostile = changed(sound, path, value)
    other = changed(sound, "metadata.name", "other")
    page = decode_page(resource, list_json([hostile, other], resource_version=7))
    rejected, kept = page.items
    assert isinstance(rejected, Rejected)
    assert rejected.key is not None
    assert rejected.key.name == sound["metadata"]["name"]
    assert rejected.problem.field == field
    assert isinstance(kept, Observed)
    assert kept.body is not None
    assert page.resource_version == "7"
    assert decode_event(resource, event("MODIFIED", hostile)) == rejected


@pytest.mark.parametrize("metadata", [None, "x", {"name": 7}, {"name": None}, {}])
def test_an_object_whose_name_cannot_be_read_is_still_only_one_object(metadata: Any) -> None:
    hostile = {**service_json("a/b"), "metadata": metadata}
    rejected, kept = decode_page(SERVICES, list_json([hostile, service_json("shop/web")])).items
    assert isinstance(rejected, Rejected)
    assert rejected.key is None
    assert isinstance(kept, Observed)


@pytest.mark.parametrize("which", SOUND)
def test_missing_fields_are_no_fault(which: str) -> None:
    resource, sound = SOUND[which]
    bare = {"kind": sound["kind"], "metadata": {"name": "bare", "namespace": "shop"}}
    (item,) = decode_page(resource, list_json([bare])).items
    assert isinstance(item, Observed)
    assert isinstance(decode_event(resource, event("ADDED", bare)), Observed)


def test_nulls_where_the_api_server_writes_nulls_are_no_fault() -> None:
    empty = changed(changed(SOUND["slice"][1], "endpoints", None), "ports", None)
    (item,) = decode_page(ENDPOINT_SLICES, list_json([empty])).items
    assert isinstance(item, Observed)
    assert item.body is not None
    assert decode_page(SERVICES, b'{"metadata":{"resourceVersion":"1"},"items":null}').items == []


def test_an_object_too_large_to_send_is_rejected_by_size() -> None:
    labels = {f"label-{number:06}": "x" * 63 for number in range(14_000)}
    assert len(labels) * 76 > BODY_BYTES_MAX
    item = decode_event(SERVICES, event("ADDED", service_json("shop/huge", labels=labels)))
    assert isinstance(item, Rejected)
    assert str(item.key) == "service shop/huge"
    assert "bytes when encoded" in item.problem.message


def test_megabytes_in_fields_that_nobody_reads_are_skipped() -> None:
    huge = changed(SOUND["service"][1], "metadata.managedFields", [{"fieldsV1": {"x": "y" * 3_000_000}}])
    item = decode_event(SERVICES, event("ADDED", huge))
    assert isinstance(item, Observed)
    assert item.body is not None
    assert len(item.body) < 200


def test_nesting_without_end_does_not_end_the_process() -> None:
    deep = b'{"type":"ADDED","object":{"metadata":{"name":"x"},"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}}"
    assert isinstance(decode_event(SERVICES, deep), Observed | Rejected | Garbage)


@pytest.mark.parametrize(
    "line",
    [
        b"", b"{", b"null", b"[]", b"7", b'"text"', b'{"type":"ADDED"}', b'{"object":{}}', b'{"type":7,"object":{}}',
        b'{"type":"ADDED","object":{"metadata":{"name":"x"', b'{"type":"SURPRISE","object":{"metadata":{"name":"x"}}}',
        b'{"type":"DELETED","object":{}}', b'{"type":"DELETED","object":[]}', b"\xff\xfe", b"\x00" * 10,
        b'{"type":"BOOKMARK","object":7}', b"<html>502 Bad Gateway</html>",
    ],
)  # fmt: skip
def test_a_line_that_is_no_event_is_garbage(line: bytes) -> None:
    assert isinstance(decode_event(SERVICES, line), Garbage)


def test_what_was_deleted_need_not_be_sound() -> None:
    hostile = changed(SOUND["service"][1], "spec.ports", "none")
    item = decode_event(SERVICES, event("DELETED", hostile))
    assert item == Observed(ObjectKey(ObjectKind.SERVICE, "shop", "web"), None, "1")


def test_bookmarks_and_errors_of_any_shape_are_told_apart() -> None:
    assert decode_event(NODES, b'{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"9"}}}') == Bookmark(
        "9", False
    )
    assert decode_event(NODES, b'{"type":"ERROR","object":{"code":500,"message":"etcd"}}') == WatchFailure(500, "etcd")
    assert decode_event(NODES, b'{"type":"ERROR","object":{}}') == WatchFailure(0, "")


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"null", b"[]", b'{"items":[]}', b'{"metadata":{},"items":{}}', b"k8s\x00\n"]
)
def test_a_body_that_is_no_list_is_an_error(body: bytes) -> None:
    with pytest.raises(PageError, match="is not a list of services"):
        decode_page(SERVICES, body)


@pytest.mark.parametrize("body", [b"", b"404 page not found\n", b"[]", b'{"message":7}', b"\xff"])
def test_an_error_body_of_any_form_gives_a_status(body: bytes) -> None:
    assert decode_status(body).code == 0


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def _paths(value: Any, at: str = "") -> list[str]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    found = [at] if at else []
    for name, inner in items:
        found += _paths(inner, f"{at}.{name}".lstrip("."))
    return found


@settings(max_examples=300)
@given(st.sampled_from(sorted(SOUND)), st.data())
def test_any_value_anywhere_in_an_object_never_harms_another(which: str, data: st.DataObject) -> None:
    resource, sound = SOUND[which]
    path = data.draw(st.sampled_from([path for path in _paths(sound) if _can_be_split(path)]))
    hostile = changed(sound, path, data.draw(JSON))
    other = changed(sound, "metadata.name", "other")
    items = decode_page(resource, list_json([hostile, other])).items
    (alone,) = decode_page(resource, list_json([other])).items
    assert items[1] == alone
    assert isinstance(decode_event(resource, event("MODIFIED", hostile)), Observed | Rejected)


def _can_be_split(path: str) -> bool:
    """Whether dots only stand between the names of the path; label keys contain some."""
    return not path.startswith("metadata.labels.")


@given(st.binary(max_size=200))
def test_any_bytes_are_decoded_to_something(line: bytes) -> None:
    for resource in RESOURCES:
        decode_event(resource, line)


NOT_UTF8 = service_json("shop/web", ports=["http:80"])["metadata"]["uid"].encode() + b"\xff"


def with_bytes_that_are_not_utf8(text: bytes) -> bytes:
    """The same JSON with a byte in the uid of shop/web that no UTF-8 has."""
    assert b"uid-shop-web" in text
    return text.replace(b"uid-shop-web", NOT_UTF8)


def test_an_object_that_is_not_utf8_is_rejected_and_its_neighbours_are_not() -> None:
    body = list_json([service_json("shop/other"), service_json("shop/web"), service_json("shop/third")])
    before, hostile, after = decode_page(SERVICES, with_bytes_that_are_not_utf8(body)).items
    assert isinstance(before, Observed)
    assert isinstance(after, Observed)
    assert isinstance(hostile, Rejected)
    assert hostile.key == ObjectKey(ObjectKind.SERVICE, "shop", "web")


@pytest.mark.parametrize("kind", ["ADDED", "MODIFIED", "BOOKMARK"])
def test_a_watch_line_that_is_not_utf8_never_raises(kind: str) -> None:
    found = decode_event(SERVICES, with_bytes_that_are_not_utf8(event(kind, service_json("shop/web"))))
    assert isinstance(found, Garbage if kind == "BOOKMARK" else Rejected)


@pytest.mark.parametrize("field", ["name", "namespace"])
@pytest.mark.parametrize("value", ["", "x" * 254, "caf\u00e9", "a\nb"])
def test_a_name_that_no_object_has_rejects_the_object_and_says_which(field: str, value: str) -> None:
    hostile = changed(service_json("shop/web"), f"metadata.{field}", value)
    before, rejected, after = decode_page(
        SERVICES, list_json([service_json("shop/a"), hostile, service_json("shop/b")])
    ).items
    assert isinstance(before, Observed)
    assert isinstance(after, Observed)
    assert isinstance(rejected, Rejected)
    assert rejected.problem.field == f"metadata.{field}"
