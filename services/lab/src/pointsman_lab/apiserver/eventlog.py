# SPDX-License-Identifier: Apache-2.0
"""What happened to one resource: stored objects, the bounded log of changes, and how a change looks on a watch.

The log is the only queue there is: a watch is a cursor over it, an old list is the present with the log undone, and
compaction is forgetting its older part. So a slow client costs nothing but its own 410.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from operator import attrgetter
from typing import TYPE_CHECKING, Final

from pointsman_lab.apiserver.encoding import Json, decode_json, encode_json, event_line, ordered

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pointsman_lab.apiserver.resources import Resource

ADDED: Final = "ADDED"
MODIFIED: Final = "MODIFIED"
DELETED: Final = "DELETED"
BOOKMARK: Final = "BOOKMARK"
ERROR: Final = "ERROR"

_TRIM_SHARE: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredObject:
    """One object at one version: its bytes, and the few facts that selectors and keys need.

    The bytes are the truth and `decode` gives a fresh dict each time, so nobody can change a stored object by
    accident, and ten thousand objects are not ten million dicts for the garbage collector to walk.
    """

    key: str
    resource_version: int
    encoded: bytes
    labels: Mapping[str, str]
    fields: Mapping[str, str]

    def decode(self) -> Json:
        """Give the object as a dict of its own."""
        body: Json = decode_json(self.encoded)
        return body

    @property
    def namespace(self) -> str:
        """The namespace, empty for cluster-scoped objects."""
        return self.fields["metadata.namespace"]

    @property
    def name(self) -> str:
        """The object's name."""
        return self.fields["metadata.name"]


def object_key(namespace: str, name: str) -> str:
    """Give the key of an object in its collection; keys sort as they do in etcd, by `namespace/name`."""
    return f"{namespace}/{name}" if namespace else name


def store_form(resource: Resource, body: Json, resource_version: int) -> StoredObject:
    """Stamp `body` with the version and encode it, once for all readers."""
    metadata = body["metadata"]
    metadata["resourceVersion"] = str(resource_version)
    namespace = metadata.get("namespace") or ""
    fields = {"metadata.name": metadata["name"], "metadata.namespace": namespace}
    for path in resource.selectable:
        fields[path] = _field_text(body, path)
    return StoredObject(
        key=object_key(namespace, metadata["name"]),
        resource_version=resource_version,
        encoded=encode_json(ordered(resource, body)),
        labels=metadata.get("labels") or {},
        fields=fields,
    )


def _field_text(body: Json, path: str) -> str:
    value: object = body
    for part in path.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None or isinstance(value, (dict, list)) else str(value)


@dataclass(slots=True, kw_only=True)
class Event:
    """One change: the object before and after it, and when it was committed (seconds of the store's clock)."""

    resource_version: int
    before: StoredObject | None
    after: StoredObject | None
    committed_at: float
    _lines: dict[str, bytes] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """The key of the changed object."""
        known = self.after or self.before
        if known is None:
            raise ValueError("an event needs an object before it or after it")
        return known.key

    def line(self, kind: str) -> bytes:
        """Give the watch line, encoded at most once for all watchers."""
        line = self._lines.get(kind)
        if line is None:
            line = self._lines[kind] = event_line(kind, self.encoded(kind))
        return line

    def encoded(self, kind: str) -> bytes:
        """Give the object as this kind of event shows it: for DELETED the last state seen with the new version."""
        if kind != DELETED and self.after is not None:
            return self.after.encoded
        if self.before is None:
            raise ValueError(f"no object to show as {kind} at {self.resource_version}")
        body = self.before.decode()
        body["metadata"]["resourceVersion"] = str(self.resource_version)
        return encode_json(body)


class EventLog:
    """The changes of one resource in order, at most `capacity` of them.

    `compacted` is the newest forgotten resource version: history is complete after it, and only after it.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._events: list[Event] = []
        self.compacted = 0

    def append(self, event: Event) -> None:
        """Remember a change; the oldest part goes when the log is over its capacity."""
        self._events.append(event)
        excess = len(self._events) - self._capacity
        if excess > self._capacity // _TRIM_SHARE:
            self.compacted = self._events[excess - 1].resource_version
            del self._events[:excess]

    def compact(self, resource_version: int) -> None:
        """Forget every change up to and including this version."""
        end = bisect_right(self._events, resource_version, key=attrgetter("resource_version"))
        del self._events[:end]
        self.compacted = max(self.compacted, resource_version)

    def after(self, resource_version: int, limit: int | None = None) -> list[Event]:
        """Give the changes newer than a version, oldest first, at most `limit`."""
        start = bisect_right(self._events, resource_version, key=attrgetter("resource_version"))
        return self._events[start : None if limit is None else start + limit]

    def __len__(self) -> int:
        return len(self._events)
