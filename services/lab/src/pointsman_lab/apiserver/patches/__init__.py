# SPDX-License-Identifier: Apache-2.0
"""The four patch formats of the Kubernetes API as pure functions from (object, patch) to a new object.

`apply_patch` picks the format by media type; server-side apply is apart (`apply`), since it also tracks owners.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pointsman_lab.apiserver import errors
from pointsman_lab.apiserver.patches.jsonpatch import json_patch
from pointsman_lab.apiserver.patches.merge import merge_patch
from pointsman_lab.apiserver.patches.strategic import strategic_patch

if TYPE_CHECKING:
    from pointsman_lab.apiserver.encoding import Json

JSON_PATCH: Final = "application/json-patch+json"
MERGE_PATCH: Final = "application/merge-patch+json"
STRATEGIC_PATCH: Final = "application/strategic-merge-patch+json"
APPLY_PATCH: Final = "application/apply-patch+yaml"
PATCH_TYPES: Final = (JSON_PATCH, MERGE_PATCH, STRATEGIC_PATCH, APPLY_PATCH)


def apply_patch(media_type: str, current: Json, patch: object) -> Json:
    """Give `current` with a JSON, merge or strategic merge patch applied; neither argument is changed.

    Raises:
        ApiError: 400 for a patch of the wrong shape, 415 for another media type, 422 for a JSON patch that fails.
    """
    if media_type == JSON_PATCH:
        return json_patch(current, patch)
    if not isinstance(patch, dict):
        raise errors.bad_request(f"a patch of type {media_type} is a JSON object, this one is not")
    if media_type == MERGE_PATCH:
        merged = merge_patch(current, patch)
        return merged if isinstance(merged, dict) else {}
    if media_type == STRATEGIC_PATCH:
        return strategic_patch(current, patch)
    raise errors.unsupported_media_type(media_type, PATCH_TYPES)


__all__ = ["APPLY_PATCH", "JSON_PATCH", "MERGE_PATCH", "PATCH_TYPES", "STRATEGIC_PATCH", "apply_patch"]
