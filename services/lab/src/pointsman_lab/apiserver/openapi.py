# SPDX-License-Identifier: Apache-2.0
"""OpenAPI, as much as kubectl needs to trust the server.

kubectl asks two things before it applies: does PATCH of this kind take `fieldValidation` and `dryRun` (then the server
validates and kubectl does not), and which schema merges its lists (none here, so it uses its built-in types). The
documents list operations and no schemas. Version 2 is asked for as protobuf (gnostic's `Document`), which for an empty
document is a few bytes that need no library.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pointsman_lab.apiserver.discovery import VERSION
from pointsman_lab.apiserver.patches import JSON_PATCH, MERGE_PATCH
from pointsman_lab.apiserver.resources import RESOURCES, Resource

if TYPE_CHECKING:
    from pointsman_lab.apiserver.encoding import Json

V2_PROTOBUF: Final = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf"
_TITLE: Final = "Kubernetes"
_SWAGGER_FIELD, _INFO_FIELD, _PATHS_FIELD, _DEFINITIONS_FIELD = 1, 2, 8, 9
_WRITE_PARAMETERS: Final = ("dryRun", "fieldManager", "fieldValidation", "force")


def openapi_v2() -> Json:
    """Give the version 2 document as JSON."""
    return {
        "swagger": "2.0",
        "info": {"title": _TITLE, "version": VERSION["gitVersion"]},
        "paths": {},
        "definitions": {},
    }


def openapi_v2_protobuf() -> bytes:
    """Give the version 2 document as gnostic's protobuf."""
    info = _field(1, _TITLE.encode()) + _field(2, VERSION["gitVersion"].encode())
    swagger = _field(_SWAGGER_FIELD, b"2.0") + _field(_INFO_FIELD, info)
    return swagger + _field(_PATHS_FIELD, b"") + _field(_DEFINITIONS_FIELD, b"")


def _field(number: int, value: bytes) -> bytes:
    """Encode a length-delimited protobuf field; numbers and lengths here fit one byte."""
    return bytes([number << 3 | 2, len(value)]) + value


def openapi_v3_index() -> Json:
    """Give the answer to /openapi/v3: where the document of each group version is."""
    paths = dict.fromkeys(resource.base_path.lstrip("/") for resource in RESOURCES)
    return {"paths": {path: {"serverRelativeURL": f"/openapi/v3/{path}"} for path in paths}}


def openapi_v3(group_version_path: str) -> Json | None:
    """Give the document of `api/v1` or `apis/GROUP/VERSION`, None when that is not served."""
    served = [r for r in RESOURCES if r.base_path.lstrip("/") == group_version_path]
    if not served:
        return None
    paths: Json = {}
    for resource in served:
        paths |= _paths(resource)
    info = {"title": _TITLE, "version": VERSION["gitVersion"]}
    return {"openapi": "3.0.0", "info": info, "paths": paths, "components": {"schemas": {}}}


def _paths(resource: Resource) -> Json:
    scope = "{namespace}" if resource.namespaced else ""
    kind = {"group": resource.group, "version": resource.version, "kind": resource.kind}
    collection = {"post": _operation("create", kind), "get": _operation("list", kind)}
    single = {
        "get": _operation("read", kind),
        "put": _operation("replace", kind),
        "patch": _operation("patch", kind),
        "delete": _operation("delete", kind),
    }
    return {resource.path(scope): collection, resource.path(scope, "{name}"): single}


def _operation(verb: str, kind: Json) -> Json:
    operation: Json = {
        "operationId": f"{verb}{kind['group'].partition('.')[0].capitalize()}{kind['version'].upper()}{kind['kind']}",
        "responses": {"200": {"description": "OK"}},
        "x-kubernetes-group-version-kind": kind,
    }
    if verb in ("create", "replace", "patch"):
        operation["parameters"] = [
            {"name": name, "in": "query", "schema": {"type": "string", "uniqueItems": True}}
            for name in _WRITE_PARAMETERS
        ]
        media = (JSON_PATCH, MERGE_PATCH) if verb == "patch" else ("application/json",)
        operation["requestBody"] = {"content": {name: {"schema": {"type": "object"}} for name in media}}
    return operation
