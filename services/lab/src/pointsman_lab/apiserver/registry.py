# SPDX-License-Identifier: Apache-2.0
"""The registry: the verbs of the API over the object store, with the rules of each kind.

This is what the HTTP server calls, and what a controller in the same process calls directly: every method is
synchronous, takes JSON dicts, gives stored objects, and raises `ApiError` with the answer a client would get.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pointsman_lab.apiserver import errors
from pointsman_lab.apiserver.admission.rules import NoRules, check_labels, check_name
from pointsman_lab.apiserver.deletion import DeleteOptions, Deletion
from pointsman_lab.apiserver.eventlog import object_key, store_form
from pointsman_lab.apiserver.listing import Listing, ListOptions, list_objects
from pointsman_lab.apiserver.metadata import bump_generation, check_identity, prepare_new, prepare_next
from pointsman_lab.apiserver.patches import APPLY_PATCH, apply_patch
from pointsman_lab.apiserver.patches.apply import server_side_apply
from pointsman_lab.apiserver.resources import BY_KIND, NAMESPACES, SERVICES, Resource

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from pointsman_lab.apiserver.admission.rules import Rules
    from pointsman_lab.apiserver.encoding import Json
    from pointsman_lab.apiserver.errors import Cause
    from pointsman_lab.apiserver.eventlog import StoredObject
    from pointsman_lab.apiserver.store import ObjectStore


@dataclass(frozen=True, slots=True, kw_only=True)
class Patch:
    """A patch as it came: its media type, the decoded document, and for server-side apply who and how."""

    media_type: str
    document: object
    manager: str = "unknown"
    force: bool = False


class Registry:
    """The API's verbs over a store.

    Args:
        store: where the objects are.
        rules: the rules of the kinds that have some.
        now: the time in the form of the API.
        new_uid: a fresh uid.
        new_suffix: five characters for a generateName.
    """

    def __init__(
        self,
        store: ObjectStore,
        *,
        rules: Mapping[Resource, Rules],
        now: Callable[[], str],
        new_uid: Callable[[], str],
        new_suffix: Callable[[], str],
    ) -> None:
        self.store = store
        self._rules = {(resource.group, resource.plural): found for resource, found in rules.items()}
        self._no_rules = NoRules()
        self._now = now
        self._new_uid = new_uid
        self._new_suffix = new_suffix
        self._deletion = Deletion(store, now=now)

    def empty_namespaces_with(self, schedule: Callable[[Callable[[], None]], object]) -> None:
        """Have the content of a deleted namespace removed when `schedule` calls its argument, not at once."""
        self._deletion.schedule = schedule

    def get(self, resource: Resource, namespace: str, name: str) -> StoredObject:
        """Give one object (ApiError 404 when there is none)."""
        found = self.store.get(resource, object_key(namespace if resource.namespaced else "", name))
        if found is None:
            raise errors.not_found(resource, name)
        return found

    def list(self, resource: Resource, options: ListOptions | None = None) -> Listing:
        """List a resource; everything in all namespaces without options."""
        return list_objects(self.store.collection(resource), self.store.revision, options or ListOptions())

    def create(self, resource: Resource, body: object, namespace: str = "", *, dry_run: bool = False) -> StoredObject:
        """Create an object; the body is taken over and changed.

        Raises:
            ApiError: 400, 403 (terminating namespace), 404 (missing namespace), 409 or 422.
        """
        checked = check_identity(resource, body, namespace)
        if resource.namespaced:
            self._deletion.check_namespace_open(resource, namespace, checked)
        prepare_new(resource, checked, uid=self._new_uid(), now=self._now(), suffix=self._new_suffix())
        name = checked["metadata"]["name"]
        if self.store.get(resource, object_key(namespace if resource.namespaced else "", name)):
            raise errors.already_exists(resource, name)
        causes: Sequence[Cause] = check_name(name, label=resource in (SERVICES, NAMESPACES)) + check_labels(checked)
        causes = causes or self._admit(resource, checked, None)
        if causes:
            raise errors.invalid(resource, name, causes)
        return store_form(resource, checked, 0) if dry_run else self.store.create(resource, checked)

    def load(self, bodies: Iterable[Json]) -> int:
        """Create objects of any kinds in order, each naming its kind, apiVersion and namespace; gives the number.

        Raises:
            ApiError: as `create`; the objects before the refused one stay. 400 for a kind that is not served.
        """
        count = 0
        for body in bodies:
            resource = BY_KIND.get((str(body.get("apiVersion")), str(body.get("kind"))))
            if resource is None:
                raise errors.bad_request(f"no resource for kind {body.get('kind')!r} in {body.get('apiVersion')!r}")
            namespace = (body.get("metadata") or {}).get("namespace") or ("default" if resource.namespaced else "")
            self.create(resource, body, namespace)
            count += 1
        return count

    def update(
        self,
        resource: Resource,
        body: object,
        namespace: str,
        name: str,
        subresource: str = "",
        *,
        dry_run: bool = False,
    ) -> StoredObject:
        """Replace an object, or only its status when that is the subresource.

        Raises:
            ApiError: 400, 404, 409 (the body names another resourceVersion or uid than the stored one) or 422.
        """
        before = self.get(resource, namespace, name)
        checked = check_identity(resource, body, namespace)
        return self._write_next(resource, before, checked, subresource, dry_run=dry_run)

    def patch(
        self,
        resource: Resource,
        patch: Patch,
        namespace: str,
        name: str,
        subresource: str = "",
        *,
        dry_run: bool = False,
    ) -> StoredObject:
        """Patch an object; server-side apply creates it when there is none.

        Raises:
            ApiError: as `update`, and 415 for an unknown patch type.
        """
        if patch.media_type == APPLY_PATCH:
            return self._apply(resource, patch, namespace, name, subresource, dry_run=dry_run)
        before = self.get(resource, namespace, name)
        body = apply_patch(patch.media_type, before.decode(), patch.document)
        checked = check_identity(resource, body, namespace)
        return self._write_next(resource, before, checked, subresource, dry_run=dry_run)

    def delete(
        self, resource: Resource, namespace: str, name: str, options: DeleteOptions | None = None
    ) -> tuple[StoredObject, bool]:
        """Delete an object; gives its last state, and whether it is gone (else a grace period or finalizer holds it).

        Raises:
            ApiError: 403, 404, or 409 for a precondition that does not hold.
        """
        return self._deletion.delete(resource, self.get(resource, namespace, name), options or DeleteOptions())

    def delete_collection(self, resource: Resource, listed: ListOptions, options: DeleteOptions) -> Listing:
        """Delete all objects a list selects; gives the list."""
        listing = self.list(resource, listed)
        for stored in listing.objects:
            self._deletion.delete(resource, stored, options)
        return listing

    def _admit(self, resource: Resource, body: Json, before: Json | None) -> Sequence[Cause]:
        """Run the rules of a kind, which take fields to be of their documented types; others are refused here."""
        rules = self._rules.get((resource.group, resource.plural), self._no_rules)
        try:
            return rules.on_create(body) if before is None else rules.on_update(body, before)
        except (AttributeError, KeyError, TypeError) as error:
            message = f"{resource.kind} {body['metadata'].get('name')!r} has a field of the wrong type: {error}"
            raise errors.bad_request(message) from error

    def _apply(
        self, resource: Resource, patch: Patch, namespace: str, name: str, subresource: str, *, dry_run: bool
    ) -> StoredObject:
        stated = check_identity(resource, patch.document, namespace)
        stated["metadata"].setdefault("name", name)
        stated["apiVersion"], stated["kind"] = resource.api_version, resource.kind
        before = self.store.get(resource, object_key(namespace if resource.namespaced else "", name))
        if before is None and subresource:
            raise errors.not_found(resource, name)
        body = server_side_apply(
            before.decode() if before else {},
            stated,
            manager=patch.manager,
            force=patch.force,
            now=self._now(),
            subresource=subresource,
        )
        if before is None:
            return self.create(resource, body, namespace, dry_run=dry_run)
        return self._write_next(resource, before, body, subresource, dry_run=dry_run)

    def _write_next(
        self, resource: Resource, before: StoredObject, body: Json, subresource: str, *, dry_run: bool
    ) -> StoredObject:
        old = before.decode()
        prepare_next(resource, body, before, old)
        if subresource:
            body = _only_subresource(body, old, subresource)
        else:
            if "status" in resource.subresources:
                _keep_status(body, old)
            causes = check_labels(body) or self._admit(resource, body, before.decode())
            if causes:
                raise errors.invalid(resource, before.name, causes)
            bump_generation(resource, body, old)
        if _same(body, old):
            return before
        if dry_run:
            return store_form(resource, body, before.resource_version)
        stored = self.store.replace(resource, before, body)
        self._deletion.finish(resource, stored)
        return stored


def _same(body: Json, old: Json) -> bool:
    """Compare two versions, but for the times at which appliers last applied."""

    def plain(value: Json) -> Json:
        metadata = {k: v for k, v in value["metadata"].items() if k != "managedFields" and v not in (None, {}, [])}
        owners = [
            {k: v for k, v in entry.items() if k != "time"} for entry in value["metadata"].get("managedFields") or []
        ]
        return {**value, "metadata": metadata, "owners": owners}

    return plain(body) == plain(old)


def _keep_status(body: Json, old: Json) -> None:
    if "status" in old:
        body["status"] = old["status"]
    else:
        body.pop("status", None)


def _only_subresource(body: Json, old: Json, subresource: str) -> Json:
    """Give the stored object with just the part the subresource may change (and labels and annotations)."""
    result = dict(old)
    metadata = dict(old["metadata"])
    for field in ("labels", "annotations", "managedFields"):
        if field in body["metadata"]:
            metadata[field] = body["metadata"][field]
    result["metadata"] = metadata
    field = "spec" if subresource == "finalize" else "status"
    result[field] = body.get(field) or {}
    return result
