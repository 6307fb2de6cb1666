# SPDX-License-Identifier: Apache-2.0
"""What every dataplane offers the reconciler.

One service's state in a kernel is a *rendering*: packed bytes, opaque outside its backend, empty for "nothing". In
steady state the reconciler remembers, for each service, the rendering that the kernel acknowledged. A change then costs

    previous = dataplane.claim(plan, remembered)       what the kernel has of this service
    rendering = dataplane.render(plan, previous)       what it should have; endpoints keep their places
    change = dataplane.diff(previous, rendering)       the difference, and nothing but
    await dataplane.apply(change)                      one transaction, acknowledged

and the size of the service, never that of the table. Changes of several services add up to one.

How a restarted process knows its own objects is each backend's business and stands in its docstring.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from typing import NamedTuple, Protocol, Self, TypeVar, runtime_checkable

from pointsman_chassis.errors import ApplyError
from pointsman_chassis.metrics import Registry
from pointsman_enforcer.core.stale_flows import Place
from pointsman_enforcer.dataplane.affinity import AffinityMemory
from pointsman_enforcer.dataplane.flows import Flows
from pointsman_model.names import ServiceKey
from pointsman_model.plan import DataplaneSettings, NodeFacts, ServicePlan


class ProxyMode(Enum):
    """How packets are moved, in kube-proxy's words."""

    NFTABLES = "nftables"
    IPTABLES = "iptables"
    IPVS = "ipvs"
    USERSPACE = "userspace"


class UnsupportedPlanError(Exception):
    """This dataplane cannot express a plan exactly, and does not approximate; the text says what and why."""


class KernelError(ApplyError):
    """The kernel refused a change; none of it took effect, unless `outcome_known` is false."""

    def __init__(self, message: str, *, outcome_known: bool = True) -> None:
        super().__init__(message)
        self.outcome_known = outcome_known


class OccupiedError(ApplyError):
    """An address that a change adds is still programmed for a service outside the change. Nothing took effect."""


class Applied(NamedTuple):
    """What a change cost."""

    messages: int
    bytes: int


class Mended(NamedTuple):
    """What `Dataplane.mend` found and did."""

    kinds: tuple[str, ...] = ()
    """What somebody else touched, see `core.drift.DriftReport.kinds`; empty when there was nothing to look at."""
    process: str = ""
    process_id: int = 0
    objects: int = 0
    """Kernel objects put back, written anew or removed."""
    applied: Applied = Applied(0, 0)
    is_rebuilt: bool = False
    """Tables were gone and were made anew."""
    must_observe: bool = False
    """Nothing that was known of the kernel holds: observe, and program everything."""


class ReadBack(NamedTuple):
    """Some elements of a rendering, compared with the kernel."""

    reads: int
    """How many were read; fewer than asked for when there were no more."""
    differing: int = 0
    words: str = ""
    """Which differ, for people."""


class Found(Enum):
    """What was in the kernel when it was read."""

    NOTHING = "nothing"
    """No table of ours. Services may be programmed in any order and number."""
    OURS = "ours"
    """Ours, to be adopted service by service."""
    FOREIGN_SCHEMA = "foreign schema"
    """Ours, of another version: it must be replaced by the whole plan in one change."""


