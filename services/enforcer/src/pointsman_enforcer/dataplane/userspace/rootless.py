# SPDX-License-Identifier: Apache-2.0
"""The rootless form: the proxy listens at the frontends themselves, and there are no rules at all.

For a network namespace in which the Services' addresses are local, or with local addresses given in their place. What
only rules can do is refused: a frontend that treats classes of clients differently, that drops, that has source ranges,
or SCTP. A frontend that rejects is one where nobody listens.

Ownership: listeners of this process. Whatever it is started in, it finds nothing and leaves nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence

from pointsman_chassis.metrics import Registry
from pointsman_enforcer.core.stale_flows import Place
from pointsman_enforcer.dataplane.base import (
    Applied,
    Found,
    KernelError,
    Mended,
    OccupiedError,
    ProxyMode,
    UnsupportedPlanError,
)
from pointsman_enforcer.dataplane.node_settings import NodeSettings, effective_settings
from pointsman_enforcer.dataplane.userspace import target
from pointsman_enforcer.dataplane.userspace.change import UserspaceChange, diff
from pointsman_enforcer.dataplane.userspace.limits import ProxyLimits
from pointsman_enforcer.dataplane.userspace.memory import ProxyMemory
from pointsman_enforcer.dataplane.userspace.metrics import measure
from pointsman_enforcer.dataplane.userspace.proxy import Proxy
from pointsman_enforcer.dataplane.userspace.redirect import PROXIED, target_of
from pointsman_enforcer.dataplane.userspace.target import Listener
from pointsman_enforcer.dataplane.userspace.words import describe_close, describe_serve
from pointsman_model.names import Family, format_address
from pointsman_model.plan import Action, Frontend, FrontendKind, NodeFacts, ServicePlan, ServicePortPlan, TrafficClass

CAPABILITIES = frozenset({"weights", "affinity"})
"""Names this form answers to in ServicePlan.required_capabilities."""


class RootlessDataplane:
    """See `dataplane.base.Dataplane`. Listens in the network namespace of the thread that makes it."""

    mode = ProxyMode.USERSPACE
    capabilities = CAPABILITIES
    read_back = None
    """The listeners are this process's own: there is nobody to ask."""

    def __init__(
        self,
        *,
        node_settings: NodeSettings,
        places: Mapping[bytes, bytes] | None = None,
        limits: ProxyLimits | None = None,
    ) -> None:
        """`places`: the local address to listen at instead of a frontend's address; a node port's is empty.

        Addresses that it does not name are listened at themselves, node ports at the node's primary address.
        """
        self._node_settings, self._at = node_settings, dict(places or {})
        self.settings = effective_settings(node_settings, None)
        self.proxy = Proxy(limits)
        self.affinity = ProxyMemory(self.proxy)
        self._primary: dict[Family, bytes] = {}
        self._unclaimed: set[bytes] = set()

    def configure(self, facts: NodeFacts) -> bool:
        """See `Dataplane.configure`; node ports move with the node's primary addresses."""
        self.settings = effective_settings(self._node_settings, facts)
        primary = {family: address for family in Family if (address := facts.primary_address(family)) is not None}
        is_moved, self._primary = primary != self._primary, primary
        return is_moved

    async def observe(self) -> Found:
        """Nothing outlives the process; of our own listeners, what nobody asks for again is left over."""
        self._unclaimed = set(self.proxy.served())
        return Found.OURS if self._unclaimed else Found.NOTHING

    async def prepare(self, *, whole_plan: bool = False) -> None:
        """There are no static objects."""

    def claim(self, plan: ServicePlan, remembered: bytes) -> bytes:  # noqa: ARG002 - as the protocol has it
        """Nothing is found, so nothing is claimed."""
        return remembered

    def render(self, plan: ServicePlan, previous: bytes) -> bytes:  # noqa: ARG002 - as the protocol has it
        """See `Dataplane.render`."""
        missing = sorted(set(plan.required_capabilities) - self.capabilities)
        if missing:
            raise UnsupportedPlanError(f"the plan requires {', '.join(missing)}, which needs rules")
        listeners: dict[bytes, bytes] = {}
        for port in plan.ports:
            for frontend in port.frontends:
                index = _endpoint_set(port, frontend)
                if index is None:
                    continue
                if port.protocol not in PROXIED:
                    raise UnsupportedPlanError(f"{_name(frontend)}: {port.protocol.name} has no proxy")
                listener = Listener(self._address(port, frontend), port.protocol, frontend.port)
                listeners[listener.pack()] = target_of(port, index, plan.affinity_timeout_seconds).pack()
        return target.pack(b"", listeners)

    def claim_node(self, remembered: bytes) -> bytes:
        """Nothing is found, so nothing is claimed."""
        return remembered

    def render_node(self, facts: NodeFacts, *, drop_unallocated: bool) -> bytes:  # noqa: ARG002 - as the protocol has it
        """The node has no objects."""
        return b""

    def diff(self, old: bytes, new: bytes) -> UserspaceChange:
        """See `Dataplane.diff`."""
        return diff(old, new)

    async def apply(self, change: UserspaceChange) -> Applied:
        """Open, change and close listeners, or do nothing."""
        served = self.proxy.served()
        for key in change.serves.keys() & served.keys():
            if target.parse_target(served[key]).memory != target.parse_target(change.serves[key]).memory:
                raise OccupiedError(f"{describe_serve(key, served[key])}: still programmed for another service")
        try:
            await self._in_proxy(lambda: self.proxy.update(change.serves, change.closes))
        except OSError as error:
            raise KernelError(f"the proxy cannot listen: {error}") from error
        self._unclaimed -= change.serves.keys() | change.closes.keys()
        self.affinity.served(change.serves)
        return Applied(0, 0)

    def measure(self, registry: Registry) -> None:
        """See `base.Measured`."""
        measure(registry, self.proxy)

    def watch(self, noticed: Callable[[], None]) -> None:
        """Nobody else can change a listener."""

    async def mend(self, renderings: Sequence[bytes], *, may_remove: bool) -> Mended:  # noqa: ARG002 - as the protocol has it
        """There is nothing to mend."""
        return Mended()

    def is_frontend(self, place: Place) -> bool:
        """See `Dataplane.is_frontend`."""
        served = self.proxy.served()
        return any(
            (each.address, each.port, int(each.protocol)) == (place.address or each.address, place.port, place.protocol)
            for each in map(target.parse_listener, served)
        )

    def leftover(self) -> Iterator[UserspaceChange]:
        """Listeners that nobody asks for."""
        if self._unclaimed:
            yield UserspaceChange(closes=dict.fromkeys(self._unclaimed))

    def describe(self, change: UserspaceChange) -> Iterator[str]:
        """Listeners in words."""
        yield from (describe_serve(key, change.serves[key]) for key in sorted(change.serves))
        yield from map(describe_close, sorted(change.closes))

    async def cleanup(self) -> None:
        """Close every listener."""
        served = self.proxy.served()
        await self._in_proxy(lambda: self.proxy.update({}, served))

    def close(self) -> None:
        """End the proxy, and every connection with it."""
        self.proxy.close()

    async def _in_proxy(self, function: Callable[[], object]) -> None:
        await asyncio.wrap_future(self.proxy.poller.submit(function))

    def _address(self, port: ServicePortPlan, frontend: Frontend) -> bytes:
        address = self._at.get(frontend.address, frontend.address)
        if not address and frontend.kind is FrontendKind.NODE_PORT:
            address = self._primary.get(port.family, b"")
        if len(address) != port.family.address_bytes:
            raise UnsupportedPlanError(f"{_name(frontend)}: there is no {port.family.name} address to listen at")
        return address


def _endpoint_set(port: ServicePortPlan, frontend: Frontend) -> int | None:
    """The one endpoint set of a frontend; None when it rejects everybody."""
    verdicts = {frontend.verdict(each)._replace(masquerade=False) for each in TrafficClass}
    if len(verdicts) > 1:
        raise UnsupportedPlanError(f"{_name(frontend)}: only rules can tell pods, this host and others apart")
    if frontend.source_ranges:
        raise UnsupportedPlanError(f"{_name(frontend)}: only rules can drop by source ranges")
    (verdict,) = verdicts
    if verdict.action is Action.DROP:
        raise UnsupportedPlanError(f"{_name(frontend)}: only rules can drop")
    if verdict.action is Action.REJECT:
        return None
    if verdict.endpoint_set >= len(port.endpoint_sets):
        raise UnsupportedPlanError(f"{_name(frontend)}: a verdict names an endpoint set that is not there")
    return verdict.endpoint_set


def _name(frontend: Frontend) -> str:
    return f"{format_address(frontend.address) if frontend.address else 'node port'} {frontend.port}"
