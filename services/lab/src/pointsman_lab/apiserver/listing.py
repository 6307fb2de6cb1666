# SPDX-License-Identifier: Apache-2.0
"""Lists: which objects, at which resource version, in which chunks.

A chunked list stays at the version of its first chunk: later chunks read the past from the event log. When that past
is compacted the answer is 410 with a token that goes on from the same place in the present, as a real server gives.
"""

from __future__ import annotations

import base64
import binascii
from bisect import bisect_left
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec

from pointsman_lab.apiserver import errors
from pointsman_lab.apiserver.encoding import encode_json, item_prefix
from pointsman_lab.apiserver.selectors import EVERYTHING, Selector

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pointsman_lab.apiserver.eventlog import StoredObject
    from pointsman_lab.apiserver.resources import Resource
    from pointsman_lab.apiserver.store import Collection

INCONSISTENT: Final = -1
_TOKEN_VERSION: Final = "meta.k8s.io/v1"  # noqa: S105 - the name of a format, no secret


class _Token(msgspec.Struct):
    v: str
    rv: int
    start: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ListOptions:
    """What a list asks for; `resource_version` and `match` are the raw query values."""

    namespace: str = ""
    selector: Selector = EVERYTHING
    limit: int = 0
    continue_token: str = ""
    resource_version: str = ""
    match: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """One answer: objects in key order, the version they are at, and how to go on (`continue_token`, or empty)."""

    resource_version: int
    objects: Sequence[StoredObject]
    continue_token: str = ""
    remaining: int | None = None

    @property
    def metadata(self) -> dict[str, object]:
        """The list's metadata object."""
        metadata: dict[str, object] = {"resourceVersion": str(self.resource_version)}
        if self.continue_token:
            metadata["continue"] = self.continue_token
        if self.remaining is not None:
            metadata["remainingItemCount"] = self.remaining
        return metadata


def list_objects(collection: Collection, revision: int, options: ListOptions) -> Listing:
    """List a collection of a store whose present version is `revision`.

    Raises:
        ApiError: 410 for a compacted version or token, 400 and 422 for options that make no sense, 504 for a version
            from the future.
    """
    start = ""
    if options.continue_token:
        if options.resource_version not in ("", "0"):
            raise errors.bad_request("specifying resource version is not allowed when using continue")
        token = _parse_token(options.continue_token)
        start, at = token.start.lstrip("/"), _continue_version(collection, revision, token)
    else:
        at = _list_version(collection, revision, options)
    objects = collection.at(at)
    keys = collection.keys() if objects is collection.objects else sorted(objects)
    return _page(objects, _range(keys, options.namespace, start), at, options)


def _list_version(collection: Collection, revision: int, options: ListOptions) -> int:
    asked, match = options.resource_version, options.match
    if not asked:
        if match:
            why = "resourceVersionMatch is forbidden unless resourceVersion is provided"
            raise _invalid_options(errors.forbidden_field("resourceVersionMatch", why))
        return revision
    version = parse_version(asked)
    if match not in ("", "Exact", "NotOlderThan"):
        raise _invalid_options(errors.not_supported("resourceVersionMatch", match, ("Exact", "NotOlderThan", "")))
    exact = match == "Exact" or (not match and options.limit > 0 and version > 0)
    if version == 0 and match == "Exact":
        why = 'resourceVersionMatch "Exact" is forbidden for resourceVersion "0"'
        raise _invalid_options(errors.forbidden_field("resourceVersionMatch", why))
    if version > revision:
        raise errors.too_large_resource_version(version, revision)
    if not exact:
        return revision
    if version < collection.log.compacted:
        raise errors.list_expired()
    return version


def _invalid_options(cause: errors.Cause) -> errors.ApiError:
    causes = [{"reason": cause.reason, "message": cause.message, "field": cause.field}]
    details = {"group": "meta.k8s.io", "kind": "ListOptions", "causes": causes}
    message = f'ListOptions.meta.k8s.io "" is invalid: {cause.field}: {cause.message}'
    return errors.ApiError(422, "Invalid", message, details=details)


def parse_version(text: str) -> int:
    """Parse a resourceVersion; empty is 0.

    Raises:
        ApiError: 400 when it is no unsigned number.
    """
    if not text:
        return 0
    if not text.isascii() or not text.isdigit():
        raise errors.bad_request(f'invalid resource version: "{text}"')
    return int(text)


def _parse_token(text: str) -> _Token:
    try:
        padded = text + "=" * (-len(text) % 4)
        token = msgspec.json.decode(base64.b64decode(padded, altchars=b"-_", validate=True), type=_Token)
    except (binascii.Error, msgspec.DecodeError, UnicodeError) as error:
        raise errors.bad_request(f"invalid continue token: continue key is not valid: {error}") from error
    if token.v != _TOKEN_VERSION:
        raise errors.bad_request(f"invalid continue token: version {token.v!r} is not recognized")
    return token


def _write_token(version: int, start: str) -> str:
    raw = encode_json({"v": _TOKEN_VERSION, "rv": version, "start": start})
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _continue_version(collection: Collection, revision: int, token: _Token) -> int:
    if token.rv == INCONSISTENT:
        return revision
    if token.rv < collection.log.compacted or token.rv > revision:
        raise errors.continue_expired(_write_token(INCONSISTENT, token.start.lstrip("/")))
    return token.rv


def _range(keys: list[str], namespace: str, start: str) -> list[str]:
    first, last = start, None
    if namespace:
        first = max(start, f"{namespace}/")
        last = bisect_left(keys, f"{namespace}0")  # "0" is the character after "/"
    if not first and last is None:
        return keys
    return keys[bisect_left(keys, first) : last]


def _page(objects: Mapping[str, StoredObject], keys: list[str], at: int, options: ListOptions) -> Listing:
    selector, limit = options.selector, options.limit
    if selector.everything:
        page = keys if not limit or limit >= len(keys) else keys[:limit]
        if len(page) == len(keys):
            return Listing(resource_version=at, objects=[objects[key] for key in keys])
        return Listing(
            resource_version=at,
            objects=[objects[key] for key in page],
            continue_token=_write_token(at, f"/{page[-1]}\0"),
            remaining=len(keys) - len(page),
        )
    chosen: list[StoredObject] = []
    for key in keys:
        stored = objects[key]
        if not selector.matches(stored.labels, stored.fields):
            continue
        if limit and len(chosen) == limit:
            token = _write_token(at, f"/{chosen[-1].key}\0")
            return Listing(resource_version=at, objects=chosen, continue_token=token)
        chosen.append(stored)
    return Listing(resource_version=at, objects=chosen)


def list_bytes(resource: Resource, listing: Listing) -> bytes:
    """Give the JSON of a list; the items are cut out of the stored bytes, not encoded again."""
    cut = len(item_prefix(resource))
    head = {"kind": f"{resource.kind}List", "apiVersion": resource.api_version, "metadata": listing.metadata}
    items = b",{".join(stored.encoded[cut:] for stored in listing.objects)
    return b"".join((encode_json(head)[:-1], b',"items":[', b"{" if items else b"", items, b"]}\n"))
