# SPDX-License-Identifier: Apache-2.0
"""The userspace dataplane: the rules of another mode, which lead to a proxy of this process instead of to endpoints.

Ownership: the kernel objects of nftables or iptables mode, adopted, mended and removed by its code. What a restarted
process finds there leads to ports where nobody listens any more: they are avoided, and replaced service by service.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence

from pointsman_chassis.clock import Clock, SystemClock
from pointsman_chassis.metrics import Registry
from pointsman_enforcer.core.stale_flows import Place
from pointsman_enforcer.dataplane.base import Applied, Found, KernelError, Measured, Mended, ProxyMode, ReadBack
from pointsman_enforcer.dataplane.flows import Flows
from pointsman_enforcer.dataplane.node_settings import NodeSettings
from pointsman_enforcer.dataplane.userspace import target
from pointsman_enforcer.dataplane.userspace.change import UserspaceChange, diff
from pointsman_enforcer.dataplane.userspace.flows import ProxiedFlows
from pointsman_enforcer.dataplane.userspace.limits import ProxyLimits
from pointsman_enforcer.dataplane.userspace.memory import ProxyMemory
from pointsman_enforcer.dataplane.userspace.metrics import measure
from pointsman_enforcer.dataplane.userspace.places import Places
from pointsman_enforcer.dataplane.userspace.proxy import Proxy
from pointsman_enforcer.dataplane.userspace.redirect import redirect
from pointsman_enforcer.dataplane.userspace.rules import Rules
from pointsman_enforcer.dataplane.userspace.words import describe_close, describe_serve
from pointsman_enforcer.dataplane.xtables.tools import Variant
from pointsman_model.names import Family, family_of
from pointsman_model.plan import DataplaneSettings, NodeFacts, ServicePlan


class UserspaceDataplane:
    """See `dataplane.base.Dataplane`. Rules and proxy belong to the network namespace of the thread that makes it."""

    mode = ProxyMode.USERSPACE

    def __init__(
        self,
        *,
        node_settings: NodeSettings,
        masquerade_bit: int = 14,
        variant: Variant | None = None,
        limits: ProxyLimits | None = None,
        clock: Clock | None = None,
    ) -> None:
        """With a `variant` the rules are those of iptables mode, without those of nftables mode.

        Raises:
            UnsupportedError: that variant's tools are not installed.
            OSError: we may not change rules here.
        """
        self._node_settings = node_settings
        made = _open_rules(node_settings, masquerade_bit, variant, clock)
        self._rules, self._merge, self._destinations = made
        self.capabilities = self._rules.capabilities
        self.proxy = Proxy(limits)
        self.affinity = ProxyMemory(self.proxy)
        self._places = Places(self.proxy.bind, self.proxy.release, clock or SystemClock())
        self._unclaimed: set[bytes] = set()
        """Listeners that no service has asked for since the last `observe`."""
        self._is_parting = False

    @property
    def settings(self) -> DataplaneSettings:
        """See `Dataplane.settings`."""
        return self._rules.settings

    def configure(self, facts: NodeFacts) -> bool:
        """See `Dataplane.configure`; listeners move when the node's primary addresses do."""
        configured = self._node_settings.primary_address
        addresses = {family: address for family in Family if (address := facts.primary_address(family)) is not None}
        if configured is not None:
            addresses[family_of(configured)] = configured
        is_moved, self._places.addresses = addresses != self._places.addresses, addresses
        return self._rules.configure(facts) or is_moved

    async def observe(self) -> Found:
        """Read the rules. Our own listeners are known; what nobody asks for again is left over."""
        found = await self._rules.observe()
        self._unclaimed = set(self.proxy.served())
        listeners = {target.parse_listener(key) for key in self._unclaimed}
        directed = self._destinations() if found is not Found.NOTHING else set()
        self._places.avoid(directed - {(each.address, each.port) for each in listeners})
        return found

    async def prepare(self, *, whole_plan: bool = False) -> None:
        """See `Dataplane.prepare`."""
        await self._rules.prepare(whole_plan=whole_plan)

    def claim(self, plan: ServicePlan, remembered: bytes) -> bytes:
        """See `Dataplane.claim`. What keeps others away from this plan's listeners is claimed with its frontends."""
        before = target.rules_of(remembered)
        claimed = self._rules.claim(plan, before)
        if claimed is before:
            return remembered
        claimed = self._rules.claim(redirect(plan, self._places.promise).proxied, claimed)
        return target.pack(claimed, target.listeners_of(remembered))

    def render(self, plan: ServicePlan, previous: bytes) -> bytes:
        """See `Dataplane.render`. Ports to listen at are promised on the way, and are the same when asked again."""
        before = target.rules_of(previous)
        if self._is_parting:
            return target.pack(self._rules.render(plan, before), target.listeners_of(previous))
        divided = redirect(plan, self._places.promise)
        rules = self._rules.render(divided.proxied, before)
        if divided.direct.ports:
            rules = self._merge(rules, self._rules.render(divided.direct, before))
        return target.pack(rules, divided.listeners)

    def claim_node(self, remembered: bytes) -> bytes:
        """See `Dataplane.claim_node`."""
        return target.pack(self._rules.claim_node(target.rules_of(remembered)), {})

    def render_node(self, facts: NodeFacts, *, drop_unallocated: bool) -> bytes:
        """See `Dataplane.render_node`."""
        return target.pack(self._rules.render_node(facts, drop_unallocated=drop_unallocated), {})

    def diff(self, old: bytes, new: bytes) -> UserspaceChange:
        """See `Dataplane.diff`."""
        return diff(old, new, self._rules.diff)

    async def apply(self, change: UserspaceChange) -> Applied:
        """Listen, then lead there, then listen no more where nothing leads: no connection meets a closed port.

        What the kernel refuses is taken back from the proxy, too.
        """
        try:
            before = await self._in_proxy(lambda: self.proxy.update(change.serves, ()))
        except OSError as error:
            raise KernelError(f"the proxy cannot listen: {error}") from error
        try:
            applied = await self._rules.apply(change.rules)
        except BaseException:
            await self._in_proxy(lambda: self.proxy.restore(change.serves, before))
            raise
        closes = list(change.closes)
        await self._in_proxy(lambda: self.proxy.update({}, closes))
        for key in closes:
            self._places.close(target.parse_listener(key))
        self._unclaimed -= change.serves.keys() | change.closes.keys()
        self.affinity.served(change.serves)
        return applied

    def flows(self, flows: Flows) -> Flows:
        """See `base.Redirecting`."""
        return ProxiedFlows(flows, self._places.promise, lambda: self._is_parting)

    def part(self) -> None:
        """See `base.Parting`: rules lead to endpoints themselves, and listeners serve who is on the way to them."""
        self._is_parting = True

    @property
    def connections(self) -> int:
        """See `base.Parting`."""
        return self.proxy.counters.connections

    def measure(self, registry: Registry) -> None:
        """See `base.Measured`."""
        measure(registry, self.proxy)
        if isinstance(self._rules, Measured):
            self._rules.measure(registry)

    def watch(self, noticed: Callable[[], None]) -> None:
        """See `Dataplane.watch`."""
        self._rules.watch(noticed)

    async def mend(self, renderings: Sequence[bytes], *, may_remove: bool) -> Mended:
        """See `Dataplane.mend`. Nobody else can touch the listeners."""
        return await self._rules.mend([target.rules_of(each) for each in renderings], may_remove=may_remove)

    def is_frontend(self, place: Place) -> bool:
        """See `Dataplane.is_frontend`."""
        return self._rules.is_frontend(place)

    @property
    def read_back(self) -> Callable[[bytes, int, int], ReadBack | None] | None:
        """See `Dataplane.read_back`: of rules."""
        read = self._rules.read_back
        if read is None:
            return None
        return lambda rendering, start, most: read(target.rules_of(rendering), start, most)

    def leftover(self) -> Iterator[UserspaceChange]:
        """See `Dataplane.leftover`; at last, listeners that nobody asks for."""
        for rules in self._rules.leftover():
            yield UserspaceChange(rules=rules)
        if self._unclaimed:
            yield UserspaceChange(rules=self._rules.diff(b"", b""), closes=dict.fromkeys(self._unclaimed))

    def describe(self, change: UserspaceChange) -> Iterator[str]:
        """Listeners as comments, in the order in which things are done, and rules as the other mode describes them."""
        yield from (describe_serve(key, change.serves[key]) for key in sorted(change.serves))
        yield from self._rules.describe(change.rules)
        yield from map(describe_close, sorted(change.closes))

    async def cleanup(self) -> None:
        """Remove the rules, then close every listener."""
        await self._rules.cleanup()
        served = self.proxy.served()
        await self._in_proxy(lambda: self.proxy.update({}, served))

    def close(self) -> None:
        """End the proxy, and every connection with it; the rules stay."""
        self.proxy.close()
        self._rules.close()

    async def _in_proxy(self, function: Callable[[], Mapping[bytes, bytes] | None]) -> Mapping[bytes, bytes]:
        return await asyncio.wrap_future(self.proxy.poller.submit(function)) or {}


def _open_rules(
    node_settings: NodeSettings, masquerade_bit: int, variant: Variant | None, clock: Clock | None
) -> Rules:
    """Only the code of the rules in use is imported."""
    if variant is None:
        from pointsman_enforcer.dataplane.userspace.by_nftables import by_nftables  # noqa: PLC0415 - see above

        return by_nftables(node_settings, masquerade_bit, clock)
    from pointsman_enforcer.dataplane.userspace.by_iptables import by_iptables  # noqa: PLC0415 - see above

    return by_iptables(node_settings, masquerade_bit, variant)
