# SPDX-License-Identifier: Apache-2.0
"""The lab's own HTTP paths beside the Kubernetes API: faults, counters and bulk loading under /lab/v1.

    GET    /lab/v1/stats                    counters; DELETE sets them to zero
    GET    /lab/v1/commits/RESOURCE         when each remembered change was committed, CLOCK_MONOTONIC by version
    GET    /lab/v1/faults                   the faults in force; DELETE ends them all
    POST   /lab/v1/faults/drop-watches      {"resource": "endpointslices", "abrupt": true}
    POST   /lab/v1/faults/freeze-watches    {"resource": "..."}; thaw-watches ends it
    POST   /lab/v1/faults/delay-watches     {"resource": "...", "seconds": 0.5}
    POST   /lab/v1/faults/compact           {"resource": "...", "resourceVersion": 123}
    POST   /lab/v1/faults/refuse            {"count": 3, "code": 429, "retryAfterSeconds": 1, "verb": "list"}
    POST   /lab/v1/load                     {"items": [objects with kind and apiVersion]}

An absent resource means all of them.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, TypeVar

from pointsman_lab.apiserver import errors
from pointsman_lab.apiserver.resources import RESOURCES

if TYPE_CHECKING:
    from collections.abc import Callable

    from pointsman_lab.apiserver.encoding import Json
    from pointsman_lab.apiserver.faults import Faults
    from pointsman_lab.apiserver.registry import Registry
    from pointsman_lab.apiserver.resources import Resource
    from pointsman_lab.apiserver.stats import Stats

PREFIX: Final = "/lab/v1/"
_LOAD_BATCH: Final = 200
_CODES: Final = (429, 500, 503)

Value = TypeVar("Value", str, int, float, bool)


class Admin:
    """Answers the lab's own paths; `drop_watches` closes the open watches of a resource and gives their number."""

    def __init__(
        self, registry: Registry, faults: Faults, stats: Stats, drop_watches: Callable[[str, bool], int]
    ) -> None:
        self._registry = registry
        self._faults = faults
        self._stats = stats
        self._drop_watches = drop_watches

    async def answer(self, method: str, path: str, body: object) -> Json:
        """Do what a request under PREFIX asks and give the answer's body.

        Raises:
            ApiError: 400 for a body that makes no sense, 404 for an unknown path.
        """
        asked = body if isinstance(body, dict) else {}
        match method, path.removeprefix(PREFIX).split("/"):
            case "GET", ["stats"]:
                return self._stats.as_json()
            case "DELETE", ["stats"]:
                self._stats.reset()
            case "GET", ["commits", resource]:
                return self._commits(_plural({"resource": resource}))
            case "GET", ["faults"]:
                return self._faults.as_json()
            case "DELETE", ["faults"]:
                self._faults.clear()
            case "POST", ["faults", fault]:
                return self._fault(fault, asked)
            case "POST", ["load"]:
                return await self._load(asked)
            case _:
                raise errors.ApiError(
                    404, "NotFound", f"the lab has no {method} {path}; see /lab/v1/faults and /lab/v1/stats"
                )
        return {"done": True}

    def _commits(self, plural: str) -> Json:
        logs = [self._registry.store.collection(r).log for r in RESOURCES if r.plural == plural and r.stored]
        return {str(event.resource_version): event.committed_at for log in logs for event in log.after(log.compacted)}

    def _fault(self, fault: str, asked: Json) -> Json:
        resource = _plural(asked)
        match fault:
            case "drop-watches":
                return {"dropped": self._drop_watches(resource, _field(asked, "abrupt", default=False))}
            case "freeze-watches":
                self._faults.freeze_watches(resource)
            case "thaw-watches":
                self._faults.thaw_watches(resource)
            case "delay-watches":
                self._faults.delay_watches(float(_number(asked, "seconds", default=0)), resource)
            case "compact":
                return self._compact(resource, asked)
            case "refuse":
                self._refuse(resource, asked)
            case _:
                raise errors.ApiError(404, "NotFound", f"the lab has no fault {fault!r}")
        return self._faults.as_json()

    def _compact(self, plural: str, asked: Json) -> Json:
        version = int(_number(asked, "resourceVersion", default=0)) or None
        chosen: list[Resource | None] = [r for r in RESOURCES if r.plural == plural and r.stored] if plural else [None]
        compacted = [self._registry.store.compact(resource, version) for resource in chosen]
        return {"compacted": compacted[0]}

    def _refuse(self, resource: str, asked: Json) -> None:
        code = int(_number(asked, "code", default=429))
        if code not in _CODES:
            raise errors.bad_request(f"code is {code}, must be one of {_CODES}")
        self._faults.refuse(
            count=int(_number(asked, "count", default=1)),
            code=code,
            retry_after_seconds=int(_number(asked, "retryAfterSeconds", default=1)),
            resource=resource,
            verb=_field(asked, "verb", default=""),
        )

    async def _load(self, asked: Json) -> Json:
        items = asked.get("items")
        if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
            raise errors.bad_request("send a List: an object whose items are objects with kind and apiVersion")
        loaded = 0
        for start in range(0, len(items), _LOAD_BATCH):
            loaded += self._registry.load(items[start : start + _LOAD_BATCH])
            await asyncio.sleep(0)  # let watches and other requests through between batches
        return {"loaded": loaded, "resourceVersion": str(self._registry.store.revision)}


def _field(asked: Json, name: str, *, default: Value) -> Value:
    value: Any = asked.get(name, default)
    if not isinstance(value, type(default)):
        raise errors.bad_request(f"{name} is {value!r}, must be a {type(default).__name__}")
    return value


def _number(asked: Json, name: str, *, default: float) -> float:
    value = asked.get(name, default)
    if not isinstance(value, (int, float)) or isinstance(value, bool) or value < 0:
        raise errors.bad_request(f"{name} is {value!r}, must be a number of at least 0")
    return value


def _plural(asked: Json) -> str:
    plural = _field(asked, "resource", default="")
    if plural and not any(resource.plural == plural for resource in RESOURCES):
        raise errors.bad_request(f"resource is {plural!r}, which is not served; use a plural such as endpointslices")
    return plural
