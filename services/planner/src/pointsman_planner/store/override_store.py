# SPDX-License-Identifier: Apache-2.0
"""Overrides in the store: one record each, changed only by who has read what is there.

What is read back is validated by the rules that hold for controllers: whoever can write to the store can wish for no
more than they can. A record that breaks a rule is left out.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

import msgspec

from pointsman_planner.core.override import Drain, Override, OverrideKey, Pin, Register, Weight
from pointsman_planner.core.override_rules import OVERRIDES_MAX, problems
from pointsman_planner.metrics import StoreMetrics
from pointsman_planner.store.hostile_values import HostileValues
from pointsman_planner.store.port import Area, Head, OutcomeKind, Record, Store, StoreUnavailableError, Write
from pointsman_planner.store.replica import Changes
from pointsman_planner.store.replicas import Replicas

AREA = Area(name="overrides", records_max=OVERRIDES_MAX)
_TRACEPARENT = re.compile(r"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_IN_FORCE_SECONDS = 2.0
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


OverrideChanges = Mapping[OverrideKey, StoredOverride | None]
"""Overrides by key; None = there is none any more."""


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
    """The repository: what is in force as this planner knows it, also while the store is away, and the writes."""

    def __init__(
        self,
        *,
        store: Store,
        replicas: Replicas,
        metrics: StoreMetrics,
        on_change: Callable[[OverrideChanges], None],
        is_restored: bool = True,
    ) -> None:
        """`on_change` is called in the loop with what is different, and must not raise."""
        self._store = store
        self._replicas = replicas
        self._hostile = HostileValues(metrics)
        self._on_change = on_change
        self._held: dict[OverrideKey, StoredOverride] = {}
        self._replica = replicas.add(AREA, self._take, is_restored=is_restored)

    @property
    def held(self) -> Mapping[OverrideKey, StoredOverride]:
        """Every override in force. Not to be changed by the caller."""
        return self._held

    @property
    def head(self) -> Head:
        """The history that `held` is of."""
        return self._replica.head

    def seed(self, head: Head, held: Iterable[StoredOverride]) -> None:
        """Begin with what an earlier process held; call it before the replicas run."""
        self._replica.seed(head, [_record(each) for each in held])

    async def read(self, key: OverrideKey) -> tuple[StoredOverride | None, int]:
        """One override as the store has it now, and the version to replace: a record that is none of ours has one."""
        text = _text(key)
        record = (await self._store.read(AREA, [text])).records.get(text)
        return (self._decoded(record), record.version) if record is not None else (None, 0)

    async def put(
        self, override: Override, *, if_version: int, lives_seconds: float | None, traceparent: str = ""
    ) -> OutcomeKind:
        """Write one if what is there has this version (0 = nothing is); returns once it is in force here."""
        value = encode(override, traceparent)
        return await self._commit(
            Write(key=_text(override.key), value=value, lives_seconds=lives_seconds, if_version=if_version)
        )

    async def remove(self, key: OverrideKey, *, if_version: int) -> OutcomeKind:
        """Remove one if it has this version; returns once it is in force here no more."""
        return await self._commit(Write(key=_text(key), value=None, if_version=if_version))

    async def _commit(self, write: Write) -> OutcomeKind:
        done = await self._store.commit(AREA, [write])
        kind = done.outcomes[0].kind
        if kind is OutcomeKind.WRITTEN and not await self._replicas.reached(
            self._replica, done.head.version, _IN_FORCE_SECONDS
        ):
            raise StoreUnavailableError("it is written, and will be in force when this planner reads the store again")
        return kind

    def _take(self, changes: Changes) -> None:
        told: dict[OverrideKey, StoredOverride | None] = {}
        for text, record in changes.items():
            stored = self._decoded(record) if record is not None else None
            key = stored.override.key if stored is not None else _key(text)
            if stored is not None:
                self._held[key] = stored
                told[key] = stored
            elif self._held.pop(key, None) is not None:
                told[key] = None
        if told:
            self._on_change(told)

    def _decoded(self, record: Record) -> StoredOverride | None:
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


def _record(each: StoredOverride) -> Record:
    value = encode(each.override, each.traceparent)
    return Record(key=_text(each.override.key), value=value, version=each.version, expires_at=each.ends_at)


def _text(key: OverrideKey) -> str:
    return f"{key.namespace}/{key.name}"


def _key(text: str) -> OverrideKey:
    namespace, _, name = text.rpartition("/")
    return OverrideKey(namespace, name)
