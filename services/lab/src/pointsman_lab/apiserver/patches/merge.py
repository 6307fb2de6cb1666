# SPDX-License-Identifier: Apache-2.0
"""JSON merge patch (RFC 7396): maps merge, null removes, everything else replaces."""

from __future__ import annotations


def merge_patch(target: object, patch: object) -> object:
    """Give `target` with `patch` merged in; neither is changed."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = merge_patch(merged.get(name), value)
    return merged
