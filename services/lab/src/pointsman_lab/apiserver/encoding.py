# SPDX-License-Identifier: Apache-2.0
"""JSON on the wire: objects are encoded once, at the write, and every list and watch reuses those bytes.

An encoded object starts with its kind and apiVersion. Lists carry their items without the two, so an item is the
same bytes with another beginning. `msgspec` is asked for plain dicts only; there is no schema here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

if TYPE_CHECKING:
    from pointsman_lab.apiserver.resources import Resource

Json = dict[str, Any]

encode_json: Final = msgspec.json.Encoder().encode
decode_json: Final = msgspec.json.Decoder().decode

_METADATA_ORDER: Final = (
    "name",
    "generateName",
    "namespace",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "labels",
    "annotations",
    "ownerReferences",
    "finalizers",
    "managedFields",
)


def ordered(resource: Resource, body: Json) -> Json:
    """Give `body` with kind, apiVersion and metadata first and the metadata in the usual order."""
    metadata = body.get("metadata") or {}
    result: Json = {
        "kind": resource.kind,
        "apiVersion": resource.api_version,
        "metadata": {name: metadata[name] for name in _METADATA_ORDER if metadata.get(name) not in (None, "")},
    }
    result.update((name, value) for name, value in body.items() if name not in result)
    return result


def item_prefix(resource: Resource) -> bytes:
    """Give the bytes that an encoded object has before `"metadata"` and a list item has not."""
    return f'{{"kind":"{resource.kind}","apiVersion":"{resource.api_version}",'.encode()


def event_line(kind: str, encoded: bytes) -> bytes:
    """Give one line of a watch answer; `kind` is ADDED, MODIFIED, DELETED, BOOKMARK or ERROR."""
    return b"".join((b'{"type":"', kind.encode(), b'","object":', encoded, b"}\n"))


def bookmark_object(resource: Resource, resource_version: int, annotations: dict[str, str] | None = None) -> Json:
    """Give the bare object of a bookmark: a version, and the fields the kind cannot leave out."""
    metadata: Json = {"resourceVersion": str(resource_version)}
    if annotations:
        metadata["annotations"] = annotations
    return {"kind": resource.kind, "apiVersion": resource.api_version, "metadata": metadata, **resource.bookmark}
