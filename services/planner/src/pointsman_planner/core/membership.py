# SPDX-License-Identifier: Apache-2.0
"""Who is a member, judged from what the store says and from when it said so; no IO, no clock.

A member that is missing in a listing has let its lease run out, or has left: it is gone at once. Unless the store
itself was away, or is another one: then every lease has run out for want of a store, and the members are kept for one
more lease, which is time for the living to come back. While the store is away nothing changes: membership is frozen.
"""

from __future__ import annotations

from collections.abc import Iterable

from pointsman_planner.core.ownership import Member


class Membership:
    """The members as this planner sees them."""

    def __init__(self, *, lease_seconds: float) -> None:
        self._lease_seconds = lease_seconds
        self._members: dict[str, Member] = {}
        self._epoch = ""
        self._listed_at: float | None = None
        self._kept_until = 0.0

    @property
    def members(self) -> tuple[Member, ...]:
        """By id."""
        return tuple(self._members[key] for key in sorted(self._members))

    @property
    def is_known(self) -> bool:
        """Whether the store was ever listed."""
        return self._listed_at is not None

    def is_frozen(self, now: float) -> bool:
        """Whether the last listing is too old to know who lives."""
        return self._listed_at is None or now - self._listed_at > self._lease_seconds

    def take(self, listed: Iterable[Member], *, epoch: str, now: float) -> bool:
        """Take in a listing made `now`; returns whether the members changed."""
        was_away = self._listed_at is not None and now - self._listed_at > 0.75 * self._lease_seconds
        if was_away or epoch != self._epoch:
            self._kept_until = now + self._lease_seconds
        self._epoch, self._listed_at = epoch, now
        found = {member.planner_id: member for member in listed}
        if now < self._kept_until:
            found = self._members | found
        is_changed = found != self._members
        self._members = found
        return is_changed
