# SPDX-License-Identifier: Apache-2.0
"""What a reflector does next: list or watch, from which version, after which delay. Sans-IO.

                 +-----------------------------------------------------------+
                 |                   410: history is gone                    |
                 v                                                           |
    start -> INITIAL --- all pages, or initial events and their end ---> WATCHING --+
                 |  ^                                                     |      ^  |
                 +--+ failure: wait, again                                +------+  | ended, lost, stalled:
                 |                                                                  | same version, no list
                 |  ^                                                     |
                 |  +-- the server is older than what was read --- PROBE <+ after a connection was lost
                 |
                 +--- 404 of an optional resource ---> ABSENT (empty; looks again) -+

A watch from a version that the server has not reached waits for it in silence. So where the connection was lost, the
server's present version is asked for first (one object is listed): one that was restored from a backup is listed anew
at once.

The driver asks `next_request`, waits `delay_seconds`, sends it, and tells what came of it. Nothing here reads a clock
or a socket, so every way through is a unit test.
"""

import random
from dataclasses import dataclass
from enum import Enum
from typing import Final

from pointsman_chassis.backoff import Backoff
from pointsman_model.cluster import version_number
from pointsman_watcher.core.resources import Resource
from pointsman_watcher.settings import KubernetesSettings

_GONE: Final = 410
_NO_ANSWER_TO_PROBE: Final = frozenset({400, 403, 404, 405, 410, 415, 422})
"""Refusals that asking again would not change: the watch goes on without knowing the version."""
_STALE_PAGES_MAX: Final = 2
_GARBAGE_MAX: Final = 3
_PAGE_SIZE_DIVISOR: Final = 8


class Phase(Enum):
    """Where a reflector stands."""

    INITIAL = "initial"
    WATCHING = "watching"
    ABSENT = "absent"


class Ending(Enum):
    """Why a watch ended."""

    CLOSED = "closed"
    """The server ended it in order."""
    LOST = "lost"
    """The connection broke."""
    STALLED = "stalled"
    """Nothing came for too long."""
    GARBAGE = "garbage"
    """A line that is no event."""
    ERROR = "error"
    """An ERROR event."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One GET."""

    is_watch: bool
    is_initial: bool
    """Whether its answer is (part of) a complete list; a GET that is neither a watch nor this asks for the version."""
    parameters: tuple[tuple[str, str], ...]


