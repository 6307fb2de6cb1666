# SPDX-License-Identifier: Apache-2.0
"""Pages of a list that is ordered by name: a token is the last name of the page before, so pages survive any change.

An object that is added or removed between two calls is seen or not, but nothing else is skipped or repeated. A page is
shorter than was asked for where its objects are large: a client takes messages of 4 MiB if it was told nothing else.
"""

from __future__ import annotations

import base64
import binascii
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypeVar

from google.protobuf.message import Message

from pointsman_chassis.errors import PeerError

SIZE_DEFAULT = 500
SIZE_MAX = 5000
BYTES_MAX = 1 << 20
"""Of one page, but for an object that is larger alone."""
M = TypeVar("M", bound=Message)


class Page(NamedTuple):
    """Keys of one page, and the token of the next; empty on the last."""

    keys: Sequence[tuple[str, ...]]
    next_token: str


def page_of(keys: Sequence[tuple[str, ...]], size: int, token: str) -> Page:
    """The page of sorted `keys` that begins after `token`.

    Raises:
        PeerError: the size is negative, or the token is none of ours.
    """
    if size < 0:
        raise PeerError(f"page_size: {size} is negative")
    count = min(size or SIZE_DEFAULT, SIZE_MAX)
    start = bisect_right(keys, _decode(token)) if token else 0
    page = keys[start : start + count]
    is_last = start + count >= len(keys)
    return Page(page, "" if is_last else _encode(page[-1]))


def fitting(page: Page, objects: Iterable[M]) -> tuple[list[M], str]:
    """The first objects of a page that may be one answer, at least one, and the token of what comes after them.

    `objects` are those of the page's keys, in order; what does not fit is not asked for.
    """
    found: list[M] = []
    left = BYTES_MAX
    for each in objects:
        left -= each.ByteSize()
        if found and left < 0:
            return found, _encode(page.keys[len(found) - 1])
        found.append(each)
    return found, page.next_token


def _encode(key: tuple[str, ...]) -> str:
    return base64.urlsafe_b64encode("\0".join(key).encode()).decode()


def _decode(token: str) -> tuple[str, ...]:
    try:
        return tuple(base64.b64decode(token.encode(), altchars=b"-_", validate=True).decode().split("\0"))
    except (binascii.Error, UnicodeError) as error:
        raise PeerError("page_token: not a token of an earlier page; begin again without one") from error
