# SPDX-License-Identifier: Apache-2.0
"""The routes: `/healthz` and `/livez` for load balancers and kubelets, `/metrics` and others for operators."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from pointsman_chassis.clock import Clock
from pointsman_chassis.http import Handler, Request, Response, metrics_handler
from pointsman_chassis.metrics import Registry
from pointsman_enforcer.core.status import Health, HealthStatus
from pointsman_enforcer.metrics import EnforcerMetrics
from pointsman_model.names import Family

_JSON: Final = "application/json"
_FAMILY_NAMES: Final = {Family.IPV4: "IPv4", Family.IPV6: "IPv6"}


def health_routes(health: Health, metrics: EnforcerMetrics, clock: Clock) -> dict[str, Handler]:
    """The routes of healthzBindAddress."""

    def healthz(_: Request) -> Response:
        status = health.status(clock.monotonic())
        response = _response(_body(status, clock, with_node=True), is_good=status.is_ready)
        metrics.healthz.labels(str(response.status)).inc()
        return response

    def livez(_: Request) -> Response:
        status = health.status(clock.monotonic())
        response = _response(_body(status, clock, with_node=False), is_good=status.is_healthy)
        metrics.livez.labels(str(response.status)).inc()
        return response

    return {"/healthz": healthz, "/livez": livez}


def metrics_routes(*, registry: Registry, mode: str, config: Mapping[str, Any]) -> dict[str, Handler]:
    """The routes of metricsBindAddress. `config` is the effective configuration; it holds no secrets, only paths.

    `/healthz` here only says that the process answers, as kube-proxy's does.
    """
    body = json.dumps({"enforcer.config.pointsman.io": dict(config)}, indent=2).encode() + b"\n"
    return {
        "/metrics": metrics_handler(registry),
        "/proxyMode": lambda _: Response(body=mode.encode()),
        "/configz": lambda _: Response(body=body, content_type=_JSON),
        "/healthz": lambda _: Response(body=b"ok"),
    }


def status_route(describe: Callable[[], Mapping[str, Any]]) -> Handler:
    """A page for people: the plan held, the stream, and every service that is not as planned, with its reason."""

    def status(_: Request) -> Response:
        return Response(body=json.dumps(describe(), indent=2).encode() + b"\n", content_type=_JSON)

    return status


def _body(status: HealthStatus, clock: Clock, *, with_node: bool) -> dict[str, Any]:
    """kube-proxy's document; `lastUpdated` of a healthy family is now, as there."""
    now = clock.wall_ns()
    families = {
        _FAMILY_NAMES[family]: {
            "lastUpdated": _time(now if each.is_healthy else _wall(each.synced_at, clock)),
            "healthy": each.is_healthy,
        }
        for family, each in status.families.items()
    }
    oldest = [each["lastUpdated"] for each in families.values()]
    body: dict[str, Any] = {"lastUpdated": min(map(str, oldest)), "currentTime": _time(now)}
    if with_node:
        body["nodeEligible"] = status.is_node_eligible
    return {**body, "healthy": status.is_healthy, "status": families}


def _wall(monotonic: float | None, clock: Clock) -> int:
    """A monotonic moment on the wall clock; the epoch for one that never was."""
    if monotonic is None:
        return 0
    return clock.wall_ns() - round((clock.monotonic() - monotonic) * 1e9)


def _time(nanoseconds: int) -> str:
    return datetime.fromtimestamp(nanoseconds / 1e9, UTC).isoformat().replace("+00:00", "Z")


def _response(body: Mapping[str, Any], *, is_good: bool) -> Response:
    return Response(body=json.dumps(body).encode(), status=200 if is_good else 503, content_type=_JSON)