class Change(Protocol):
    """A difference between two states of the kernel. Adds up: order does not matter, opposites cancel."""

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to do."""

    @property
    def operations(self) -> int:
        """How many kernel objects are added or removed."""

    def include(self, other: Self) -> None:
        """Make this change do what `other` does, too."""


C = TypeVar("C", bound=Change)


class Dataplane(Protocol[C]):
    """One backend. Only the reconciler calls it, and never twice at a time."""

    mode: ProxyMode
    capabilities: frozenset[str]
    """Names that ServicePlan.required_capabilities may hold here."""

    @property
    def settings(self) -> DataplaneSettings:
        """The node's own settings in effect, for the control API."""

    @property
    def affinity(self) -> AffinityMemory:
        """The clients that session affinity remembers."""

    def configure(self, facts: NodeFacts) -> bool:
        """Take the facts about the node; whether renderings made before are worth nothing now."""

    async def observe(self) -> Found:
        """Read back what is ours, and forget what was known. At a start and after a failure, never in steady state."""

    async def prepare(self, *, whole_plan: bool = False) -> None:
        """Make the static objects what settings and facts ask for; with `whole_plan` as part of the next change."""

    def claim(self, plan: ServicePlan, remembered: bytes) -> bytes:
        """`remembered`, and whatever the last `observe` found under this plan's addresses and nobody claimed yet."""

    def render(self, plan: ServicePlan, previous: bytes) -> bytes:
        """The rendering of a plan. Pure and total: equal arguments give equal bytes.

        Raises:
            UnsupportedPlanError: this dataplane cannot do what the plan says.
        """

    def claim_node(self, remembered: bytes) -> bytes:
        """As `claim`, for the objects that belong to the node and not to a service."""

    def render_node(self, facts: NodeFacts, *, drop_unallocated: bool) -> bytes:
        """The rendering of the node's facts; `drop_unallocated` once everything else is programmed."""

    def diff(self, old: bytes, new: bytes) -> C:
        """What turns `old` into `new`. Pure."""

    async def apply(self, change: C) -> Applied:
        """Commit a change as one transaction.

        Raises:
            KernelError: refused.
            OccupiedError: refused before the kernel was asked.
        """

    def watch(self, noticed: Callable[[], None]) -> None:
        """From now on call `noticed`, on the running loop, when somebody else may have changed what is ours."""

    async def mend(self, renderings: Sequence[bytes], *, may_remove: bool) -> Mended:
        """Look at what was noticed and put back, in one transaction, whatever differs from these renderings.

        They are all that the kernel acknowledged. Without `may_remove`, elements that none of them has stay.

        Raises:
            KernelError: the kernel could not be read, or refused; what was noticed is still to be looked at.
        """

    def is_frontend(self, place: Place) -> bool:
        """Whether the kernel has rules for packets to this place. May be asked in any thread."""

    @property
    def read_back(self) -> Callable[[bytes, int, int], ReadBack | None] | None:
        """Compare a rendering with the kernel, element by element, by key: from the n-th on, at most so many.

        None when the kernel cannot be asked so: then nothing may be acknowledged as verified. The call gives None where
        the kernel tells only everything at once and has to be read first: that is under way, ask again soon. To be
        called when no change is under way. What differs is noticed (see `watch`) and mended with the next `mend`.
        Raises KernelError.
        """

    def leftover(self) -> Iterator[C]:
        """Changes, of bounded size, that remove what `observe` found and nobody claimed."""

    def describe(self, change: C) -> Iterator[str]:
        """The change in the words of the kernel's own tool, a line for each operation."""

    async def cleanup(self) -> None:
        """Remove everything of ours. Works without a plan and may be repeated."""

    def close(self) -> None:
        """Let go of sockets; what is programmed stays."""


@runtime_checkable
class Measured(Protocol):
    """A dataplane with figures of its own."""

    def measure(self, registry: Registry) -> None:
        """Register them; once."""


@runtime_checkable
class Redirecting(Protocol):
    """A dataplane whose rules lead elsewhere than to endpoints."""

    def flows(self, flows: Flows) -> Flows:
        """Who tells `flows` of plans as entries of the connection table show them."""


@runtime_checkable
class Parting(Protocol):
    """A dataplane whose rules lead into this process, which is about to end."""

    def part(self) -> None:
        """From now on render what works without this process. Program everything once more after this."""

    @property
    def connections(self) -> int:
        """How many connections end with this process."""


NODE = ServiceKey("", "")
"""The key under which the node's own objects are kept beside those of the services."""
