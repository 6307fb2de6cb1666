# SPDX-License-Identifier: Apache-2.0
"""The nouns of the conformance suite: what a row of the packet-flow table is.

A row is a cluster (Kubernetes objects as JSON text, exactly as an API server would send them), the settings of the node
under test, and probes with what must happen to them. It knows nothing about planners, plans or rules, so rows can come
from anywhere (`RowSource`): the catalogue in this folder, a generator with its own oracle, a file.

Rows are values: hashable, so executors group rows that share a cluster and program it once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Any, NamedTuple

NODE = "test-node"
OTHER_NODE = "other-node"
CATALOGUE_NODE_ADDRESSES = (
    "192.168.0.2",
    "2001:db8::1",
    "192.168.1.2",
    "2001:db8:1::2",
    "192.168.99.11",
    "2001:db8:192:168:99::11",
)
"""Addresses of the node under test: primary, secondary, and one that a Service has as external IP."""
EVERY_MODE = frozenset({"nftables", "iptables", "ipvs"})
NO_LOCALHOST = EVERY_MODE - {"iptables"}
"""Modes in which node ports never answer on 127.0.0.1."""


class IpFamily(Enum):
    """The family that a row's probes use; the value is how matrices print it."""

    IPV4 = "IPv4"
    IPV6 = "IPv6"


class Origin(Enum):
    """Where a probe's packets come from, physically."""

    POD = "pod"
    """A pod of the node under test."""
    HOST = "host"
    """A process of the node under test."""
    OUTSIDE = "outside"
    """A machine beyond the node."""


class Outcome(Enum):
    """What happens to the first packet of a connection."""

    FORWARD = "forward"
    REJECT = "reject"
    DROP = "drop"
    NONE = "none"
    """Left alone: it reaches its original destination with its original source."""


class Target(NamedTuple):
    """One endpoint that connections must reach, and whether it must see a node address as its client."""

    address: str
    port: int
    masquerade: bool

    def __str__(self) -> str:
        address = f"[{self.address}]" if ":" in self.address else self.address
        return f"{address}:{self.port} {'M' if self.masquerade else '-M'}"


class Expectation(NamedTuple):
    """What a probe must see; `targets` (sorted) are for FORWARD only."""

    outcome: Outcome
    targets: tuple[Target, ...] = ()

    def __str__(self) -> str:
        if self.outcome is not Outcome.FORWARD:
            return self.outcome.name
        return "{" + ", ".join(str(target) for target in self.targets) + "}"


class Lot(NamedTuple):
    """What a client may draw where nothing decides its first endpoint: one of these, and then it keeps it.

    `port` names what remembers it, a ServicePort.
    """

    port: str
    targets: tuple[Target, ...]


class Probe(NamedTuple):
    """Connections from `source` to `destination` and what must become of them. Addresses are canonical text."""

    source: str
    destination: str
    port: int
    protocol: str
    origin: Origin
    expect: Expectation
    lot: Lot | None = None
    """With session affinity: all that `expect` was narrowed from."""

    def __str__(self) -> str:
        return f"{self.origin.value} {self.source} -> {self.destination} {self.protocol}/{self.port}"


class Verb(Enum):
    """What happens to an object."""

    APPLY = "apply"
    """It is created or takes this new state."""
    DELETE = "delete"
    """It is gone; the object given is its last state."""


class Event(NamedTuple):
    """One change at the API server; `manifest` is the object as JSON text."""

    verb: Verb
    manifest: str


class Finding(NamedTuple):
    """Something a check compared."""

    what: str
    expected: str
    observed: str


Check = Callable[[Any, IpFamily], Iterable[Finding]]
"""Drives a part of the product; the first argument is an `executors.component.ComponentExecutor`."""


class Disturbance(Enum):
    """What else happens while a step's events are applied. Only executors with a real dataplane can do these."""

    NOTHING = "nothing"
    RESTART = "restart"
    """The enforcer is a new process that finds what the old one left."""
    WRITE_FAILS_ONCE = "write fails once"
    """The kernel refuses the first write."""
    FLUSHED = "flushed"
    """After the events were applied somebody else deletes every rule of the node, ours and others'."""
    CHAIN_FLUSHED = "chain flushed"
    """The same with the rules of a single chain of ours."""


