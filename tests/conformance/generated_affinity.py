# SPDX-License-Identifier: Apache-2.0
"""Random histories of a Service with session affinity: endpoints come, go and change, and so do policies.

Which endpoints a client may use is the oracle's to say, which of them it must get `foretelling`'s. Every history has a
cluster IP and endpoints of its own, so that none finds what another left in a kernel's memory, and asks of one client
and ServicePort once in a step, as the order within a step is nobody's. Equal seeds give equal rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from random import Random

from conformance import oracle
from conformance.addresses import BLOCKED_CLIENT, CLIENT, EXTERNAL_IP, POD, PRIMARY, SECONDARY
from conformance.build import NONE, probe, sequence
from conformance.foretelling import foretell
from conformance.generated import SECTION
from conformance.model import Disturbance, NodeSettings, Probe, Row, Step
from conformance.objects import Port, SlicePort, apply, endpoint, service, slice_of

_PORTS = (Port(80, "http", node_port=3001), Port(81, "https", node_port=3002))
_NAMES = {80: "http", 3001: "http", 81: "https", 3002: "https"}
_WHERE = ("@L", "@L", "@R", "@R", "@R", "")
_FLAGS = ("", "", "", "", "/T", "/U", "/TX")
_LOAD_BALANCER = "1.2.3.4"
_SOURCES = (POD, PRIMARY, SECONDARY, CLIENT, BLOCKED_CLIENT, *(f"198.51.100.{n}" for n in range(1, 9)))
_SETTINGS = (
    NodeSettings(),
    NodeSettings(masquerade_all=True),
    NodeSettings(detect_local_mode="", cluster_cidrs=()),
    NodeSettings(node_port_addresses=("primary",)),
)
_DISTURBANCES = (*[Disturbance.NOTHING] * 4, Disturbance.RESTART, Disturbance.CHAIN_FLUSHED)
_STEPS = 4
HISTORIES_MAX = 500
"""As many have a cluster IP of their own."""


def rows(count: int, *, seed: int) -> Iterator[Row]:
    """`count` rows, at most HISTORIES_MAX, and the twin of each."""
    random = Random(seed)
    for number in range(min(count, HISTORIES_MAX)):
        own = f"{number // 250}.{number % 250 + 1}"
        drafts = sequence(
            SECTION,
            f"{seed}.affinity.{number}",
            *_steps(random, f"172.30.{8 + number // 250}.{number % 250 + 1}", own),
            settings=random.choice(_SETTINGS),
            title=f"generated, session affinity, seed {seed}",
        )
        for draft in drafts:
            judged = oracle.judge(draft)
            yield replace(judged, remembers=True, steps=foretell(judged.steps, _NAMES))


def _steps(random: Random, vip: str, own: str) -> Iterator[Step]:
    """The Service is always there: what becomes of the memory of one that was gone is nowhere said."""
    for number in range(_STEPS):
        events = apply(_slice(random, own))
        if not number or random.random() < 0.4:
            events = (*apply(_service(random, vip)), *events)
        disturbance = random.choice(_DISTURBANCES) if number else Disturbance.NOTHING
        yield Step(events=events, probes=tuple(_probes(random, vip)), disturbance=disturbance)


def _service(random: Random, vip: str) -> str:
    return service(
        "svc1",
        vip,
        _PORTS,
        load_balancer=[_LOAD_BALANCER],
        external_ips=[EXTERNAL_IP],
        etp=random.choice(("Cluster", "Local")),
        itp=random.choice(("Cluster", "Cluster", "Local")),
        ranges=random.choice(((), ("203.0.113.0/25", "192.168.0.0/24"))),
        sessionAffinity="ClientIP",
        sessionAffinityConfig={"clientIP": {"timeoutSeconds": random.choice((600, 3600))}},
    )


def _slice(random: Random, own: str) -> str:
    chosen = random.sample(range(len(_WHERE)), random.choice((1, 2, 3, 4, 5)))
    flags = {place: random.choice(_FLAGS) if _WHERE[place] else "" for place in sorted(chosen)}
    endpoints = [endpoint(f"10.{180 + place}.{own}{_WHERE[place]}{flag}") for place, flag in flags.items()]
    return slice_of("svc1", endpoints, (SlicePort(80, "http"), SlicePort(8443, "https")))


def _probes(random: Random, vip: str) -> Iterator[Probe]:
    for port in _PORTS:
        for source in random.sample(_SOURCES, 5):
            places = [(address, port.port) for address in (vip, _LOAD_BALANCER, EXTERNAL_IP)]
            destination, number = random.choice([*places, (PRIMARY, port.node_port)])
            yield probe(source, destination, NONE, port=number)
