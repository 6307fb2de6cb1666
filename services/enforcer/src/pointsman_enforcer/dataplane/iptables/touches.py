# SPDX-License-Identifier: Apache-2.0
"""Numbers our own writes: what was read while one of them was under way proves nothing about what it wrote. Pure."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from contextlib import contextmanager


class Touches:
    """Which chains and elements we wrote, and when, by count of writes. Belongs to the event loop."""

    def __init__(self) -> None:
        self._number = 0
        self._floor = 0
        self._under_way = 0
        self._last: dict[Hashable, int] = {}

    @property
    def now(self) -> int:
        """To be kept when a read begins."""
        return self._number

    @property
    def is_writing(self) -> bool:
        """Whether a write is under way."""
        return self._under_way > 0

    @property
    def repairs(self) -> int:
        """Grows with each `writing_anything`."""
        return self._floor

    @contextmanager
    def writing(self, things: Iterable[Hashable]) -> Iterator[None]:
        """Around a write of these, whatever comes of it."""
        touched = tuple(things)
        self._touch(touched)
        self._under_way += 1
        try:
            yield
        finally:
            self._under_way -= 1
            self._touch(touched)

    @contextmanager
    def writing_anything(self) -> Iterator[None]:
        """Around a write of whatever it may be: nothing that was read before its end counts."""
        self._raise()
        self._under_way += 1
        try:
            yield
        finally:
            self._under_way -= 1
            self._raise()

    def is_settled(self, thing: Hashable, begun: int) -> bool:
        """Whether a read that began then saw this as it is now."""
        return begun >= self._floor and self._last.get(thing, 0) <= begun

    def forget(self, begun: int) -> None:
        """No read that began before this one counts any more."""
        self._last = {thing: number for thing, number in self._last.items() if number > begun}

    def _raise(self) -> None:
        self._number += 1
        self._floor = self._number
        self._last.clear()

    def _touch(self, things: tuple[Hashable, ...]) -> None:
        self._number += 1
        self._last.update(dict.fromkeys(things, self._number))
