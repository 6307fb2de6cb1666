# SPDX-License-Identifier: Apache-2.0
"""What an API server sends: pages, watch lines, chunks. Every object that is not hostile comes through as ever."""

from __future__ import annotations

import json
from typing import Any

from fuzz.harness import Target
from fuzz.mutation import mutated_bytes, mutated_json
from hypothesis import strategies as st

from pointsman.cluster.v1 import cluster_service_pb2 as pb
from pointsman_model.wire.cluster import change_from_pb
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
from pointsman_watcher.core.lines import LineSplitter
from pointsman_watcher.core.resources import ENDPOINT_SLICES, NODES, SERVICE_CIDRS, SERVICES, Resource
from support.cluster_objects import (
    Json,
    bookmark,
    endpoint_json,
    endpoint_slice_json,
    event,
    list_json,
    node_json,
    service_cidr_json,
    service_json,
)

_LINE_BYTES_MAX = 4096
_OBJECTS: tuple[tuple[Resource, Json], ...] = (
    (
        SERVICES,
        service_json(
            "shop/web",
            ports=["http:80", "dns:53/UDP"],
            node_ports={"http": 30080},
            load_balancer_ips=["203.0.113.1"],
        ),
    ),
    (
        ENDPOINT_SLICES,
        endpoint_slice_json(
            "shop/web-1", "web", [endpoint_json("10.0.0.1", zone_hints=["a"]), endpoint_json("10.0.0.2")]
        ),
    ),
    (NODES, node_json("n1", "192.168.7.2", pod_cidrs=["10.244.0.0/24"], zone="a")),
    (SERVICE_CIDRS, service_cidr_json("kubernetes", "10.96.0.0/12", "fd00::/112")),
)
_RICH = {
    "loadBalancerSourceRanges": ["10.0.0.0/8", "fd00::/64"],
    "sessionAffinity": "ClientIP",
    "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 10800}},
    "externalIPs": ["203.0.113.9"],
    "internalTrafficPolicy": "Local",
    "externalTrafficPolicy": "Local",
    "healthCheckNodePort": 32000,
    "trafficDistribution": "PreferClose",
    "publishNotReadyAddresses": True,
}
_OBJECTS[0][1]["spec"].update(_RICH)
_NEIGHBOURS: dict[str, Json] = {
    "services": service_json("sound/neighbour", ports=["http:80"]),
    "endpointslices": endpoint_slice_json("sound/neighbour-1", "neighbour", [endpoint_json("10.9.0.1")]),
    "nodes": node_json("sound", "192.168.9.2"),
    "servicecidrs": service_cidr_json("sound", "10.250.0.0/16"),
}
_cases = st.sampled_from(_OBJECTS)


def _event_text(kind: str, value: Json) -> bytes:
    return event(kind, value)


_lines = st.one_of(
    _cases.flatmap(
        lambda case: st.tuples(
            st.just(case[0]),
            mutated_bytes(st.sampled_from([_event_text(kind, case[1]) for kind in ("ADDED", "MODIFIED", "DELETED")])),
        )
    ),
    st.tuples(
        st.just(SERVICES),
        mutated_bytes(
            st.sampled_from(
                [
                    bookmark("7", initial_events_end=True),
                    b'{"type":"ERROR","object":{"kind":"Status","code":410,"reason":"Expired","message":"too old"}}',
                    b"[" * 20_000,
                    b'{"type":"ADDED","object":' + b'{"a":' * 5000,
                ]
            )
        ),
    ),
)
_line_documents = _cases.flatmap(
    lambda case: st.tuples(
        st.just(case[0]),
        mutated_json({"type": "MODIFIED", "object": case[1]}).map(lambda found: json.dumps(found).encode()),
    )
)
_pages = _cases.flatmap(
    lambda case: st.tuples(
        st.just(case[0]),
        mutated_bytes(st.just(list_json([_NEIGHBOURS[case[0].plural], case[1]]))),
    )
)
_page_documents = _cases.flatmap(
    lambda case: st.tuples(st.just(case[0]), st.lists(mutated_json(case[1]), min_size=1, max_size=3))
)


def check_item(item: object) -> None:
    """What the decoder says of an object: it can be sent, read back, and is of the key it says."""
    if isinstance(item, Observed):
        for problem in item.problems:
            assert problem.field
            assert problem.message
        if item.body is not None:
            assert len(item.body) <= BODY_BYTES_MAX
            assert change_from_pb(pb.Change.FromString(item.body)).key == item.key
    elif isinstance(item, Rejected):
        assert item.problem.field
        assert item.problem.message
    else:
        assert isinstance(item, Bookmark | WatchFailure | Garbage)


def check_line(value: tuple[Resource, bytes]) -> None:
    """`decode_event` never raises."""
    resource, line = value
    check_item(decode_event(resource, line))
    decode_status(line)


def check_page(value: tuple[Resource, bytes]) -> None:
    """`decode_page` raises PageError only."""
    resource, body = value
    try:
        page = decode_page(resource, body)
    except PageError:
        return
    for item in page.items:
        check_item(item)


def check_page_of_objects(value: tuple[Resource, list[Any]]) -> None:
    """Neighbours of hostile objects are decoded as they are alone."""
    resource, hostile = value
    neighbour = _NEIGHBOURS[resource.plural]
    (alone,) = decode_page(resource, list_json([neighbour])).items
    items = decode_page(
        resource, json.dumps({"metadata": {"resourceVersion": "1"}, "items": [neighbour, *hostile, neighbour]}).encode()
    ).items
    assert len(items) == len(hostile) + 2
    assert items[0] == alone
    assert items[-1] == alone
    for item in items:
        check_item(item)


def check_chunks(value: tuple[bytes, list[int]]) -> None:
    """However bytes are cut into chunks, the lines are the same, and none is above the bound."""
    data, cuts = value
    whole = LineSplitter(line_bytes_max=_LINE_BYTES_MAX)
    expected = whole.feed(data)
    splitter = LineSplitter(line_bytes_max=_LINE_BYTES_MAX)
    found, start = [], 0
    for end in sorted({*(cut % (len(data) + 1) for cut in cuts), len(data)}):
        found += splitter.feed(data[start:end])
        start = end
    assert found == expected
    assert splitter.skipped_count == whole.skipped_count
    assert all(0 < len(line) <= _LINE_BYTES_MAX for line in found)


_chunks = st.tuples(
    st.lists(
        st.one_of(st.binary(max_size=40), st.sampled_from([b"\n", b"\n\n", b"x" * 5000, b"\r\n"])), max_size=8
    ).map(b"".join),
    st.lists(st.integers(0, 10_000), max_size=8),
)

TARGETS = (
    Target(name="watcher: watch lines as bytes", values=_lines, check=check_line, examples=400),
    Target(name="watcher: watch lines as documents", values=_line_documents, check=check_line, examples=300),
    Target(name="watcher: pages as bytes", values=_pages, check=check_page, examples=300),
    Target(name="watcher: pages of hostile objects", values=_page_documents, check=check_page_of_objects, examples=300),
    Target(name="watcher: chunks of lines", values=_chunks, check=check_chunks, examples=200),
)
