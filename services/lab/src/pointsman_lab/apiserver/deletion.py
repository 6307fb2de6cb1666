# SPDX-License-Identifier: Apache-2.0
"""Deletion: grace periods, finalizers, preconditions, and namespaces that empty themselves before they go.

Dependents (owner references) are left to the controller, except that orphaning takes the references away.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from pointsman_lab.apiserver import errors
from pointsman_lab.apiserver.resources import NAMESPACES, PODS

if TYPE_CHECKING:
    from collections.abc import Callable

    from pointsman_lab.apiserver.encoding import Json
    from pointsman_lab.apiserver.eventlog import StoredObject
    from pointsman_lab.apiserver.resources import Resource
    from pointsman_lab.apiserver.store import ObjectStore

_IMMORTAL: Final = frozenset({"default", "kube-public", "kube-system"})
TIME_FORMAT: Final = "%Y-%m-%dT%H:%M:%SZ"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteOptions:
    """The options of a delete; a grace period of None means the object's own."""

    grace_period_seconds: int | None = None
    uid: str = ""
    resource_version: str = ""
    orphan: bool = False
    dry_run: bool = False


class Deletion:
    """Deletes objects of a store, now or in steps.

    `schedule` is handed the work of emptying a namespace; by default it is done at once. In a cluster a controller does
    it a moment later, so that `kubectl delete -f` still finds what its files name after their namespace.
    """

    def __init__(self, store: ObjectStore, *, now: Callable[[], str]) -> None:
        self._store = store
        self._now = now
        self._terminating: set[str] = set()
        self.schedule: Callable[[Callable[[], None]], object] = lambda work: work()

    def delete(self, resource: Resource, before: StoredObject, options: DeleteOptions) -> tuple[StoredObject, bool]:
        """Delete an object or mark it; gives the state it is in, and whether it is gone.

        Raises:
            ApiError: 403 for a namespace that must stay, 409 for a precondition that does not hold.
        """
        body = before.decode()
        _check_preconditions(resource, before, body["metadata"], options)
        if resource is NAMESPACES:
            return self._delete_namespace(before, body, options)
        grace = _grace_seconds(resource, body, options)
        waits = grace > 0 or bool(body["metadata"].get("finalizers"))
        if options.dry_run:
            return before, not waits
        if options.orphan:
            self._release_dependents(body["metadata"]["uid"])
        if not waits:
            self._remove(resource, before)
            return before, True
        return self._mark(resource, before, body, grace), False

    def finish(self, resource: Resource, stored: StoredObject) -> None:
        """Remove a marked object once nothing holds it any more: no finalizers, no grace period."""
        if b'"deletionTimestamp"' not in stored.encoded:
            return
        if resource is NAMESPACES:
            self._finish_namespace(stored.name)
            return
        metadata = stored.decode()["metadata"]
        due = not metadata.get("finalizers") and not metadata.get("deletionGracePeriodSeconds")
        if metadata.get("deletionTimestamp") and due:
            self._remove(resource, stored)

    def check_namespace_open(self, resource: Resource, namespace: str, body: Json) -> None:
        """Refuse to create in a namespace that is missing (404) or going away (403).

        Raises:
            ApiError: as said.
        """
        if self._store.get(NAMESPACES, namespace) is None:
            raise errors.not_found(NAMESPACES, namespace)
        if namespace in self._terminating:
            why = f"unable to create new content in namespace {namespace} because it is being terminated"
            cause = {
                "reason": "NamespaceTerminating",
                "message": f"namespace {namespace} is being terminated",
                "field": "metadata.namespace",
            }
            raise errors.forbidden(resource, body["metadata"].get("name") or "", why, cause)

    def _mark(self, resource: Resource, before: StoredObject, body: Json, grace: int) -> StoredObject:
        metadata = body["metadata"]
        sooner = grace < metadata.get("deletionGracePeriodSeconds", grace + 1)
        if metadata.get("deletionTimestamp") and not sooner:
            return before
        metadata["deletionTimestamp"] = _later(self._now(), grace)
        metadata["deletionGracePeriodSeconds"] = grace
        if resource.has_generation:
            metadata["generation"] = metadata.get("generation", 1) + 1
        return self._store.replace(resource, before, body)

    def _remove(self, resource: Resource, stored: StoredObject) -> None:
        self._store.remove(resource, stored)
        if stored.namespace in self._terminating:
            self._finish_namespace(stored.namespace)

    def _delete_namespace(self, before: StoredObject, body: Json, options: DeleteOptions) -> tuple[StoredObject, bool]:
        if before.name in _IMMORTAL:
            raise errors.forbidden(NAMESPACES, before.name, "this namespace may not be deleted")
        if options.dry_run:
            return before, False
        if before.name not in self._terminating:
            body["status"] = {"phase": "Terminating"}
            before = self._mark(NAMESPACES, before, body, 0)
            self._terminating.add(before.name)
            self.schedule(lambda: self._empty(before.name))
        self._finish_namespace(before.name)
        return before, self._store.get(NAMESPACES, before.name) is None

    def _empty(self, namespace: str) -> None:
        if namespace not in self._terminating:
            return  # gone already; another may have its name
        for collection in self._store.collections():
            for stored in [found for found in collection.objects.values() if found.namespace == namespace]:
                self.delete(collection.resource, stored, DeleteOptions())

    def _finish_namespace(self, namespace: str) -> None:
        stored = self._store.get(NAMESPACES, namespace)
        if stored is None or namespace not in self._terminating:
            return
        prefix = f"{namespace}/"
        if any(key.startswith(prefix) for collection in self._store.collections() for key in collection.objects):
            return
        self._terminating.discard(namespace)
        self._store.remove(NAMESPACES, stored)

    def _release_dependents(self, uid: str) -> None:
        needle = f'"uid":"{uid}"'.encode()
        for collection in self._store.collections():
            for stored in [found for found in collection.objects.values() if needle in found.encoded]:
                body = stored.decode()
                owners = body["metadata"].get("ownerReferences") or []
                kept = [owner for owner in owners if owner.get("uid") != uid]
                if len(kept) < len(owners):
                    body["metadata"]["ownerReferences"] = kept
                    self._store.replace(collection.resource, stored, body)


def _check_preconditions(resource: Resource, before: StoredObject, metadata: Json, options: DeleteOptions) -> None:
    if options.uid and options.uid != metadata["uid"]:
        why = f"Precondition failed: UID in precondition: {options.uid}, UID in object meta: {metadata['uid']}"
        raise errors.conflict(resource, before.name, why)
    if options.resource_version and options.resource_version != metadata["resourceVersion"]:
        why = (
            f"Precondition failed: ResourceVersion in precondition: {options.resource_version}, "
            f"ResourceVersion in object meta: {metadata['resourceVersion']}"
        )
        raise errors.conflict(resource, before.name, why)


def _grace_seconds(resource: Resource, body: Json, options: DeleteOptions) -> int:
    """Give the seconds a pod gets to end; a pod that runs nowhere, or has ended, gets none."""
    if resource is not PODS:
        return 0
    spec, phase = body.get("spec") or {}, (body.get("status") or {}).get("phase")
    if not spec.get("nodeName") or phase in ("Succeeded", "Failed"):
        return 0
    if options.grace_period_seconds is not None:
        return max(options.grace_period_seconds, 0)
    return int(spec.get("terminationGracePeriodSeconds", 30))


def _later(now: str, seconds: int) -> str:
    moment = datetime.strptime(now, TIME_FORMAT).replace(tzinfo=UTC)
    return (moment + timedelta(seconds=seconds)).strftime(TIME_FORMAT)
