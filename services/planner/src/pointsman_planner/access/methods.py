# SPDX-License-Identifier: Apache-2.0
"""Which right each method of the control API needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

from pointsman_planner.core.rights import Right

_CONTROL: Final = "/pointsman.control.v1.ControlService/"
_OVERRIDES: Final = "/pointsman.control.v1.OverrideService/"


def right_of(method: str, request: Any) -> Right | None:
    """The right that a request needs; None for a method that nobody was told of."""
    rule = _RIGHTS.get(method)
    return rule(request) if rule is not None else None


def _in(verb: str, resource: str, namespace: str) -> Right:
    """A right in one namespace; over all of them, the answer holds what the caller may see."""
    is_reading = verb in {"list", "watch"}
    return Right(verb=verb, resource=resource, namespace=namespace, is_filtered=is_reading and not namespace)


def _everywhere(verb: str, resource: str) -> Callable[[Any], Right]:
    return lambda _: Right(verb=verb, resource=resource)


def _wait(request: Any) -> Right:
    if request.WhichOneof("target") == "service":
        return _in("wait", "services", request.service.name.namespace)
    return Right(verb="wait", resource="nodes")


_RIGHTS: Final[Mapping[str, Callable[[Any], Right]]] = MappingProxyType(
    {
        f"{_CONTROL}ListServices": lambda r: _in("list", "services", r.namespace),
        f"{_CONTROL}GetService": lambda r: _in("get", "services", r.name.namespace),
        f"{_CONTROL}WatchServices": lambda r: _in("watch", "services", r.namespace),
        f"{_CONTROL}GetEndpoints": lambda r: _in("get", "endpoints", r.service.namespace),
        f"{_CONTROL}WatchEndpoints": lambda r: _in("watch", "endpoints", r.service.namespace),
        f"{_CONTROL}ListNodes": _everywhere("list", "nodes"),
        f"{_CONTROL}GetNode": _everywhere("get", "nodes"),
        f"{_CONTROL}WatchNodes": _everywhere("watch", "nodes"),
        f"{_CONTROL}GetNodePlan": _everywhere("get", "plans"),
        f"{_CONTROL}ExplainPacket": _everywhere("explain", "plans"),
        f"{_CONTROL}WaitConverged": _wait,
        f"{_OVERRIDES}ApplyOverride": lambda r: _in("override", "overrides", r.override.name.namespace),
        f"{_OVERRIDES}RenewOverride": lambda r: _in("override", "overrides", r.name.namespace),
        f"{_OVERRIDES}DeleteOverride": lambda r: _in("override", "overrides", r.name.namespace),
        f"{_OVERRIDES}GetOverride": lambda r: _in("get", "overrides", r.name.namespace),
        f"{_OVERRIDES}ListOverrides": lambda r: _in("list", "overrides", r.service.namespace),
        f"{_OVERRIDES}WatchOverrides": lambda r: _in("watch", "overrides", r.service.namespace),
    }
)
