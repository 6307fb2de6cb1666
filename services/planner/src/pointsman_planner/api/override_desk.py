# SPDX-License-Identifier: Apache-2.0
"""Changes of overrides: checked against the rules and against what is there now, written, and then in force here.

Whoever changes an override must have read it: the etag he names must be that of what the store has at that moment,
and the write happens only if it still has it then. Renewals do not change the etag but do change the record, so a
write that lost the race against one is tried again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Final

from pointsman_chassis.clock import Clock
from pointsman_chassis.errors import NotFoundError, PeerError, PointsmanError, StaleVersionError, UnavailableError
from pointsman_planner.core.override import Override, OverrideKey
from pointsman_planner.core.override_advice import warnings
from pointsman_planner.core.override_rules import address_problems, crowd_problems, problems
from pointsman_planner.core.planner import Planner
from pointsman_planner.feed.override_feed import OverrideFeed
from pointsman_planner.override_metrics import OverrideMetrics
from pointsman_planner.store.override_store import OverrideStore, StoredOverride, with_etag
from pointsman_planner.store.port import OutcomeKind, StoreUnavailableError

_ATTEMPTS: Final = 5
_KIND_OF: Final = {
    PeerError: "invalid",
    StaleVersionError: "conflict",
    NotFoundError: "absent",
    UnavailableError: "unavailable",
}


class _LostRaceError(Exception):
    """The record changed between reading and writing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OverrideDesk:
    """Takes wishes of controllers."""

    planner: Planner
    feed: OverrideFeed
    records: OverrideStore
    metrics: OverrideMetrics
    clock: Clock

    async def apply(self, wish: Override, *, validate_only: bool, traceparent: str) -> Override:
        """Create an override, or change the one whose etag `wish` names.

        Raises:
            PeerError: it breaks a rule.
            StaleVersionError: the etag is not the present one.
            UnavailableError: the store does not take it.
        """
        return await self._counted("apply", wish, lambda: self._apply(wish, validate_only, traceparent))

    async def renew(self, key: OverrideKey, etag: str) -> Override:
        """Let an override last for its TTL from now; NotFoundError when it is gone."""
        return await self._counted("renew", self._known(key), lambda: self._renew(key, etag))

    async def delete(self, key: OverrideKey, etag: str, *, validate_only: bool) -> Override:
        """End an override, which is returned as it was."""
        return await self._counted("delete", self._known(key), lambda: self._delete(key, etag, validate_only))

    def advice(self, override: Override) -> list[str]:
        """What deserves a look about an override."""
        cluster = self.planner.cluster
        service = override.service
        state = cluster.without_overrides(service) if service is not None else None
        return warnings(override, state, cluster.service_cidrs)

    def _known(self, key: OverrideKey) -> Override | None:
        held = self.feed.held.get(key)
        return held.override if held is not None else None

    async def _counted(self, verb: str, about: Override | None, call: Callable[[], Awaitable[Override]]) -> Override:
        try:
            done = await self._retried(call)
        except StoreUnavailableError as error:
            self.metrics.refused.labels("unavailable").inc()
            raise UnavailableError(
                f"overrides cannot be changed while the store is away; those in force stay until they expire: {error}"
            ) from error
        except PointsmanError as error:
            self.metrics.refused.labels(_KIND_OF.get(type(error), "other")).inc()
            raise
        self.metrics.changes.labels(verb, (about or done).kind_name).inc()
        return done

    async def _retried(self, call: Callable[[], Awaitable[Override]]) -> Override:
        for _ in range(_ATTEMPTS):
            try:
                return await call()
            except _LostRaceError:
                continue
        raise StaleVersionError("others change this override all the time; read it again, then retry")

    async def _apply(self, wish: Override, validate_only: bool, traceparent: str) -> Override:  # noqa: FBT001 - one caller
        self._check(wish)
        present, version = await self._read(wish.key)
        new = with_etag(replace(wish, created_ns=0, expires_ns=0))
        is_repeated = present is not None and present.override.etag == new.etag and wish.etag in {"", new.etag}
        if not is_repeated:
            _check_etag(wish.key, wish.etag, present)
        now_ns = self.clock.wall_ns()
        new = replace(
            new,
            created_ns=present.override.created_ns if present is not None else now_ns,
            expires_ns=now_ns + new.ttl_ns if new.ttl_ns else 0,
        )
        return new if validate_only else await self._put(new, version, traceparent)

    async def _renew(self, key: OverrideKey, etag: str) -> Override:
        present = await self._present(key)
        if etag:
            _check_etag(key, etag, present)
        held = present.override
        if not held.ttl_ns:
            return held
        new = replace(held, expires_ns=self.clock.wall_ns() + held.ttl_ns)
        return await self._put(new, present.version, present.traceparent)

    async def _delete(self, key: OverrideKey, etag: str, validate_only: bool) -> Override:  # noqa: FBT001 - one caller
        present = await self._present(key)
        _check_etag(key, etag, present)
        if not validate_only and await self.records.remove(key, if_version=present.version) is OutcomeKind.CONFLICT:
            raise _LostRaceError
        return present.override

    async def _put(self, new: Override, version: int, traceparent: str) -> Override:
        kind = await self.records.put(
            new,
            if_version=version,
            lives_seconds=new.ttl_ns / 1e9 if new.ttl_ns else None,
            traceparent=traceparent,
        )
        if kind is OutcomeKind.CONFLICT:
            raise _LostRaceError
        if kind is OutcomeKind.FULL:
            raise PeerError("the store has all the overrides it may have; delete some")
        return new

    async def _read(self, key: OverrideKey) -> tuple[StoredOverride | None, int]:
        """What the store has, and the version to replace.

        A store that lacks what is in force here has lost it, or has not told yet that it is gone: for a moment nobody
        can say which, and neither "there is none" nor a new one would be right.
        """
        present, version = await self.records.read(key)
        held = self.feed.held.get(key)
        if present is None and held is not None and (held.ends_at is None or held.ends_at > self.clock.monotonic()):
            raise UnavailableError(f"override {key} is in force here, and not in the store: try again in a moment")
        return present, version

    async def _present(self, key: OverrideKey) -> StoredOverride:
        present, _ = await self._read(key)
        if present is None:
            raise NotFoundError(f"there is no override {key}: it was deleted, or it expired")
        return present

    def _check(self, wish: Override) -> None:
        cluster = self.planner.cluster
        found = problems(wish)
        if not found:
            services = (each.state.service for each in cluster.services.values())
            found = address_problems(wish.kind, cluster.service_cidrs, services)
            found += crowd_problems(wish, (each.override for each in self.feed.held.values()))
        if found:
            raise PeerError("; ".join(found))


def _check_etag(key: OverrideKey, etag: str, present: StoredOverride | None) -> None:
    if present is None:
        if etag:
            raise StaleVersionError(f"there is no override {key} any more: to create it anew, send no etag")
        return
    if etag != present.override.etag:
        raise StaleVersionError(
            f"override {key} of {present.override.owner} has etag {present.override.etag}, not {etag or 'none'}: "
            "read it, then send its etag"
        )
