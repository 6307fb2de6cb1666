# SPDX-License-Identifier: Apache-2.0
"""The bytes of answers in each form: whole objects from the store's own bytes, Tables and metadata on demand."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from pointsman_lab.apiserver.encoding import Json, decode_json, encode_json, event_line
from pointsman_lab.apiserver.listing import list_bytes
from pointsman_lab.apiserver.negotiation import Form
from pointsman_lab.apiserver.tables import PARTIAL_KIND, TABLE_VERSION, partial_metadata, table

if TYPE_CHECKING:
    from pointsman_lab.apiserver.eventlog import Event, StoredObject
    from pointsman_lab.apiserver.listing import Listing
    from pointsman_lab.apiserver.resources import Resource


def render_list(resource: Resource, listing: Listing, form: Form, include: str) -> bytes:
    """Give the body of a list answer."""
    if form is Form.OBJECT:
        return list_bytes(resource, listing)
    bodies = (stored.decode() for stored in listing.objects)
    if form is Form.TABLE:
        return encode_json(table(resource, bodies, listing.metadata, now=time.time(), include=include))
    items = [partial_metadata(body) for body in bodies]
    head = {"kind": f"{PARTIAL_KIND}List", "apiVersion": TABLE_VERSION}
    return encode_json({**head, "metadata": listing.metadata, "items": items})


def render_object(resource: Resource, stored: StoredObject, form: Form, include: str) -> bytes:
    """Give the body of an answer with one object."""
    if form is Form.OBJECT:
        return stored.encoded
    body = stored.decode()
    if form is Form.METADATA:
        return encode_json(partial_metadata(body))
    metadata = {"resourceVersion": str(stored.resource_version)}
    return encode_json(table(resource, [body], metadata, now=time.time(), include=include))


class WatchRenderer:
    """The lines of one watch; whole objects reuse the lines all watchers share."""

    def __init__(self, resource: Resource, form: Form, include: str) -> None:
        self._resource = resource
        self._form = form
        self._include = include
        self._header = True

    def change(self, kind: str, event: Event) -> bytes:
        """Give the line of a change."""
        if self._form is Form.OBJECT:
            return event.line(kind)
        body: Json = decode_json(event.encoded(kind))
        return self._line(kind, body)

    def initial(self, kind: str, stored: StoredObject) -> bytes:
        """Give the line of an object that was there before."""
        if self._form is Form.OBJECT:
            return event_line(kind, stored.encoded)
        return self._line(kind, stored.decode())

    def bookmark(self, kind: str, body: Json) -> bytes:
        """Give the line of a bookmark or another bare object."""
        if self._form is Form.OBJECT:
            return event_line(kind, encode_json(body))
        return self._line(kind, body)

    def _line(self, kind: str, body: Json) -> bytes:
        if self._form is Form.METADATA:
            return event_line(kind, encode_json(partial_metadata(body)))
        metadata = {"resourceVersion": body["metadata"].get("resourceVersion", "")}
        shown = table(self._resource, [body], metadata, now=time.time(), include=self._include, header=self._header)
        self._header = False
        return event_line(kind, encode_json(shown))
