# SPDX-License-Identifier: Apache-2.0
"""Reviews: the questions about identity and permission that the lab answers with yes, since it has no RBAC."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pointsman_lab.apiserver.encoding import Json
    from pointsman_lab.apiserver.resources import Resource

_GROUPS: Final = ("system:masters", "system:authenticated")


def answer_review(resource: Resource, body: Json, *, user: str, tokens: Mapping[str, str]) -> Json:
    """Give the review with its status; `tokens` maps the bearer tokens the server knows to user names."""
    return {
        **body,
        "kind": resource.kind,
        "apiVersion": resource.api_version,
        "metadata": body.get("metadata") or {},
        "status": _status(resource, body, user, tokens),
    }


def _status(resource: Resource, body: Json, user: str, tokens: Mapping[str, str]) -> Json:
    match resource.kind:
        case "TokenReview":
            asked = tokens.get(str((body.get("spec") or {}).get("token", "")))
            if asked is None:
                return {"authenticated": False, "user": {}}
            return {"authenticated": True, "user": {"username": asked, "groups": list(_GROUPS)}}
        case "SelfSubjectReview":
            return {"userInfo": {"username": user, "groups": list(_GROUPS)}}
        case "SelfSubjectRulesReview":
            rule = {"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}
            return {"incomplete": False, "resourceRules": [rule], "nonResourceRules": []}
    return {"allowed": True, "reason": "the lab allows everything"}