class ReflectorMachine:
    """The state of one reflector."""

    def __init__(self, resource: Resource, settings: KubernetesSettings, *, random_source: random.Random) -> None:
        self._resource = resource
        self._settings = settings
        self._random = random_source
        self._backoff = Backoff(
            initial_seconds=settings.backoff_initial,
            maximum_seconds=settings.backoff_max,
            random_source=random_source,
        )
        self.phase = Phase.INITIAL
        self.resource_version = ""
        self.delay_seconds = 0.0
        self._uses_watch_list = settings.initial_list == "watchList"
        self._uses_field_selector = bool(resource.field_selector)
        self._page_size = settings.page_size
        self._continue_token = ""
        self._stale_pages = 0
        self._garbage_count = 0
        self._was_listed = False
        self._doubts_version = False

    @property
    def way(self) -> str:
        """How the state is being listed, for metrics: `watch_list` or `chunked_list`."""
        return "watch_list" if self._uses_watch_list else "chunked_list"

    def next_request(self) -> Request:
        """What to ask now, once `delay_seconds` have passed."""
        if self.phase is Phase.WATCHING and self._doubts_version:
            return Request(is_watch=False, is_initial=False, parameters=(*self._selectors(), ("limit", "1")))
        if self.phase is Phase.WATCHING:
            return self._watch((("resourceVersion", self.resource_version),), is_initial=False)
        if self._uses_watch_list and self.phase is Phase.INITIAL:
            initial = (
                ("sendInitialEvents", "true"),
                ("resourceVersionMatch", "NotOlderThan"),
                ("resourceVersion", ""),
            )
            return self._watch(initial, is_initial=True)
        pages = [("limit", str(self._page_size))] if self._page_size else []
        if self._continue_token:
            pages.append(("continue", self._continue_token))
        return Request(is_watch=False, is_initial=True, parameters=(*self._selectors(), *pages))

    def page_received(self, resource_version: str, continue_token: str) -> bool:
        """A page came; returns whether the list is complete with it. The driver collects the items."""
        self.delay_seconds = 0.0
        self._continue_token = continue_token
        if continue_token:
            return False
        self._listed(resource_version)
        return True

    def version_probed(self, resource_version: str) -> bool:
        """The server's version came; returns whether it is older than what was read: then all is listed anew."""
        self._doubts_version = False
        is_older = 0 < version_number(resource_version) < version_number(self.resource_version)
        if is_older:
            self._restart()
        return is_older

    def initial_events_ended(self, resource_version: str) -> None:
        """The bookmark that closes the initial events of a WatchList came; the same stream goes on as a watch."""
        self._listed(resource_version)

    def version_seen(self, resource_version: str) -> None:
        """An event or bookmark of a watch was applied: the next watch starts here, and past failures are over."""
        if resource_version:
            self.resource_version = resource_version
        self._garbage_count = 0
        self._backoff.reset()

    def refused(self, status: int, message: str, *, retry_after_seconds: float | None = None) -> str:
        """An HTTP error answered the request; returns what is done about it, in words for the log.

        Falling back (selectors, WatchList, paging) costs no delay; anything else waits.
        """
        self.delay_seconds = 0.0
        if status in _NO_ANSWER_TO_PROBE:
            self._doubts_version = False
        if status == _GONE:
            return self._gone()
        if status == 404 and self._resource.is_optional and not self._was_listed:
            # Only where it never was: a starting API server may answer 404 before all its groups are installed, and
            # that must not remove what is known.
            self.phase, self._continue_token = Phase.ABSENT, ""
            self.delay_seconds = self._settings.absent_probe_interval
            return "the API server does not serve it; taken as empty"
        if status in {400, 403, 415, 422} and self.phase is not Phase.WATCHING:
            fallback = self._fall_back(status, message)
            if fallback:
                return fallback
        if status == 400 and self._continue_token:
            self._continue_token = ""
            return self._wait("the continue token is not understood; the list starts again", retry_after_seconds)
        return self._wait("trying again", retry_after_seconds)

    def page_too_large(self) -> str:
        """The page exceeded the limit on bytes: ask for fewer objects at a time."""
        if self._page_size > 1:
            self._page_size = max(1, self._page_size // _PAGE_SIZE_DIVISOR)
            self.delay_seconds = 0.0
            return f"asking for {self._page_size} objects at a time"
        self._page_size = self._page_size or self._settings.page_size
        return self._wait("a single object exceeds the limit; trying again", None)

    def unanswered(self) -> str:
        """No answer: connection refused, name not found, TLS failure, timeout; or a list that is no list."""
        self._doubts_version = self.phase is Phase.WATCHING
        return self._wait("trying again", None)

    def watch_ended(self, ending: Ending, *, brought_events: bool, code: int = 0) -> str:
        """A watch is over. It continues where it was; no list, unless history is gone."""
        self.delay_seconds = 0.0
        if ending is Ending.ERROR and code == _GONE:
            return self._gone()
        self._doubts_version = self.phase is Phase.WATCHING and ending in {Ending.LOST, Ending.STALLED}
        if ending is Ending.STALLED and self.phase is Phase.INITIAL:
            # A server (or a proxy in front of it) that does not know sendInitialEvents sends ADDED events and no end.
            self._uses_watch_list = False
            return "no end of the initial events; listing in pages instead"
        if ending is Ending.GARBAGE:
            self._garbage_count += 1
            if self._garbage_count >= _GARBAGE_MAX:
                self._garbage_count = 0
                self._restart()
                return self._wait("the same place of the watch cannot be read again and again; listing anew", None)
            return self._wait("watching again from the last readable event", None)
        if ending is not Ending.ERROR and brought_events and self.phase is Phase.WATCHING:
            return "watching on"
        return self._wait("watching again", None)

    def _watch(self, start: tuple[tuple[str, str], ...], *, is_initial: bool) -> Request:
        low, high = self._settings.watch_duration_min, self._settings.watch_duration_max
        seconds = max(1, round(self._random.uniform(low, high)))
        parameters = (
            *self._selectors(),
            ("watch", "1"),
            ("allowWatchBookmarks", "true"),
            *start,
            ("timeoutSeconds", str(seconds)),
        )
        return Request(is_watch=True, is_initial=is_initial, parameters=parameters)

    def _selectors(self) -> tuple[tuple[str, str], ...]:
        selectors: list[tuple[str, str]] = []
        if self._resource.label_selector:
            selectors.append(("labelSelector", self._resource.label_selector))
        if self._uses_field_selector:
            selectors.append(("fieldSelector", self._resource.field_selector))
        return tuple(selectors)

    def _listed(self, resource_version: str) -> None:
        self.phase = Phase.WATCHING
        self.resource_version = resource_version
        self.delay_seconds = 0.0
        self._continue_token = ""
        self._stale_pages = self._garbage_count = 0
        self._page_size = self._settings.page_size
        self._was_listed = True

    def _restart(self) -> None:
        self.phase = Phase.INITIAL
        self._continue_token = ""

    def _gone(self) -> str:
        """410: of a watch, history is compacted; of a list, the continue token is.

        The token that comes with the latter would finish the list inconsistently, with objects of two points in time
        and none of what was deleted between them, so the list starts again. Twice; then it is asked for in one piece,
        as client-go does, because a cluster that compacts faster than it pages would never be listed.
        """
        was_paging = bool(self._continue_token)
        self._restart()
        if not was_paging:
            # The delay is reset by the first event of a watch, so a server that says 410 to every watch, however new
            # its list, is asked ever more slowly.
            return self._wait("history is gone; listing anew", None)
        self._stale_pages += 1
        if self._stale_pages > _STALE_PAGES_MAX:
            self._page_size = 0
            return "the list was compacted under our hands again; asking for it in one piece"
        return "the list was compacted under our hands; listing anew"

    def _fall_back(self, status: int, message: str) -> str | None:
        """Ask for less, where the server understands less; None when nothing is left to give up."""
        blames_selector = "field label" in message or "field selector" in message.lower() or "fieldSelector" in message
        if self._uses_field_selector and status in {400, 422} and (blames_selector or not self._uses_watch_list):
            if not self._continue_token:
                self._uses_field_selector = False
                return "the field selector is refused; filtering here instead"
            return None
        if self._uses_watch_list and (
            status != 403 or "sendInitialEvents" in message or "resourceVersionMatch" in message
        ):
            self._uses_watch_list = False
            return "WatchList is refused; listing in pages instead"
        return None

    def _wait(self, words: str, retry_after_seconds: float | None) -> str:
        self.delay_seconds = max(self._backoff.next_seconds(), retry_after_seconds or 0.0)
        return f"{words} in {self.delay_seconds:.1f} s"
