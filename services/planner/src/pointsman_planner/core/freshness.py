# SPDX-License-Identifier: Apache-2.0
"""Watchers are interchangeable, and one may have read less of the API server than another: nothing goes back in time.

What a planner holds is as new as the newest change it took in, kind by kind: the *floor*. Another watcher, or the same
one after a relist, is taken in only when it has read at least that far. Bookmarks do not raise the floor: two watchers
with equal objects get theirs at different moments, and neither is older. A removal that names no version (somebody
found it missing in a list) is as new as that list, bookmarks included; so it counts for a moment only, in which a
watcher that merely lags catches up, and an idle one is not shut out until its next bookmark.

An API server that was restored from a backup really is older, and never catches up. So what is older is believed after
a time, with an alarm: long enough that a watcher that merely lags has caught up, and that somebody may look.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from pointsman_model.cluster import Change, ObjectKind, ResourceVersions, version_number


class OlderWatcherError(Exception):
    """The watcher has read less than what is held; the message says of what."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FreshnessSettings:
    """How long what is older than the floor is not believed."""

    hold_seconds: float = 60.0
    """From the first older state until one is taken in all the same."""
    patience_seconds: float = 2.0
    """How long one watcher is waited for before another is tried."""
    removal_seconds: float = 5.0
    """How long a removal without a version raises the floor."""


class Freshness:
    """The floor, kept across streams. `on_older` hears when something older is believed, with the reason."""

    def __init__(
        self,
        settings: FreshnessSettings | None = None,
        *,
        now: Callable[[], float] = time.monotonic,
        on_older: Callable[[str], None] | None = None,
    ) -> None:
        self.settings = settings or FreshnessSettings()
        self._now = now
        self._on_older = on_older
        self._held_since: float | None = None
        self._lasting = ResourceVersions()
        self._passing = ResourceVersions()
        self._passing_until = 0.0

    @property
    def floor(self) -> ResourceVersions:
        """How far a watcher must have read now, at least."""
        if self._now() >= self._passing_until:
            return self._lasting
        return ResourceVersions(*map(max, self._lasting, self._passing))

    @property
    def is_holding(self) -> bool:
        """Whether something older was seen, and nothing newer since."""
        return self._held_since is not None

    @property
    def hold_left_seconds(self) -> float:
        """How long something older is still not believed."""
        held_since = self._now() if self._held_since is None else self._held_since
        return max(held_since + self.settings.hold_seconds - self._now(), 0.0)

    def admits(self, versions: ResourceVersions) -> bool:
        """Whether a state that was read up to here may be taken in now; unknown versions count as new."""
        missing = self._missing(versions)
        if not missing:
            self._held_since = None
            return True
        if self._held_since is None:
            self._held_since = self._now()
        if self.hold_left_seconds > 0:
            return False
        if self._on_older is not None:
            self._on_older(self.describe(versions))
        self._held_since = None
        self._lasting = self._passing = ResourceVersions()
        return True

    def describe(self, versions: ResourceVersions) -> str:
        """What is missing, in words."""
        behind = (
            f"{kind.name.lower()} objects up to {versions.of(kind)}, held are {self.floor.of(kind)}"
            for kind in self._missing(versions)
        )
        return f"the watcher has read {' and '.join(behind)}"

    def taken(self, changes: Iterable[Change], versions: ResourceVersions) -> None:
        """These changes are held now."""
        for change in changes:
            kind = change.key.kind
            version = version_number(change.resource_version)
            if version > self._lasting.of(kind):
                self._lasting = self._lasting.having(kind, version)
            elif not version and change.value is None:
                self._passing = self._passing.having(kind, versions.of(kind))
                self._passing_until = self._now() + self.settings.removal_seconds

    def _missing(self, versions: ResourceVersions) -> list[ObjectKind]:
        return [kind for kind in versions.missing(self.floor) if versions.of(kind)]
