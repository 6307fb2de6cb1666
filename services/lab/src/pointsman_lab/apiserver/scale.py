# SPDX-License-Identifier: Apache-2.0
"""The scale subresource: a workload seen as a number of replicas (autoscaling/v1 Scale)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pointsman_lab.apiserver import errors
from pointsman_lab.apiserver.patches import APPLY_PATCH, MERGE_PATCH, apply_patch
from pointsman_lab.apiserver.registry import Patch

if TYPE_CHECKING:
    from pointsman_lab.apiserver.encoding import Json
    from pointsman_lab.apiserver.eventlog import StoredObject
    from pointsman_lab.apiserver.registry import Registry
    from pointsman_lab.apiserver.resources import Resource

SCALE_API_VERSION: Final = "autoscaling/v1"


def scale_of(stored: StoredObject) -> Json:
    """Give the Scale of a workload."""
    body = stored.decode()
    metadata, spec = body["metadata"], body.get("spec") or {}
    labels = (spec.get("selector") or {}).get("matchLabels") or {}
    kept = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
    return {
        "kind": "Scale",
        "apiVersion": SCALE_API_VERSION,
        "metadata": {field: metadata[field] for field in kept if field in metadata},
        "spec": {"replicas": spec.get("replicas", 0)},
        "status": {
            "replicas": (body.get("status") or {}).get("replicas", 0),
            "selector": ",".join(f"{name}={value}" for name, value in sorted(labels.items())),
        },
    }


def update_scale(
    registry: Registry, resource: Resource, stored: StoredObject, scale: object, *, dry_run: bool = False
) -> StoredObject:
    """Set the replicas of a workload from a Scale; a resourceVersion in it is a precondition.

    Raises:
        ApiError: 400, 409 or 422.
    """
    if not isinstance(scale, dict):
        raise errors.bad_request("the body is no JSON object; send one Scale")
    replicas = (scale.get("spec") or {}).get("replicas", 0)
    if not isinstance(replicas, int) or replicas < 0:
        cause = errors.invalid_value("spec.replicas", replicas, "must be greater than or equal to 0")
        raise errors.invalid(resource, stored.name, [cause])
    change: Json = {"spec": {"replicas": replicas}}
    version = (scale.get("metadata") or {}).get("resourceVersion")
    if version:
        change["metadata"] = {"resourceVersion": version}
    patch = Patch(media_type=MERGE_PATCH, document=change)
    return registry.patch(resource, patch, stored.namespace, stored.name, dry_run=dry_run)


def patch_scale(
    registry: Registry, resource: Resource, stored: StoredObject, patch: Patch, *, dry_run: bool = False
) -> StoredObject:
    """Patch a workload's Scale with any patch type.

    Raises:
        ApiError: as `update_scale`, and 415 for an unknown patch type.
    """
    media_type = MERGE_PATCH if patch.media_type == APPLY_PATCH else patch.media_type
    scale = apply_patch(media_type, scale_of(stored), patch.document)
    return update_scale(registry, resource, stored, scale, dry_run=dry_run)
