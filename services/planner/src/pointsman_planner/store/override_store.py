# SPDX-License-Identifier: Apache-2.0
"""Overrides in the store: one record each, changed only by who has read what is there.

What is read back is validated by the rules that hold for controllers: whoever can write to the store can wish for no
more than they can. A record that breaks a rule is left out.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import msgspec

from pointsman_planner.core.override import Drain, Override, OverrideKey, Pin, Register, Weight
from pointsman_planner.core.override_rules import OVERRIDES_MAX, problems
from pointsman_planner.store.hostile_values import HostileValues
from pointsman_planner.store.port import (
    WRITES_MAX,
    Area,
    Head,
    Outcome,
    OutcomeKind,
    Record,
    Store,
    Write,
    list_area,
)

AREA = Area(name="overrides", records_max=OVERRIDES_MAX)
_TRACEPARENT = re.compile(r"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_NANOSECONDS_MAX = 1 << 63


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredOverride:
    """An override as the store has it."""

    override: Override
    version: int
    ends_at: float | None
    """When it ends, on this process's monotonic clock; None = never."""
    traceparent: str = ""
    """The change that brought it, so that all planners' spans are of one trace."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredOverrides:
    """Every override of the store."""

    head: Head
    overrides: dict[OverrideKey, StoredOverride]


class _Stored(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The JSON of a record; exactly one of the four kinds is there."""

    namespace: str
    name: str
    owner: str
    service: str = ""
    ttl_ns: int = 0
    reason: str = ""
    created_ns: int = 0
    expires_ns: int = 0
    traceparent: str = ""
    drain: Drain | None = None
    weight: Weight | None = None
    pin: Pin | None = None
    register: Register | None = None

    def __post_init__(self) -> None:
        """Refuse what no controller could have asked for."""
        found = problems(self.override())
        if found:
            raise ValueError("; ".join(found[:3]))
        if not (0 <= self.created_ns < _NANOSECONDS_MAX and 0 <= self.expires_ns < _NANOSECONDS_MAX):
            raise ValueError("a time is out of range")
        if self.traceparent and not _TRACEPARENT.fullmatch(self.traceparent):
            raise ValueError("traceparent: not one")

    def override(self) -> Override:
        kinds = [kind for kind in (self.drain, self.weight, self.pin, self.register) if kind is not None]
        if len(kinds) != 1:
            raise ValueError(f"{len(kinds)} kinds where there must be one")
        return with_etag(
            Override(
                key=OverrideKey(self.namespace, self.name),
                owner=self.owner,
                kind=kinds[0],
                service_name=self.service,
                ttl_ns=self.ttl_ns,
                reason=self.reason,
                created_ns=self.created_ns,
                expires_ns=self.expires_ns,
            )
        )


def encode(override: Override, traceparent: str = "") -> bytes:
    """The value of a record; deterministic."""
    return msgspec.json.encode(
        _Stored(
            namespace=override.key.namespace,
            name=override.key.name,
            owner=override.owner,
            service=override.service_name,
            ttl_ns=override.ttl_ns,
            reason=override.reason,
            created_ns=override.created_ns,
            expires_ns=override.expires_ns,
            traceparent=traceparent,
            **{override.kind_name: override.kind},  # type: ignore[arg-type]  # the field of that name has that type
        )
    )


def decode(value: bytes) -> tuple[Override, str]:
    """The override in a value, and its trace. ValueError (msgspec's are ones) when it is none, or breaks a rule."""
    stored = msgspec.json.decode(value, type=_Stored)
    return stored.override(), stored.traceparent


def with_etag(override: Override) -> Override:
    """The override with the etag of its wish."""
    wish = msgspec.json.encode((type(override.kind).__name__, override.wish))
    return replace(override, etag=hashlib.blake2b(wish, digest_size=8).hexdigest())


class OverrideStore:
    """The repository. Every method may raise StoreUnavailableError."""

    def __init__(self, store: Store, hostile: HostileValues) -> None:
        self._store = store
        self._hostile = hostile

    @property
    def store(self) -> Store:
        """What it is kept in, for its log."""
        return self._store

    async def head(self) -> Head:
        """Where the area stands; made when it is not there."""
        return (await self._store.heads((AREA,)))[0]

    async def load(self) -> StoredOverrides:
        """Everything, without what is not legal."""
        found = await list_area(self._store, AREA)
        return StoredOverrides(head=found.head, overrides=self._decoded(found.records.values()))

    async def read(self, keys: Sequence[OverrideKey]) -> dict[OverrideKey, StoredOverride]:
        """Those of these that are there."""
        found: dict[OverrideKey, StoredOverride] = {}
        for start in range(0, len(keys), WRITES_MAX):
            records = await self._store.read(AREA, [_text(key) for key in keys[start : start + WRITES_MAX]])
            found.update(self._decoded(records.records.values()))
        return found

    async def put(
        self, override: Override, *, if_version: int, lives_seconds: float | None, traceparent: str = ""
    ) -> tuple[OutcomeKind, StoredOverride | None]:
        """Write one if what is there has this version (0 = nothing is); what is there after it."""
        write = Write(
            key=_text(override.key),
            value=encode(override, traceparent),
            lives_seconds=lives_seconds,
            if_version=if_version,
        )
        outcome = (await self._store.commit(AREA, [write])).outcomes[0]
        return outcome.kind, self._of(outcome)

    async def restore(self, held: Sequence[tuple[StoredOverride, float | None]], *, version_floor: int) -> None:
        """Write what a store lost, with the seconds each has left, where nobody else did."""
        for start in range(0, len(held), WRITES_MAX):
            writes = [
                Write(
                    key=_text(each.override.key),
                    value=encode(each.override, each.traceparent),
                    lives_seconds=left,
                    if_version=0,
                )
                for each, left in held[start : start + WRITES_MAX]
            ]
            await self._store.commit(AREA, writes, version_floor=version_floor)

    async def remove(self, key: OverrideKey, *, if_version: int) -> OutcomeKind:
        """Remove one if it has this version."""
        write = Write(key=_text(key), value=None, if_version=if_version)
        return (await self._store.commit(AREA, [write])).outcomes[0].kind

    def _of(self, outcome: Outcome) -> StoredOverride | None:
        return next(iter(self._decoded([outcome.record]).values()), None) if outcome.record is not None else None

    def _decoded(self, records: Iterable[Record]) -> dict[OverrideKey, StoredOverride]:
        found: dict[OverrideKey, StoredOverride] = {}
        for record in records:
            each = self._stored(record)
            if each is not None:
                found[each.override.key] = each
        return found

    def _stored(self, record: Record) -> StoredOverride | None:
        stored = self._hostile.decoded(AREA, record, _Stored)
        if stored is None:
            return None
        override = stored.override()
        if _text(override.key) != record.key:
            self._hostile.leave_out(AREA, record.key, ValueError(f"the record is of {override.key}"))
            return None
        return StoredOverride(
            override=override, version=record.version, ends_at=record.expires_at, traceparent=stored.traceparent
        )


def _text(key: OverrideKey) -> str:
    return f"{key.namespace}/{key.name}"


def key_of(text: str) -> OverrideKey:
    """The key in a record's key."""
    namespace, _, name = text.rpartition("/")
    return OverrideKey(namespace, name)
