# SPDX-License-Identifier: Apache-2.0
"""The controllers' gateway over the lab's API client: list and watch, verbs, and errors in the controllers' words."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator

import aiohttp

from pointsman_lab.apiserver import resources
from pointsman_lab.apiserver.client import ApiClient
from pointsman_lab.apiserver.errors import ApiError
from pointsman_lab.apiserver.resources import Resource
from pointsman_lab.controller.gateway import ApiConflictError, ApiUnavailableError, Change, ChangeKind
from pointsman_lab.controller.objects import Object

_RETRY_SECONDS = 0.2
_NOT_FOUND = 404
_CONFLICT = 409
_GONE = 410
_SERVED = {
    "nodes": resources.NODES,
    "pods": resources.PODS,
    "services": resources.SERVICES,
    "deployments": resources.DEPLOYMENTS,
    "endpointslices": resources.ENDPOINTSLICES,
}


class HttpGateway:
    """Implements Gateway."""

    def __init__(self, client: ApiClient) -> None:
        """Takes an open client."""
        self._client = client

    async def follow(self, resource: str, *, label_selector: str = "") -> AsyncIterator[Change]:
        """LISTED, then every change; after an interruption it goes on where it was, or lists again if that is old."""
        served = _SERVED[resource]
        query = {"labelSelector": label_selector} if label_selector else {}
        version = ""
        while True:
            try:
                if not version:
                    listed = await self._client.list(served, **query)
                    version = listed["metadata"]["resourceVersion"]
                    kind = {"apiVersion": served.api_version, "kind": served.kind}
                    objects = [{**kind, **obj} for obj in listed.get("items") or ()]
                    yield Change(kind=ChangeKind.LISTED, objects=objects)
                async for event in self._client.watch(
                    served, **query, resourceVersion=version, allowWatchBookmarks="true"
                ):
                    if event.type == "ERROR":
                        version = ""
                        break
                    version = event.object["metadata"]["resourceVersion"]
                    if event.type == "DELETED":
                        yield Change(kind=ChangeKind.DELETED, objects=(event.object,))
                    elif event.type in {"ADDED", "MODIFIED"}:
                        yield Change(kind=ChangeKind.PUT, objects=(event.object,))
            except ApiError as error:
                if error.code == _GONE:
                    version = ""
                await asyncio.sleep(_RETRY_SECONDS)
            except (aiohttp.ClientError, OSError):
                await asyncio.sleep(_RETRY_SECONDS)

    async def create(self, resource: str, obj: Object) -> Object:
        """Creates an object.

        Raises:
            ApiConflictError: it exists.
            ApiUnavailableError: no answer.
        """
        with _in_our_words():
            return await self._client.create(_SERVED[resource], obj, obj["metadata"].get("namespace", ""))
        raise ApiConflictError(f"namespace {obj['metadata'].get('namespace')!r} is gone")

    async def replace(self, resource: str, obj: Object) -> Object | None:
        """Replaces an object at its resourceVersion; None when it is gone.

        Raises:
            ApiConflictError: it has changed.
            ApiUnavailableError: no answer.
        """
        with _in_our_words():
            return await self._client.update(_SERVED[resource], obj)
        return None

    async def patch(
        self, resource: str, namespace: str, name: str, patch: Object, *, subresource: str = ""
    ) -> Object | None:
        """Merge-patches an object; None when it is gone.

        Raises:
            ApiUnavailableError: no answer.
        """
        with _in_our_words():
            return await self._client.patch(_SERVED[resource], name, patch, namespace, subresource=subresource)
        return None

    async def bind(self, namespace: str, name: str, node: str) -> None:
        """Assigns a pod to a node, unless it is gone.

        Raises:
            ApiConflictError: it is assigned already.
            ApiUnavailableError: no answer.
        """
        binding = {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": name, "namespace": namespace},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node},
        }
        with _in_our_words():
            await self._client.request("POST", resources.PODS.path(namespace, name, "binding"), binding)

    async def delete(
        self, resource: str, namespace: str, name: str, *, uid: str = "", grace_seconds: int | None = None
    ) -> Object | None:
        """Deletes an object; answers with what is left of it, None when nothing is.

        Raises:
            ApiConflictError: another object has that name by now.
            ApiUnavailableError: no answer.
        """
        options: Object = {}
        if uid:
            options["preconditions"] = {"uid": uid}
        if grace_seconds is not None:
            options["gracePeriodSeconds"] = grace_seconds
        served: Resource = _SERVED[resource]
        with _in_our_words():
            answer = await self._client.request("DELETE", served.path(namespace, name), options or None)
            return answer if answer.get("kind") == served.kind else None
        return None


@contextlib.contextmanager
def _in_our_words() -> Iterator[None]:
    """Turns the client's errors into the controllers'; what was not found is no error."""
    try:
        yield
    except ApiError as error:
        if error.code == _NOT_FOUND:
            return
        if error.code == _CONFLICT:
            raise ApiConflictError(error.message) from error
        raise ApiUnavailableError(f"{error.code} {error.message}") from error
    except (aiohttp.ClientError, OSError) as error:
        raise ApiUnavailableError(str(error)) from error
