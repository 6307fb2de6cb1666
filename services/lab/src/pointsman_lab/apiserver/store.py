# SPDX-License-Identifier: Apache-2.0
"""The object store: every object of every resource under one resource version counter, in memory, without IO.

It knows versions, keys and history and nothing of what the objects mean: rules for kinds are the registry's and
admission's. All calls are synchronous and complete before they return, so a caller in the same event loop sees a
consistent store at every step.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from pointsman_lab.apiserver import errors
from pointsman_lab.apiserver.eventlog import Event, EventLog, StoredObject, store_form

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from pointsman_lab.apiserver.encoding import Json
    from pointsman_lab.apiserver.resources import Resource

LOG_CAPACITY: Final = 50_000


class Collection:
    """The objects of one resource and their recent history; change it only through the store."""

    def __init__(self, resource: Resource, log_capacity: int) -> None:
        self.resource = resource
        self.objects: dict[str, StoredObject] = {}
        self.log = EventLog(log_capacity)
        self._sorted: list[str] | None = []

    def keys(self) -> list[str]:
        """Give the present keys in order; do not change the list."""
        if self._sorted is None:
            self._sorted = sorted(self.objects)
        return self._sorted

    def at(self, resource_version: int) -> Mapping[str, StoredObject]:
        """Give the objects as they were at a version that is not compacted."""
        undone = self.log.after(resource_version)
        if not undone:
            return self.objects
        past = dict(self.objects)
        for event in reversed(undone):
            if event.before is None:
                past.pop(event.key, None)
            else:
                past[event.key] = event.before
        return past

    def record(self, event: Event) -> None:
        """Apply one change and remember it."""
        if event.after is None:
            del self.objects[event.key]
        else:
            self.objects[event.key] = event.after
        if event.after is None or event.before is None:
            self._sorted = None
        self.log.append(event)


class ObjectStore:
    """Collections under one counter, with observers that are told of every change right after it.

    Args:
        log_capacity: changes kept per resource; older versions answer 410.
        clock: seconds, for the commit time of events; any monotonic source.
    """

    def __init__(self, *, log_capacity: int = LOG_CAPACITY, clock: Callable[[], float] = time.monotonic) -> None:
        self._log_capacity = log_capacity
        self._clock = clock
        self._collections: dict[tuple[str, str], Collection] = {}
        self._observers: dict[tuple[str, str], list[Callable[[Resource, Event], None]]] = {}
        self.revision = 1

    def collection(self, resource: Resource) -> Collection:
        """Give the collection of a resource, empty when nothing was ever written."""
        place = (resource.group, resource.plural)
        found = self._collections.get(place)
        if found is None:
            found = self._collections[place] = Collection(resource, self._log_capacity)
        return found

    def collections(self) -> tuple[Collection, ...]:
        """Give every collection that was ever touched."""
        return tuple(self._collections.values())

    def get(self, resource: Resource, key: str) -> StoredObject | None:
        """Give the present object under a key."""
        return self.collection(resource).objects.get(key)

    def create(self, resource: Resource, body: Json) -> StoredObject:
        """Store a new object (a named dict, which is taken over) under the next version.

        Raises:
            ApiError: 409 when the name is taken.
        """
        stored = store_form(resource, body, self.revision + 1)
        if stored.key in self.collection(resource).objects:
            raise errors.already_exists(resource, stored.name)
        self._commit(resource, before=None, after=stored)
        return stored

    def replace(self, resource: Resource, before: StoredObject, body: Json) -> StoredObject:
        """Store the next version of an object that is still at `before`.

        Raises:
            ApiError: 409 when it is not.
        """
        self._check_current(resource, before)
        stored = store_form(resource, body, self.revision + 1)
        self._commit(resource, before=before, after=stored)
        return stored

    def remove(self, resource: Resource, before: StoredObject) -> None:
        """Remove an object that is still at `before`.

        Raises:
            ApiError: 409 when it is not.
        """
        self._check_current(resource, before)
        self._commit(resource, before=before, after=None)

    def load(self, resource: Resource, bodies: Iterable[Json]) -> int:
        """Create many complete objects at once, without admission; gives their number.

        Raises:
            ApiError: 409 at the first name that is taken; those before it stay.
        """
        count = 0
        for count, body in enumerate(bodies, start=1):  # noqa: B007 - the last count is the answer
            self.create(resource, body)
        return count

    def compact(self, resource: Resource | None = None, resource_version: int | None = None) -> int:
        """Forget history up to a version (the present one when None), of one resource or of all; gives the version."""
        until = self.revision if resource_version is None else min(resource_version, self.revision)
        for collection in (self.collection(resource),) if resource else self.collections():
            collection.log.compact(until)
        return until

    def observe(self, resource: Resource, observer: Callable[[Resource, Event], None]) -> Callable[[], None]:
        """Have `observer` called after every change of a resource; gives the function that ends it."""
        observers = self._observers.setdefault((resource.group, resource.plural), [])
        observers.append(observer)
        return lambda: observers.remove(observer)

    def _check_current(self, resource: Resource, before: StoredObject) -> None:
        if self.collection(resource).objects.get(before.key) is not before:
            raise errors.conflict(resource, before.name)

    def _commit(self, resource: Resource, *, before: StoredObject | None, after: StoredObject | None) -> None:
        self.revision += 1
        event = Event(resource_version=self.revision, before=before, after=after, committed_at=self._clock())
        self.collection(resource).record(event)
        for observer in tuple(self._observers.get((resource.group, resource.plural), ())):
            observer(resource, event)