DAMAGES = frozenset({Disturbance.FLUSHED, Disturbance.CHAIN_FLUSHED})
"""What somebody else does to the rules, and an enforcer has to notice by itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Events that arrive together, then probes of the state they lead to."""

    events: tuple[Event, ...] = ()
    probes: tuple[Probe, ...] = ()
    steady: tuple[Probe, ...] = ()
    """Probed without pause while the events are applied; not one connection may fail or go elsewhere."""
    held: tuple[Probe, ...] = ()
    """Connections opened after this step's probes and held open; each must still answer after every later step."""
    disturbance: Disturbance = Disturbance.NOTHING
    idle_seconds: float = 0.0
    """Nobody connects for so long before the probes: what is forgotten by then must be forgotten."""
    repeats: int = 1
    """How often the probes are made, each time after `idle_seconds`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSettings:
    """How the enforcer of the node under test is configured, in kube-proxy's words."""

    detect_local_mode: str = "ClusterCIDR"
    """ClusterCIDR, BridgeInterface, InterfaceNamePrefix, or empty: no detector."""
    cluster_cidrs: tuple[str, ...] = ("10.0.0.0/8", "fd00:10::/64")
    interface: str = ""
    """Bridge name or name prefix; pods of the topology are on interfaces `pod0`, `pod1`, ..."""
    masquerade_all: bool = False
    node_port_addresses: tuple[str, ...] = ("0.0.0.0/0", "::/0")
    """CIDRs, or the one word `primary`."""


DEFAULT_SETTINGS = NodeSettings()


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table, in one family."""

    number: str
    """Number in packet-flow.md, with a suffix where one line there is several rows here; `d` marks derived rows."""
    section: int
    family: IpFamily
    title: str = ""
    """What it is about, where the probes alone do not say it."""
    steps: tuple[Step, ...] = ()
    settings: NodeSettings = DEFAULT_SETTINGS
    node_name: str = NODE
    extra_node_addresses: tuple[str, ...] = ()
    """Addresses the node has besides those of its Node object (a VIP bound to it)."""
    modes: frozenset[str] = EVERY_MODE
    remembers: bool = False
    """What a probe sees depends on the connections before it, so only a real dataplane can run it."""
    check: Check | None = None
    """Instead of steps, where the row is about something else than where packets go."""
    later: str = ""
    """If not empty: what has to exist before this row can run; it is listed, not run."""

    @property
    def id(self) -> str:
        """Unique name, as pytest and the report print it."""
        return f"{self.number}-{self.family.value}"

    @property
    def summary(self) -> str:
        """The title, or else the probes and what they must see."""
        probes = (f"{probe} => {probe.expect}" for step in self.steps for probe in step.probes)
        return self.title or "; ".join(probes)

    @property
    def node_addresses(self) -> tuple[str, ...]:
        """Every address that is local on the node under test, loopback included."""
        return (*CATALOGUE_NODE_ADDRESSES, "127.0.0.1", "::1", *self.extra_node_addresses)

    @property
    def needs_dataplane(self) -> bool:
        """Whether a plan alone cannot say: it is about what happens meanwhile, the packets before, or a mode's ways."""
        return (
            self.remembers
            or "nftables" not in self.modes
            or self.check is not None
            or any(step.disturbance is not Disturbance.NOTHING for step in self.steps)
        )


RowSource = Callable[[], Iterable[Row]]


class ProbeFailure(NamedTuple):
    """A probe that saw something else than it must; `step` counts from 1."""

    step: int
    probe: str
    expected: str
    observed: str

    def __str__(self) -> str:
        return f"step {self.step}: {self.probe}: expected {self.expected}, observed {self.observed}"


class RowResult(NamedTuple):
    """What one executor found out about one row."""

    row: Row
    executor: str
    failures: tuple[ProbeFailure, ...]

    @property
    def is_passed(self) -> bool:
        """Whether every probe of the row saw what it must."""
        return not self.failures
