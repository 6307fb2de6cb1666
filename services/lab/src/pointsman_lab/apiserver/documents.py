# SPDX-License-Identifier: Apache-2.0
"""The read-only documents beside the resources: health, version, discovery and OpenAPI, by path."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from aiohttp import web

from pointsman_lab.apiserver import discovery, openapi
from pointsman_lab.apiserver.encoding import encode_json
from pointsman_lab.apiserver.negotiation import JSON_TYPE

if TYPE_CHECKING:
    from pointsman_lab.apiserver.encoding import Json

_HEALTH: Final = ("/healthz", "/livez", "/readyz")
_HEADERS: Final = {"Cache-Control": "no-cache, private"}


def document(request: web.BaseRequest, path: str) -> web.Response | None:
    """Give the document at a path, None when there is none."""
    if request.method != "GET":
        return None
    if path.startswith(_HEALTH):
        return web.Response(text="ok", headers=_HEADERS)
    if path.rstrip("/") == "/openapi/v2" and "protobuf" in request.headers.get("Accept", ""):
        return web.Response(
            body=openapi.openapi_v2_protobuf(), headers={**_HEADERS, "Content-Type": openapi.V2_PROTOBUF}
        )
    found = _json_document(path.rstrip("/"), request)
    if found is None:
        return None
    return web.Response(body=encode_json(found), content_type=JSON_TYPE, headers=_HEADERS)


def _json_document(path: str, request: web.BaseRequest) -> Json | None:
    parts = path.strip("/").split("/")
    if parts[0] == "openapi":
        return _openapi(parts[1:])
    if parts[0] in ("api", "apis"):
        return _discovery(parts, request.host)
    return dict(discovery.VERSION) if parts == ["version"] else None


def _discovery(parts: list[str], server_address: str) -> Json | None:
    match parts:
        case ["api"]:
            return discovery.api_versions(server_address)
        case ["api", version]:
            return discovery.api_resources("", version)
        case ["apis"]:
            return discovery.api_groups()
        case ["apis", group]:
            return discovery.api_group(group)
        case ["apis", group, version]:
            return discovery.api_resources(group, version)
    return None


def _openapi(parts: list[str]) -> Json | None:
    match parts:
        case ["v2"]:
            return openapi.openapi_v2()
        case ["v3"]:
            return openapi.openapi_v3_index()
        case ["v3", *rest]:
            return openapi.openapi_v3("/".join(rest))
    return None
