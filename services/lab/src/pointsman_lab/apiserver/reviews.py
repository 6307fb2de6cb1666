# SPDX-License-Identifier: Apache-2.0
"""Reviews: whose a token is, and whether somebody may do something. The lab has no RBAC: it says yes, unless told."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pointsman_lab.apiserver.bootstrap import now_text
from pointsman_lab.apiserver.identities import API_AUDIENCE

if TYPE_CHECKING:
    from pointsman_lab.apiserver.encoding import Json
    from pointsman_lab.apiserver.identities import Identities
    from pointsman_lab.apiserver.resources import Resource

_GROUPS: Final = ("system:masters", "system:authenticated")


def answer_review(resource: Resource, body: Json, *, user: str, identities: Identities) -> Json:
    """Give the review with its status."""
    return {
        **body,
        "kind": resource.kind,
        "apiVersion": resource.api_version,
        "metadata": {**(body.get("metadata") or {}), "creationTimestamp": now_text()},
        "status": _status(resource, body, user, identities),
    }


def _status(resource: Resource, body: Json, user: str, identities: Identities) -> Json:
    spec = body.get("spec") or {}
    match resource.kind:
        case "TokenReview":
            return _token_status(spec, identities)
        case "SelfSubjectReview":
            return {"userInfo": {"username": user, "groups": list(_GROUPS)}}
        case "SelfSubjectRulesReview":
            rule = {"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}
            return {"incomplete": False, "resourceRules": [rule], "nonResourceRules": []}
        case "SelfSubjectAccessReview":
            spec = {**spec, "user": user, "groups": list(_GROUPS)}
    if identities.allows(spec):
        return {"allowed": True, "reason": "the lab allows it"}
    return {"allowed": False}


def _token_status(spec: Json, identities: Identities) -> Json:
    """As a real server answers: a token for other audiences than those asked for is no token."""
    holder = identities.tokens.get(str(spec.get("token", "")))
    if holder is None:
        return {"authenticated": False, "user": {}, "error": "[invalid bearer token, unknown]"}
    if holder.has_expired:
        return {"authenticated": False, "user": {}, "error": "[invalid bearer token, token has expired]"}
    asked = spec.get("audiences") or [API_AUDIENCE]
    audiences = [each for each in asked if each in holder.audiences]
    if not audiences:
        error = f"[invalid bearer token, token audiences {list(holder.audiences)} is invalid for {asked}]"
        return {"authenticated": False, "user": {}, "error": error}
    user = {
        "username": holder.username,
        "groups": list(holder.groups),
        **({"uid": holder.uid} if holder.uid else {}),
        **({"extra": {key: list(values) for key, values in holder.extra.items()}} if holder.extra else {}),
    }
    return {"authenticated": True, "user": user, "audiences": audiences}
