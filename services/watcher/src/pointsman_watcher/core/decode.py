# SPDX-License-Identifier: Apache-2.0
"""Bytes of the API server to changes with encoded objects: list pages and watch lines.

The way of almost all bytes is one typed decode, conversion to the vocabulary, and encoding as the wire form that every
subscriber is sent. When the typed decode of a page fails, the page is cut into its items and each is decoded alone, so
that a hostile object costs one report and nothing else. An object that cannot be decoded is `Rejected`, which is not
"removed": whoever keeps state keeps what it had (fail static).
"""

from typing import Any, Final, NamedTuple

import msgspec

from pointsman_model.cluster import ClusterObject, ObjectKey, ObjectKind
from pointsman_model.names import is_object_name
from pointsman_model.wire.cluster import object_to_pb, serialize
from pointsman_watcher.core.api_objects import (
    IdentityObject,
    SliceMetadata,
    StatusObject,
    TypedEvent,
    TypedPage,
)
from pointsman_watcher.core.problems import Problem, Problems, quote
from pointsman_watcher.core.resources import Resource
from pointsman_watcher.core.services import UnusableError

BODY_BYTES_MAX: Final = (1 << 20) - (4 << 10)
"""Largest encoded object: with its envelope it must fit into one message of 1 MiB."""


class Observed(NamedTuple):
    """One object as the API server has it now."""

    key: ObjectKey
    body: bytes | None
    """Encoded `pointsman.cluster.v1.Change` with only the object; None: it is gone, or not ours to program."""
    resource_version: str
    problems: tuple[Problem, ...] = ()


class Rejected(NamedTuple):
    """An object that cannot be read; its last good state stays. `key` None: not even its name can be read."""

    key: ObjectKey | None
    problem: Problem
    resource_version: str = ""


class Bookmark(NamedTuple):
    """The watch has seen everything up to this version; `ends_initial` closes the initial events of a WatchList."""

    resource_version: str
    ends_initial: bool


class WatchFailure(NamedTuple):
    """An ERROR event: the API server ends the watch for this reason."""

    code: int
    message: str


class Garbage(NamedTuple):
    """A line that is not a watch event. What it said is lost, so the watch must start again before it."""

    message: str


Item = Observed | Rejected
WatchEvent = Observed | Rejected | Bookmark | WatchFailure | Garbage


class Page(NamedTuple):
    """One decoded page of a list."""

    items: list[Item]
    resource_version: str
    continue_token: str


class PageError(ValueError):
    """A body that is no list at all."""


