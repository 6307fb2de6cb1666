# SPDX-License-Identifier: Apache-2.0
"""The store port on Redis: scripts for the atomic steps, a stream for the log; see `port` for what it promises.

All keys begin with `{prefix}`, braces included, so that a Cluster keeps them on one server. Every command has a
timeout, only so many run at once, and none is tried when Redis is known to be away: then only the probe of `run`
asks, so callers are told at once and nothing piles up.
"""

from __future__ import annotations

import asyncio
import hashlib
import uuid
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import resources
from typing import Any, TypeVar

import msgspec
import structlog
from redis.exceptions import NoScriptError, RedisClusterException, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from pointsman_chassis.backoff import Backoff
from pointsman_chassis.clock import Clock, SystemClock
from pointsman_planner.metrics import StoreMetrics
from pointsman_planner.store.connection import (
    CONNECTIONS_MAX,
    Client,
    RedisSettings,
    StoreAddress,
    files_stamp,
    make_client,
)
from pointsman_planner.store.health import Health
from pointsman_planner.store.port import (
    WRITES_MAX,
    Area,
    Committed,
    Head,
    LogEntry,
    Outcome,
    OutcomeKind,
    Record,
    Records,
    StoreUnavailableError,
    Write,
)

_LOG_ENTRIES_MAX = 10_000
_FOLLOW_ENTRIES_MAX = 1_000
_WAITING_MAX = 200
_ERROR_CHARACTERS_MAX = 300
_PROBE_SECONDS = 1.0
_T = TypeVar("_T")


class _Script:
    """A script by its hash, sent as text only when the server does not know it."""

    def __init__(self, name: str) -> None:
        folder = resources.files(__package__) / "scripts"
        self.text = (folder / "common.lua").read_text() + (folder / f"{name}.lua").read_text()
        self.sha = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()

    async def run(self, client: Client, keys: Sequence[str], arguments: Sequence[Any]) -> Any:
        try:
            return await _awaited(client.evalsha(self.sha, len(keys), *keys, *arguments))
        except NoScriptError:
            return await _awaited(client.eval(self.text, len(keys), *keys, *arguments))


async def _awaited(answer: Any) -> Any:
    """Redis's stubs say `Awaitable[str] | str` of everything."""
    return await answer


