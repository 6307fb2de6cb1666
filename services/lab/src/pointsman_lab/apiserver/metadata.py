# SPDX-License-Identifier: Apache-2.0
"""Object metadata: what the server sets on a new object, keeps on the next version, and counts as a generation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pointsman_lab.apiserver import errors

if TYPE_CHECKING:
    from pointsman_lab.apiserver.encoding import Json
    from pointsman_lab.apiserver.eventlog import StoredObject
    from pointsman_lab.apiserver.resources import Resource

_SERVER_OWNED: Final = (
    "name",
    "namespace",
    "generateName",
    "uid",
    "creationTimestamp",
    "generation",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
)
_GENERATED_NAME_MAX: Final = 63
_SUFFIX_LENGTH: Final = 5
_NOT_COUNTED: Final = frozenset({"kind", "apiVersion", "metadata", "status"})


def check_identity(resource: Resource, body: object, namespace: str) -> Json:
    """Give `body` as an object of the resource in the namespace of the URL, with both filled in.

    Raises:
        ApiError: 400 when it is another kind or names another namespace.
    """
    if not isinstance(body, dict):
        raise errors.bad_request(f"the body is no JSON object; send one {resource.kind}")
    kind, version = body.get("kind") or resource.kind, body.get("apiVersion") or resource.api_version
    if kind != resource.kind:
        raise errors.bad_request(f'{kind} in version "{version}" cannot be handled as a {resource.kind}')
    if version != resource.api_version:
        message = (
            f"the API version in the data ({version}) does not match the expected API version ({resource.api_version})"
        )
        raise errors.bad_request(message)
    metadata = body.get("metadata") or {}
    if not isinstance(metadata, dict):
        raise errors.bad_request("metadata is no JSON object")
    body["metadata"] = metadata
    for field in ("name", "generateName"):
        if not isinstance(metadata.get(field, ""), str):
            raise errors.bad_request(f"metadata.{field} is no string: {metadata[field]!r}")
    if not resource.namespaced:
        metadata.pop("namespace", None)
    elif metadata.setdefault("namespace", namespace) != namespace:
        raise errors.bad_request(
            "the namespace of the provided object does not match the namespace sent on the request"
        )
    return body


def prepare_new(resource: Resource, body: Json, *, uid: str, now: str, suffix: str) -> None:
    """Set the metadata of a new object, in place; `suffix` completes a generateName.

    Raises:
        ApiError: 400 for a resource version, 422 when there is no name.
    """
    metadata = body["metadata"]
    if metadata.get("resourceVersion"):
        raise errors.bad_request("resourceVersion should not be set on objects to be created")
    if not metadata.get("name"):
        base = metadata.get("generateName")
        if not base:
            raise errors.invalid(resource, "", [errors.required("metadata.name", "name or generateName is required")])
        metadata["name"] = base[: _GENERATED_NAME_MAX - _SUFFIX_LENGTH] + suffix
    metadata["uid"] = uid
    metadata["creationTimestamp"] = now
    for field in ("generation", "deletionTimestamp", "deletionGracePeriodSeconds"):
        metadata.pop(field, None)
    if resource.has_generation:
        metadata["generation"] = 1


def prepare_next(resource: Resource, body: Json, before: StoredObject, old: Json) -> None:
    """Check the preconditions in the metadata of the next version and set what the server owns, in place.

    Raises:
        ApiError: 400 for another name, 409 for an old resource version or another uid.
    """
    metadata, kept = body["metadata"], old["metadata"]
    name = metadata.get("name") or before.name
    if name != before.name:
        message = f"the name of the object ({name}) does not match the name on the URL ({before.name})"
        raise errors.bad_request(message)
    version = metadata.get("resourceVersion")
    if version and version != str(before.resource_version):
        raise errors.conflict(resource, before.name)
    uid = metadata.get("uid")
    if uid and uid != kept["uid"]:
        why = f"Precondition failed: UID in precondition: {uid}, UID in object meta: {kept['uid']}"
        raise errors.conflict(resource, before.name, why)
    for field in _SERVER_OWNED:
        if field in kept:
            metadata[field] = kept[field]
        else:
            metadata.pop(field, None)
    metadata["resourceVersion"] = kept["resourceVersion"]
    if "managedFields" in kept:
        metadata.setdefault("managedFields", kept["managedFields"])


def bump_generation(resource: Resource, body: Json, old: Json) -> None:
    """Raise the generation when anything but metadata and status differs."""
    if not resource.has_generation:
        return
    fields = (body.keys() | old.keys()) - _NOT_COUNTED
    if any(body.get(field) != old.get(field) for field in fields):
        body["metadata"]["generation"] = old["metadata"].get("generation", 1) + 1
