# SPDX-License-Identifier: Apache-2.0
"""A small asynchronous client of the Kubernetes API, for controllers, the demo and the benchmark.

Plain dicts in and out, one connection pool, no caching and no retries: whoever calls knows what to do about a failure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self

import aiohttp
import msgspec

from pointsman_lab.apiserver.encoding import Json, decode_json, encode_json
from pointsman_lab.apiserver.errors import ApiError
from pointsman_lab.apiserver.patches import MERGE_PATCH

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncGenerator, Mapping

    from pointsman_lab.apiserver.resources import Resource

_READ_BUFFER_BYTES: Final = 1024 * 1024
_CONNECTIONS: Final = 64
_FAILURE: Final = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchEvent:
    """One event of a watch; `type` is ADDED, MODIFIED, DELETED, BOOKMARK or ERROR."""

    type: str
    object: Json


class ApiClient:
    """A client of one API server; use it as an asynchronous context manager.

    Args:
        base_url: such as https://127.0.0.1:6443.
        tls: the TLS context for https (CA, client certificate); False skips the check of the server.
        token: a bearer token.

    Every call raises ApiError when the server refuses, and aiohttp.ClientError when there is no answer.
    """

    def __init__(self, base_url: str, *, tls: ssl.SSLContext | bool = True, token: str = "") -> None:
        self._base_url = base_url.rstrip("/")
        self._tls = tls
        self._headers = {"Accept": "application/json", "User-Agent": "pointsman-lab"}
        if token:
            self._headers["Authorization"] = f"Bearer {token}"
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            headers=self._headers,
            connector=aiohttp.TCPConnector(limit=_CONNECTIONS, ssl=self._tls),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=10),
            read_bufsize=_READ_BUFFER_BYTES,
        )
        return self

    async def __aexit__(self, *_exc: object) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def get(self, resource: Resource, name: str, namespace: str = "") -> Json:
        """Get one object."""
        return await self.request("GET", resource.path(namespace, name))

    async def list(self, resource: Resource, namespace: str = "", **query: str) -> Json:
        """Get a list object; query parameters by their API names (limit, labelSelector...)."""
        return await self.request("GET", resource.path(namespace), query=query)

    async def create(self, resource: Resource, body: Json, namespace: str = "") -> Json:
        """Create an object."""
        return await self.request("POST", resource.path(namespace), body)

    async def update(self, resource: Resource, body: Json, subresource: str = "") -> Json:
        """Replace an object; its resourceVersion, if it has one, must be the present one."""
        metadata = body["metadata"]
        path = resource.path(metadata.get("namespace", ""), metadata["name"], subresource)
        return await self.request("PUT", path, body)

    async def patch(
        self,
        resource: Resource,
        name: str,
        patch: object,
        namespace: str = "",
        *,
        subresource: str = "",
        media_type: str = MERGE_PATCH,
        **query: str,
    ) -> Json:
        """Patch an object, by default with a merge patch."""
        path = resource.path(namespace, name, subresource)
        return await self.request("PATCH", path, patch, query=query, media_type=media_type)

    async def delete(
        self, resource: Resource, name: str, namespace: str = "", *, grace_seconds: int | None = None
    ) -> Json:
        """Delete an object; a grace period applies to pods."""
        options = None if grace_seconds is None else {"gracePeriodSeconds": grace_seconds}
        return await self.request("DELETE", resource.path(namespace, name), options)

    async def watch(self, resource: Resource, namespace: str = "", **query: str) -> AsyncGenerator[WatchEvent, None]:
        """Give the events of a watch until the server ends it."""
        url = f"{self._base_url}{resource.path(namespace)}"
        async with self._open_session().get(url, params={"watch": "1", **query}) as response:
            if response.status >= _FAILURE:
                raise _failure(response.status, await response.read())
            pending = b""
            async for chunk in response.content.iter_any():
                *lines, pending = (pending + chunk).split(b"\n")
                for line in lines:
                    event = decode_json(line)
                    yield WatchEvent(type=event["type"], object=event["object"])

    async def request(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        query: Mapping[str, str] | None = None,
        media_type: str = "application/json",
    ) -> Json:
        """Send any request and give the JSON object it is answered with."""
        data = None if body is None else encode_json(body)
        headers = {"Content-Type": media_type} if data is not None else {}
        url = f"{self._base_url}{path}"
        async with self._open_session().request(method, url, data=data, params=query, headers=headers) as response:
            raw = await response.read()
            if response.status >= _FAILURE:
                raise _failure(response.status, raw)
            answer: Json = decode_json(raw)
            return answer

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            raise RuntimeError("ApiClient is not open: use it in `async with`")
        return self._session


def _failure(code: int, raw: bytes) -> ApiError:
    try:
        status: Any = decode_json(raw)
    except msgspec.DecodeError:
        status = None
    if not isinstance(status, dict):
        return ApiError(code, "", raw.decode(errors="replace").strip())
    details = status.get("details") or {}
    return ApiError(
        code,
        status.get("reason", ""),
        status.get("message", ""),
        details=details,
        continue_token=(status.get("metadata") or {}).get("continue", ""),
        retry_after_seconds=details.get("retryAfterSeconds"),
    )