_NAMESPACED: Final = frozenset({ObjectKind.SERVICE, ObjectKind.ENDPOINT_SLICE})
_UNDECODABLE: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What msgspec raises for bytes that are no JSON of the wanted type; invalid UTF-8 is an error of its own."""

_RAW_PAGE: Final = msgspec.json.Decoder(TypedPage[msgspec.Raw])
_RAW_EVENT: Final = msgspec.json.Decoder(TypedEvent[msgspec.Raw])
_IDENTITY: Final = msgspec.json.Decoder(IdentityObject)
_STATUS: Final = msgspec.json.Decoder(StatusObject)


class _BookmarkObject(msgspec.Struct, frozen=True):
    metadata: SliceMetadata = SliceMetadata()


_BOOKMARK: Final = msgspec.json.Decoder(_BookmarkObject)


def decode_page(resource: Resource, body: bytes) -> Page:
    """Decode one page of a list.

    Raises:
        PageError: the body is not a list of objects.
    """
    try:
        page = resource.page_decoder.decode(body)
        items = [_observe(resource, item) for item in page.items or ()]
    except _UNDECODABLE:
        try:
            page = _RAW_PAGE.decode(body)
        except _UNDECODABLE as error:
            raise PageError(f"the answer is not a list of {resource.plural}: {error}") from error
        items = [_decode_object(resource, raw) for raw in page.items or ()]
    return Page(items, page.metadata.resource_version, page.metadata.continue_token)


def decode_event(resource: Resource, line: bytes) -> WatchEvent:
    """Decode one line of a watch. Never raises for anything a server may send."""
    try:
        event = resource.event_decoder.decode(line)
    except _UNDECODABLE:
        return _decode_raw_event(resource, line)
    if event.type in {"ADDED", "MODIFIED"}:
        return _observe(resource, event.object)
    if event.type == "DELETED":
        return _deleted(resource, event.object.metadata)
    return _decode_raw_event(resource, line)


def _decode_raw_event(resource: Resource, line: bytes) -> WatchEvent:
    """Everything but the ordinary: bookmarks, errors, objects that do not decode, what is no event."""
    try:
        event = _RAW_EVENT.decode(line)
        if event.type in {"ADDED", "MODIFIED"}:
            return _decode_object(resource, event.object)
        if event.type == "DELETED":
            return _deleted(resource, _IDENTITY.decode(event.object).metadata)
        if event.type == "BOOKMARK":
            metadata = _BOOKMARK.decode(event.object).metadata
            ends = metadata.annotations is not None and metadata.annotations.initial_events_end == "true"
            return Bookmark(metadata.resource_version, ends)
        if event.type == "ERROR":
            status = _STATUS.decode(event.object)
            return WatchFailure(status.code, status.message or status.reason)
    except _UNDECODABLE as error:
        return Garbage(f"{error}; the line begins with {quote(line[:64])}")
    return Garbage(f"event type {quote(event.type)} is not known")


def decode_status(body: bytes) -> StatusObject:
    """The Status in the body of an error answer; an empty one when the body is something else."""
    try:
        return _STATUS.decode(body)
    except _UNDECODABLE:
        return StatusObject(message=body[:200].decode("utf-8", "replace").strip())


def _decode_object(resource: Resource, raw: msgspec.Raw) -> Item:
    """One object by itself; the fault is named by field when it does not decode."""
    try:
        api = resource.object_decoder.decode(raw)
    except _UNDECODABLE as error:
        return _reject(resource, raw, error)
    return _observe(resource, api)


def _reject(resource: Resource, raw: msgspec.Raw, error: Exception) -> Rejected:
    message, _, path = str(error).partition(" - at `$")
    problem = Problem(
        path.rstrip("`").lstrip(".") or "object", f"{message}; the object is ignored, its last good state stays"
    )
    try:
        names = _IDENTITY.decode(raw).metadata
    except _UNDECODABLE:
        return Rejected(None, problem)
    key = _key(resource, names.namespace, names.name) if names.name else None
    return Rejected(key, problem, names.resource_version)


def _observe(resource: Resource, api: Any) -> Item:
    """Convert and encode one decoded object."""
    metadata = api.metadata
    version: str = metadata.resource_version
    if not is_object_name(metadata.name):
        said = "empty" if not metadata.name else f"{quote(metadata.name)} is no name"
        return Rejected(None, Problem("metadata.name", f"{said}; the object is ignored"), version)
    key = _key(resource, metadata.namespace, metadata.name)
    if resource.kind in _NAMESPACED and not is_object_name(key.namespace):
        said = "empty" if not key.namespace else f"{quote(key.namespace)} is no name"
        return Rejected(None, Problem("metadata.namespace", f"{said}; the object is ignored"), version)
    problems: Problems = []
    try:
        value = resource.convert(api, problems)
        body = _encode(key, value) if value is not None else None
    except UnusableError as error:
        return Rejected(
            key, Problem(error.field, f"{error}; the object is ignored, its last good state stays"), version
        )
    return Observed(key, body, version, tuple(problems))


def _encode(key: ObjectKey, value: ClusterObject) -> bytes:
    """The wire form; UnusableError when it could not be sent."""
    try:
        body = serialize(object_to_pb(key, value))
    except (ValueError, UnicodeError) as error:
        # A lone surrogate in a label or name: legal JSON, but neither UTF-8 nor a Kubernetes name.
        raise UnusableError("object", f"cannot be encoded ({error})") from error
    if len(body) > BODY_BYTES_MAX:
        raise UnusableError("object", f"{len(body)} bytes when encoded, at most {BODY_BYTES_MAX} can be sent")
    return body


def _deleted(resource: Resource, metadata: Any) -> WatchEvent:
    if not metadata.name:
        return Garbage("a DELETED event does not name its object")
    return Observed(_key(resource, metadata.namespace, metadata.name), None, metadata.resource_version)


def _key(resource: Resource, namespace: str, name: str) -> ObjectKey:
    return ObjectKey(resource.kind, namespace if resource.kind in _NAMESPACED else "", name)