class RedisStore:
    """Implements `Store`; see the module."""

    def __init__(
        self,
        *,
        address: StoreAddress,
        settings: RedisSettings,
        key_prefix: str,
        metrics: StoreMetrics,
        clock: Clock | None = None,
        probe_seconds: float = _PROBE_SECONDS,
        log_entries_max: int = _LOG_ENTRIES_MAX,
    ) -> None:
        self._address = address
        self._settings = settings
        self._client = make_client(address, settings)
        self._stamp = files_stamp(settings)
        self._prefix = key_prefix if "{" in key_prefix else f"{{{key_prefix.rstrip(':')}}}:"
        self._metrics = metrics
        self._clock = clock or SystemClock()
        self._probe_seconds = probe_seconds
        self._log_entries_max = log_entries_max
        self._timeout = float(settings.command_timeout)
        self._reads, self._writes = Health(), Health()
        self._slots = asyncio.Semaphore(CONNECTIONS_MAX - 2)
        self._waiting = 0
        self._scripts = {name: _Script(name) for name in ("heads", "commit", "read", "page")}
        self._log = structlog.get_logger("store")
        metrics.available.set(0)

    @property
    def is_available(self) -> bool:
        """See `Store`."""
        return bool(self._reads.is_good and self._writes.is_good)

    @property
    def last_error(self) -> str:
        """See `Store`."""
        broken = [health for health in (self._reads, self._writes) if health.is_good is False]
        return broken[0].last_error if broken else ""

    # -- the port ----------------------------------------------------------------------------------------------------

    async def heads(self, areas: Sequence[Area]) -> tuple[Head, ...]:
        """See `Store`."""
        return await self._heads(areas, is_probe=False)

    async def commit(self, area: Area, writes: Sequence[Write], *, version_floor: int = 0) -> Committed:
        """See `Store`."""
        if len(writes) > WRITES_MAX:
            raise ValueError(f"{len(writes)} writes, at most {WRITES_MAX} fit a commit")
        log_entries = self._log_entries_max if area.is_followed else 0
        arguments: list[Any] = [uuid.uuid4().hex, area.records_max, int(area.evicts), log_entries, version_floor]
        for write in writes:
            condition = "" if write.if_version is None else str(write.if_version)
            lives_ms = 0 if write.lives_seconds is None else max(round(write.lives_seconds * 1000), 1)
            arguments += (write.key, condition, lives_ms, b"-" if write.value is None else b"=" + write.value)
        keys = (self._area_key(area), self._index_key(area), self._log_key)
        asked_at = self._clock.monotonic()
        reply = await self._ask("commit", lambda: self._run("commit", keys, arguments), writes=True)
        with _expected_answer():
            epoch, version, evicted, outcomes = reply
            made = tuple(
                _outcome(write.key, outcome, asked_at) for write, outcome in zip(writes, outcomes, strict=True)
            )
            return Committed(head=_head(epoch, version), outcomes=made, evicted=tuple(key.decode() for key in evicted))

    async def read(self, area: Area, keys: Sequence[str]) -> Records:
        """See `Store`."""
        if len(keys) > WRITES_MAX:
            raise ValueError(f"{len(keys)} keys, at most {WRITES_MAX} are read at once")
        asked_at = self._clock.monotonic()
        reply = await self._ask("read", lambda: self._run("read", (self._area_key(area),), keys))
        with _expected_answer():
            return self._records(area, reply, asked_at)

    async def page(self, area: Area, cursor: int = 0) -> Records:
        """See `Store`."""
        asked_at = self._clock.monotonic()
        names = (self._area_key(area), self._index_key(area))
        reply = await self._ask("page", lambda: self._run("page", names, (cursor,)))
        with _expected_answer():
            return self._records(area, reply, asked_at)

    async def log_end(self) -> str:
        """See `Store`."""
        found = await self._ask("log", lambda: _awaited(self._client.xrevrange(self._log_key, count=1)))
        with _expected_answer():
            return found[0][0].decode() if found else "0-0"

    async def follow(self, after: str) -> tuple[LogEntry, ...]:
        """See `Store`."""
        block_ms = round(min(1.0, self._timeout / 2) * 1000)

        def ask() -> Awaitable[Any]:
            return _awaited(self._client.xread({self._log_key: after}, count=_FOLLOW_ENTRIES_MAX, block=block_ms))

        found = await self._ask("follow", ask, has_slot=True)
        with _expected_answer():
            return tuple(self._entry(id_.decode(), fields or {}) for id_, fields in found[0][1]) if found else ()

    async def run(self) -> None:
        """See `Store`."""
        backoff = Backoff(initial_seconds=self._probe_seconds / 4, maximum_seconds=self._probe_seconds * 2)
        while True:
            await self._renew_client()
            try:
                await self._heads((), is_probe=True)
            except StoreUnavailableError:
                await self._clock.sleep(backoff.next_seconds())
            else:
                backoff.reset()
                await self._clock.sleep(self._probe_seconds if self.is_available else self._probe_seconds / 4)

    async def close(self) -> None:
        """See `Store`."""
        await self._close_client(self._client)

    # -- commands ----------------------------------------------------------------------------------------------------

    async def _heads(self, areas: Sequence[Area], *, is_probe: bool) -> tuple[Head, ...]:
        keys = [f"{self._prefix}probe", self._log_key]
        for area in areas:
            keys += (self._area_key(area), self._index_key(area))
        reply = await self._ask(
            "heads", lambda: self._run("heads", keys, (uuid.uuid4().hex,)), writes=True, has_slot=is_probe
        )
        with _expected_answer():
            return tuple(_head(epoch, version) for epoch, version in reply)

    def _run(self, name: str, keys: Sequence[str], arguments: Sequence[Any]) -> Awaitable[Any]:
        return self._scripts[name].run(self._client, keys, arguments)

    async def _ask(
        self, name: str, ask: Callable[[], Awaitable[_T]], *, writes: bool = False, has_slot: bool = False
    ) -> _T:
        """One command, bounded in time and number. The probe and the follower have a connection of their own."""
        is_probe = name == "heads" and has_slot
        if not is_probe and (self._reads.is_good is False or (writes and self._writes.is_good is False)):
            raise StoreUnavailableError(f"Redis is not available: {self.last_error}")
        if self._waiting >= _WAITING_MAX:
            raise StoreUnavailableError(f"{_WAITING_MAX} commands wait for Redis already")
        started = self._clock.monotonic()
        task = asyncio.current_task()
        cancellations = task.cancelling() if task is not None else 0
        self._waiting += 1
        try:
            # Twice the time of one command: a Cluster or Sentinel asks another server first.
            async with asyncio.timeout(2 * self._timeout):
                if has_slot:
                    answer = await ask()
                else:
                    async with self._slots:
                        answer = await ask()
        except Exception as error:  # whatever a client or its event loop raises must not end a planner
            self._note_failure(name, error, writes=writes)
            raise StoreUnavailableError(f"Redis, {name}: {_text(error)}") from error
        finally:
            self._waiting -= 1
            # The client waits with `asyncio.wait_for`, which in Python 3.11 forgets a cancellation that comes just when
            # what it waits for is done; a task that is to end would go on for ever.
            if task is not None and task.cancelling() > cancellations:
                raise asyncio.CancelledError
        self._note_success(writes=writes)
        self._metrics.commands.labels(name, "ok").inc()
        self._metrics.duration.labels(name).observe(self._clock.monotonic() - started)
        return answer

    def _note_success(self, *, writes: bool) -> None:
        now = self._clock.monotonic()
        is_changed = self._reads.succeeded(now)
        if writes:
            is_changed |= self._writes.succeeded(now)
        if is_changed:
            self._show()

    def _note_failure(self, name: str, error: Exception, *, writes: bool) -> None:
        now, text = self._clock.monotonic(), _text(error)
        # An answer proves that the server is there: only what was asked fails, as writes do at a full one.
        is_answer = isinstance(error, ResponseError)
        self._metrics.commands.labels(name, "refused" if is_answer else "failed").inc()
        is_there = is_answer and writes
        is_changed = self._reads.succeeded(now) if is_there else self._reads.failed(text, now)
        if writes or not is_answer:
            is_changed |= self._writes.failed(text, now)
        if is_changed:
            self._show()

    def _show(self) -> None:
        """Tell metrics and log that the judgement changed."""
        self._metrics.available.set(int(self.is_available))
        if self.is_available:
            self._log.info("Redis is available", topology=self._address.topology.value)
        elif self._reads.is_good is False or self._writes.is_good is False:
            what = "is away" if self._reads.is_good is False else "refuses writes"
            self._log.error(f"Redis {what}; endpoint changes are not affected", error=self.last_error)

    async def _renew_client(self) -> None:
        """A new client when the certificate files were replaced."""
        stamp = files_stamp(self._settings)
        if stamp == self._stamp:
            return
        self._stamp, former = stamp, self._client
        self._client = make_client(self._address, self._settings)
        self._log.info("certificate files for Redis changed")
        await self._close_client(former)

    async def _close_client(self, client: Client) -> None:
        try:
            async with asyncio.timeout(self._timeout):
                await client.aclose()
        except (RedisError, RedisClusterException, OSError, TimeoutError) as error:
            self._log.warning("connections to Redis could not be closed", error=_text(error))

    # -- names and answers -------------------------------------------------------------------------------------------

    def _area_key(self, area: Area) -> str:
        return f"{self._prefix}area:{area.name}"

    def _index_key(self, area: Area) -> str:
        return f"{self._prefix}ends:{area.name}"

    @property
    def _log_key(self) -> str:
        return f"{self._prefix}log"

    def _records(self, area: Area, reply: Any, asked_at: float) -> Records:
        epoch, version, found, *rest = reply
        records: dict[str, Record] = {}
        foreign = rest[1] if rest else 0
        for key, written, left_ms, value in found:
            try:
                name = key.decode()
            except UnicodeDecodeError:
                foreign += 1
                continue
            records[name] = _record(name, written, left_ms, value, asked_at)
        if foreign:
            self._metrics.hostile.labels(area.name).inc(foreign)
        return Records(head=_head(epoch, version), records=records, cursor=int(rest[0]) if rest else 0)

    def _entry(self, id_: str, fields: dict[bytes, bytes]) -> LogEntry:
        """An entry; one that somebody else put there is of no area."""
        try:
            return LogEntry(
                id=id_,
                area=fields[b"area"].decode().removeprefix(f"{self._prefix}area:"),
                epoch=fields[b"epoch"].decode(),
                version=int(fields[b"version"]),
                keys=tuple(msgspec.json.decode(fields[b"keys"], type=list[str])),
            )
        except (LookupError, ValueError, msgspec.MsgspecError):
            self._metrics.hostile.labels("log").inc()
            return LogEntry(id=id_, area="", epoch="", version=0, keys=())


@contextmanager
def _expected_answer() -> Iterator[None]:
    """Around the reading of an answer: a server that answers something else is none of ours."""
    try:
        yield
    except (TypeError, ValueError, LookupError, AttributeError) as error:
        raise StoreUnavailableError(f"Redis gave an answer of another form: {type(error).__name__}") from error


def _head(epoch: bytes, version: int) -> Head:
    return Head(epoch=epoch.decode(), version=int(version))


def _record(key: str, version: int, left_ms: int, value: bytes, asked_at: float) -> Record:
    """The time left counts from the question, so that no reader keeps a record longer than the store."""
    expires_at = asked_at + left_ms / 1000 if left_ms else None
    return Record(key=key, value=value, version=int(version), expires_at=expires_at)


def _outcome(key: str, fields: Sequence[Any], asked_at: float) -> Outcome:
    kind = OutcomeKind(fields[0])
    return Outcome(
        kind=kind, record=_record(key, fields[1], fields[2], fields[3], asked_at) if len(fields) > 1 else None
    )


def _text(error: Exception) -> str:
    if isinstance(error, TimeoutError | RedisTimeoutError):
        return "no answer in time"
    return str(error)[:_ERROR_CHARACTERS_MAX] or type(error).__name__
