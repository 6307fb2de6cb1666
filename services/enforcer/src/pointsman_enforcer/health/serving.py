# SPDX-License-Identifier: Apache-2.0
"""Everything the enforcer serves over HTTP, put together: pages at two addresses, health check node ports."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from pointsman_chassis.clock import Clock
from pointsman_chassis.metrics import Registry
from pointsman_chassis.settings import settings_as_data
from pointsman_enforcer.core.conditions import ConditionKind, ServiceConditions
from pointsman_enforcer.core.local_endpoints import GapCount
from pointsman_enforcer.core.service_health import Listener, not_served
from pointsman_enforcer.core.status import Health
from pointsman_enforcer.health.bind_address import parse_bind_address
from pointsman_enforcer.health.metrics import ServingMetrics
from pointsman_enforcer.health.pages import Page, PageServers
from pointsman_enforcer.health.routes import health_routes, metrics_routes, status_route
from pointsman_enforcer.health.service_health import HealthCheckEvents, ServiceHealthServers
from pointsman_enforcer.metrics import EnforcerMetrics
from pointsman_enforcer.settings import HEALTHZ_PORT, METRICS_PORT, EnforcerConfiguration
from pointsman_model.names import Prefix, ServiceKey, format_address
from pointsman_model.plan import ServicePlan


class Serving:
    """The servers of one enforcer."""

    def __init__(
        self,
        *,
        config: EnforcerConfiguration,
        health: Health,
        registry: Registry,
        metrics: EnforcerMetrics,
        clock: Clock,
        describe: Callable[[], Mapping[str, Any]],
        conditions: ServiceConditions,
        on_conditions: Callable[[], None],
    ) -> None:
        """`describe` gives the content of /statusz; what is known here is added to it.

        Health check node ports that cannot be served are `conditions`; `on_conditions` is called when these changed.
        """
        self._conditions, self._on_conditions = conditions, on_conditions
        self._clock = clock
        self._metrics = ServingMetrics(registry)
        self._gaps = GapCount()
        self._metrics.gaps(self._gaps)
        self._describe = describe
        self._checks = ServiceHealthServers(
            is_healthy=lambda: health.status(clock.monotonic()).is_healthy,
            clock=clock,
            events=HealthCheckEvents(
                opened=self._metrics.health_check_ports.labels("open").set,
                failed=self._not_served,
                refused=self._metrics.health_check_bind_failures.inc,
            ),
        )
        pages = health_routes(health, metrics, clock)
        figures = metrics_routes(registry=registry, mode=config.mode, config=settings_as_data(config))
        figures["/statusz"] = status_route(self._status)
        healthz = parse_bind_address(config.healthz_bind_address, HEALTHZ_PORT, "healthzBindAddress")
        others = parse_bind_address(config.metrics_bind_address, METRICS_PORT, "metricsBindAddress")
        self._pages = PageServers(
            (
                Page(field="healthzBindAddress", address=healthz, routes=pages),
                Page(field="metricsBindAddress", address=others, routes=figures),
            ),
            is_hard_fail=config.bind_address_hard_fail,
            clock=clock,
            on_failure=lambda field: self._metrics.bind_failures.labels(field).inc(),
        )

    def programmed(self, service: ServiceKey, plan: ServicePlan) -> None:
        """The kernel has the service like this; an empty plan when it is gone."""
        self._checks.update(service, plan.health_check)
        self._gaps.update(service, plan)

    def synced(self, node_port_addresses: tuple[Prefix, ...]) -> None:
        """A sync is over; node ports are accepted at local addresses in these blocks."""
        self._checks.configure(node_port_addresses)
        self._metrics.gaps(self._gaps)

    async def open(self) -> None:
        """Serve pages at once where that is possible; raises ConfigError as bindAddressHardFail asks."""
        await self._pages.open()

    def work(self) -> dict[str, Coroutine[Any, Any, None]]:
        """What has to run, by name of its task."""
        return {"pages": self._pages.run(), "health-checks": self._checks.run()}

    async def close(self) -> None:
        """Stop serving pages."""
        await self._pages.close()

    def _not_served(self, failures: Mapping[Listener, str]) -> None:
        self._metrics.health_check_ports.labels("failed").set(len(failures))
        messages = not_served(failures)
        if self._conditions.replace(ConditionKind.HEALTH_CHECK_NODE_PORT, messages, self._clock.wall_ns()):
            self._on_conditions()

    def _status(self) -> dict[str, Any]:
        failures = {
            f"{each.service} at {format_address(each.address)} port {each.port}": reason
            for each, reason in self._checks.failures.items()
        }
        return {**self._describe(), "notServed": self._pages.waiting, "healthChecksNotServed": failures}
