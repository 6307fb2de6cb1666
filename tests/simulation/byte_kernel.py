# SPDX-License-Identifier: Apache-2.0
"""A kernel that holds bytes, behind the real Dataplane protocol: what the real Reconciler believes is compared with it.

A service's rendering is its plan under its cluster IP. Like nf_tables, a change that assumes another state than there
is, is refused as a whole.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, Iterator, Sequence
from typing import Self

from simulation.cluster_log import SERVICES, cluster_ip, node_port

from pointsman_enforcer.core.stale_flows import Place
from pointsman_enforcer.dataplane.affinity import AffinityMemory
from pointsman_enforcer.dataplane.base import (
    Applied,
    Found,
    KernelError,
    Mended,
    ProxyMode,
    UnsupportedPlanError,
)
from pointsman_model.digest import plan_digest
from pointsman_model.names import ServiceKey
from pointsman_model.plan import DataplaneSettings, DetectLocal, NodeFacts, ServicePlan
from pointsman_model.wire.plan import encode_service_plan

_OWNERS = {cluster_ip(key): key for key in SERVICES}


class Kernel:
    """What survives the enforcer's process: rendered services by cluster IP."""

    def __init__(self) -> None:
        self.held: dict[bytes, bytes] = {}
        self.refused: set[bytes] = set()
        """Cluster IPs that it will not take for now."""

    @property
    def digest(self) -> int:
        """The digest of the plan that would make it so."""
        return sum(plan_digest(_OWNERS[ip], data) for ip, data in self.held.items()) & ((1 << 64) - 1)

    def plan_of(self, key: ServiceKey) -> bytes | None:
        """The plan that the kernel has of a service."""
        return self.held.get(cluster_ip(key))

    @property
    def services(self) -> set[ServiceKey]:
        """Services of which it has something."""
        return {_OWNERS[ip] for ip in self.held}


class ByteChange:
    """Cluster IP -> (what must be there, what is there then); empty bytes for nothing."""

    def __init__(self) -> None:
        self.steps: dict[bytes, tuple[bytes, bytes]] = {}

    @property
    def is_empty(self) -> bool:
        """See `Change`."""
        return not self.steps

    @property
    def operations(self) -> int:
        """See `Change`."""
        return len(self.steps)

    def include(self, other: Self) -> None:
        """See `Change`."""
        self.steps.update(other.steps)


class Pause(Awaitable[None]):
    """Gives the turn back to the scheduler in the middle of a sync."""

    def __await__(self) -> Generator[None, None, None]:
        """Suspend once."""
        yield


class ByteDataplane:
    """One process's view of a Kernel."""

    mode = ProxyMode.NFTABLES
    capabilities: frozenset[str] = frozenset()
    read_back = None
    settings = DataplaneSettings(detect_local=DetectLocal.NONE)

    def __init__(self, kernel: Kernel, *, on_removal: Callable[[ServiceKey], None]) -> None:
        """`on_removal` hears of a service that is about to leave the kernel."""
        self._kernel = kernel
        self._on_removal = on_removal
        self._unclaimed: dict[bytes, bytes] = {}

    @property
    def affinity(self) -> AffinityMemory:
        """None here."""
        raise NotImplementedError

    def configure(self, _facts: NodeFacts) -> bool:
        """Facts change no rendering here."""
        return False

    async def observe(self) -> Found:
        """Everything is there to be claimed."""
        self._unclaimed = dict(self._kernel.held)
        return Found.OURS if self._unclaimed else Found.NOTHING

    async def prepare(self, *, whole_plan: bool = False) -> None:
        """There are no static objects."""

    def claim(self, plan: ServicePlan, remembered: bytes) -> bytes:
        """See `Dataplane`."""
        ip = _ip_of(plan)
        data = self._unclaimed.pop(ip, b"")
        return remembered or (ip + data if data else b"")

    def render(self, plan: ServicePlan, _previous: bytes) -> bytes:
        """The cluster IP and the plan. Damage may have given it no address, or another service's: it is not taken."""
        ip = _ip_of(plan)
        ports = {frontend.port for port in plan.ports for frontend in port.frontends if not frontend.address}
        if plan.ports and (not ip or ports != {node_port(_OWNERS[ip])}):
            raise UnsupportedPlanError("its addresses are not those of one service")
        return ip + encode_service_plan(plan) if plan.ports else b""

    def claim_node(self, _remembered: bytes) -> bytes:
        """There are no node objects."""
        return b""

    def render_node(self, _facts: NodeFacts, *, drop_unallocated: bool) -> bytes:
        """There are no node objects."""
        return b""

    def diff(self, old: bytes, new: bytes) -> ByteChange:
        """See `Dataplane`."""
        change = ByteChange()
        if old != new:
            for ip in {old[:4], new[:4]} - {b""}:
                was, will = (data[4:] if data[:4] == ip else b"" for data in (old, new))
                change.steps[ip] = (was, will)
        return change

    async def apply(self, change: ByteChange) -> Applied:
        """As a whole or not at all, with a pause before, in which anything may happen."""
        await Pause()
        for ip, (was, will) in change.steps.items():
            if ip in self._kernel.refused and will:
                raise KernelError("the kernel does not want it")
            if self._kernel.held.get(ip, b"") != was:
                raise KernelError("the kernel is not what was remembered")
        for ip, (_, will) in change.steps.items():
            if will:
                self._kernel.held[ip] = will
            else:
                self._on_removal(_OWNERS[ip])
                self._kernel.held.pop(ip, None)
        return Applied(len(change.steps), 0)

    def watch(self, noticed: Callable[[], None]) -> None:
        """Nobody else changes this kernel."""

    async def mend(self, renderings: Sequence[bytes], *, may_remove: bool) -> Mended:
        """Nothing to mend."""
        return Mended()

    def is_frontend(self, _place: Place) -> bool:
        """Nobody asks."""
        return True

    def leftover(self) -> Iterator[ByteChange]:
        """What was found and not claimed goes."""
        for ip, data in self._unclaimed.items():
            change = ByteChange()
            change.steps[ip] = (data, b"")
            yield change
        self._unclaimed = {}

    def describe(self, _change: ByteChange) -> Iterator[str]:
        """Nobody asks."""
        return iter(())

    async def cleanup(self) -> None:
        """Nobody asks."""

    def close(self) -> None:
        """Nothing is open."""


def _ip_of(plan: ServicePlan) -> bytes:
    addresses = (frontend.address for port in plan.ports for frontend in port.frontends)
    return next((address for address in addresses if address in _OWNERS), b"")
