# SPDX-License-Identifier: Apache-2.0
"""The API verbs but watch: each takes a parsed request, calls the registry and gives status and body."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pointsman_lab.apiserver import errors
from pointsman_lab.apiserver.deletion import DeleteOptions
from pointsman_lab.apiserver.encoding import encode_json
from pointsman_lab.apiserver.negotiation import READ_TYPES, Form, accepted_form
from pointsman_lab.apiserver.patches import PATCH_TYPES
from pointsman_lab.apiserver.registry import Patch
from pointsman_lab.apiserver.rendering import render_list, render_object
from pointsman_lab.apiserver.resources import PODS, SERVICES
from pointsman_lab.apiserver.reviews import answer_review
from pointsman_lab.apiserver.scale import patch_scale, scale_of, update_scale
from pointsman_lab.apiserver.target import dry_run, is_true, list_options

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pointsman_lab.apiserver.encoding import Json
    from pointsman_lab.apiserver.eventlog import StoredObject
    from pointsman_lab.apiserver.identities import Identities
    from pointsman_lab.apiserver.negotiation import BodyReader
    from pointsman_lab.apiserver.registry import Registry
    from pointsman_lab.apiserver.target import Target

OK, CREATED = 200, 201
_RETURNS_DELETED: Final = (PODS, SERVICES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request in full, as the verbs need it."""

    target: Target
    query: Mapping[str, str]
    accept: str
    content_type: str
    raw: bytes
    user: str
    user_agent: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One answer: JSON bytes, sent in chunks when it is a list."""

    body: bytes
    status: int = OK
    chunked: bool = False


class Verbs:
    """Answers every verb but watch."""

    def __init__(self, registry: Registry, identities: Identities, bodies: BodyReader) -> None:
        self._bodies = bodies
        self._registry = registry
        self._identities = identities

    def answer(self, call: Call) -> Answer:
        """Give the answer to a call.

        Raises:
            ApiError: the refusal a client gets instead.
        """
        form = accepted_form(call.accept)
        target = call.target
        if target.subresource == "scale":
            return self._scale(call)
        if target.subresource in ("binding", "eviction", "log"):
            return self._pod_subresource(call)
        by_verb = {
            "get": self._get,
            "list": self._list,
            "create": self._create,
            "delete": self._delete,
            "deletecollection": self._delete_collection,
        }
        return by_verb.get(target.verb, self._change)(call, form)

    def _get(self, call: Call, form: Form) -> Answer:
        target = call.target
        return self._object(call, form, self._registry.get(target.resource, target.namespace, target.name))

    def _list(self, call: Call, form: Form) -> Answer:
        resource = call.target.resource
        listing = self._registry.list(resource, list_options(call.target, call.query))
        body = render_list(resource, listing, form, call.query.get("includeObject", ""))
        return Answer(body=body, chunked=True)

    def _change(self, call: Call, form: Form) -> Answer:
        return self._object(call, form, self._write(call))

    def _object(self, call: Call, form: Form, stored: StoredObject, status: int = OK) -> Answer:
        include = call.query.get("includeObject", "")
        return Answer(body=render_object(call.target.resource, stored, form, include), status=status)

    def _create(self, call: Call, form: Form) -> Answer:
        target, body = call.target, self._bodies.read(call.content_type, call.raw)
        if not target.resource.stored:
            asked = body if isinstance(body, dict) else {}
            review = answer_review(target.resource, asked, user=call.user, identities=self._identities)
            return Answer(body=encode_json(review), status=CREATED)
        if target.resource.namespaced and not target.namespace:
            raise errors.method_not_allowed()
        stored = self._registry.create(target.resource, body, target.namespace, dry_run=dry_run(call.query))
        return self._object(call, form, stored, CREATED)

    def _write(self, call: Call) -> StoredObject:
        target, trial = call.target, dry_run(call.query)
        place = (target.namespace, target.name, target.subresource)
        if target.verb == "update":
            body = self._bodies.read(call.content_type, call.raw)
            return self._registry.update(target.resource, body, *place, dry_run=trial)
        return self._registry.patch(target.resource, self._patch(call), *place, dry_run=trial)

    def _delete(self, call: Call, form: Form) -> Answer:
        target, options = call.target, self._delete_options(call)
        stored, gone = self._registry.delete(target.resource, target.namespace, target.name, options)
        if not gone or target.resource in _RETURNS_DELETED:
            return self._object(call, form, stored)
        details: Json = {"name": stored.name}
        if target.resource.group:
            details["group"] = target.resource.group
        details |= {"kind": target.resource.plural, "uid": stored.decode()["metadata"]["uid"]}
        return Answer(body=encode_json(_success(details)))

    def _delete_collection(self, call: Call, form: Form) -> Answer:
        target = call.target
        listed = self._registry.delete_collection(
            target.resource, list_options(target, call.query), self._delete_options(call)
        )
        return Answer(body=render_list(target.resource, listed, form, ""), chunked=True)

    def _patch(self, call: Call) -> Patch:
        return _patch_of(call, self._bodies.read(call.content_type, call.raw, PATCH_TYPES))

    def _delete_options(self, call: Call) -> DeleteOptions:
        return _delete_options(call, self._bodies.read(call.content_type, call.raw, READ_TYPES))

    def _scale(self, call: Call) -> Answer:
        target, trial = call.target, dry_run(call.query)
        stored = self._registry.get(target.resource, target.namespace, target.name)
        if target.verb == "update":
            scale = self._bodies.read(call.content_type, call.raw)
            stored = update_scale(self._registry, target.resource, stored, scale, dry_run=trial)
        elif target.verb == "patch":
            stored = patch_scale(self._registry, target.resource, stored, self._patch(call), dry_run=trial)
        elif target.verb != "get":
            raise errors.method_not_allowed()
        return Answer(body=encode_json(scale_of(stored)))

    def _pod_subresource(self, call: Call) -> Answer:
        target = call.target
        stored = self._registry.get(target.resource, target.namespace, target.name)
        if target.subresource == "log":
            message = f"the lab keeps no logs of pod {target.name}: its process writes to the lab's own log directory"
            raise errors.ApiError(404, "NotFound", message)
        body = self._bodies.read(call.content_type, call.raw)
        if target.verb != "create" or not isinstance(body, dict):
            raise errors.method_not_allowed()
        if target.subresource == "eviction":
            self._registry.delete(
                target.resource, target.namespace, target.name, _options_from(body.get("deleteOptions"))
            )
        else:
            pod = stored.decode()
            pod["spec"]["nodeName"] = (body.get("target") or {}).get("name", "")
            self._registry.update(target.resource, pod, target.namespace, target.name)
        return Answer(body=encode_json(_success(None, CREATED)), status=CREATED)


def _success(details: Json | None, code: int = 0) -> Json:
    status: Json = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}
    if details:
        status["details"] = details
    if code:
        status["code"] = code
    return status


def _patch_of(call: Call, document: object) -> Patch:
    media_type = call.content_type.partition(";")[0].strip()
    return Patch(
        media_type=media_type,
        document=document,
        manager=call.query.get("fieldManager") or call.user_agent.partition("/")[0] or "unknown",
        force=is_true(call.query, "force"),
    )


def _delete_options(call: Call, body: object) -> DeleteOptions:
    options = _options_from(body)
    grace = call.query.get("gracePeriodSeconds", "")
    return DeleteOptions(
        grace_period_seconds=int(grace) if grace.isdigit() else options.grace_period_seconds,
        uid=options.uid,
        resource_version=options.resource_version,
        orphan=options.orphan or call.query.get("propagationPolicy") == "Orphan",
        dry_run=options.dry_run or dry_run(call.query),
    )


def _options_from(body: object) -> DeleteOptions:
    if not isinstance(body, dict):
        return DeleteOptions()
    preconditions = body.get("preconditions") or {}
    grace = body.get("gracePeriodSeconds")
    return DeleteOptions(
        grace_period_seconds=grace if isinstance(grace, int) else None,
        uid=preconditions.get("uid") or "",
        resource_version=preconditions.get("resourceVersion") or "",
        orphan=body.get("propagationPolicy") == "Orphan" or body.get("orphanDependents") is True,
        dry_run=bool(body.get("dryRun")),
    )
