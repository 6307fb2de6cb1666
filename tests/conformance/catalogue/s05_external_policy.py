# SPDX-License-Identifier: Apache-2.0
"""Section 5: externalTrafficPolicy."""

from __future__ import annotations

from collections.abc import Iterator

from conformance.addresses import CLIENT, EXTERNAL_IP, POD, PRIMARY
from conformance.build import DROP, IPTABLES, IPVS, NONE, case, listed, probe, sequence, to
from conformance.model import Event, Row, Step
from conformance.objects import Port, apply, delete, service, slice_of

VIP, LB = "172.30.0.41", "1.2.3.4"
A, B = "10.180.0.1", "10.180.2.1"
FRONTENDS = {"ClusterIP": (VIP, 80), "externalIP": (EXTERNAL_IP, 80), "LB": (LB, 80), "nodePort": (PRIMARY, 3001)}


def _service(policy: str) -> str:
    return service(
        "svc1",
        VIP,
        [Port(80, node_port=3001)],
        external_ips=[EXTERNAL_IP],
        load_balancer=[LB],
        etp=policy,
        health_check_node_port=30000 if policy == "Local" else 0,
    )


def _state(policy: str, endpoints: str = f"{A}@R {B}@L") -> tuple[Event, ...]:
    return apply(_service(policy), slice_of("svc1", endpoints))


def rows() -> Iterator[Row]:
    yield from _local()
    yield from _cluster()
    yield from _only_remote()
    ignored = apply(service("svc1", VIP, etp="Local"), slice_of("svc1", f"{A}@R {B}@L"))
    yield from case(5, "75", ignored, probe(POD, VIP, to(A, B, m=False)))
    yield from listed(5, "74", "with no local endpoint all endpoints are used", modes=IPVS)
    yield from listed(5, "76", "the health check port is accepted explicitly", modes=IPTABLES)
    own_port = probe(CLIENT, PRIMARY, NONE, port=30000)
    yield from sequence(
        5,
        "76d",
        Step(events=apply(_service("Local")), probes=(own_port,)),
        Step(events=delete(_service("Local")), probes=(own_port,)),
        title="the health check port is left alone, with the Service and after it",
    )


def _local() -> Iterator[Row]:
    state = _state("Local")
    everyone, here = to(A, B, m=False), to(B, m=False)
    table = (
        ("57", POD, "ClusterIP", everyone),
        ("58d", POD, "externalIP", everyone),
        ("59", CLIENT, "externalIP", here),
        ("60", POD, "LB", everyone),
        ("61", CLIENT, "LB", here),
        ("62", POD, "nodePort", everyone),
        ("63", CLIENT, "nodePort", here),
        ("63e", PRIMARY, "externalIP", to(A, B, m=True)),
        ("63l", PRIMARY, "LB", to(A, B, m=True)),
        ("63n", PRIMARY, "nodePort", to(A, B, m=True)),
        ("63c", CLIENT, "ClusterIP", to(A, B, m=True)),
    )
    for number, source, frontend, expect in table:
        address, port = FRONTENDS[frontend]
        yield from case(5, number, state, probe(source, address, expect, port=port))


def _cluster() -> Iterator[Row]:
    state = _state("Cluster")
    everyone = to(A, B, m=True)
    table = (
        ("64", POD, "ClusterIP", to(A, B, m=False)),
        ("65", POD, "externalIP", everyone),
        ("66", CLIENT, "externalIP", everyone),
        ("67", POD, "LB", everyone),
        ("68", CLIENT, "LB", everyone),
        ("69", POD, "nodePort", everyone),
        ("70", CLIENT, "nodePort", everyone),
    )
    for number, source, frontend, expect in table:
        address, port = FRONTENDS[frontend]
        yield from case(5, number, state, probe(source, address, expect, port=port))


def _only_remote() -> Iterator[Row]:
    state = _state("Local", f"{A}@R")
    for suffix in ("externalIP", "LB", "nodePort"):
        address, port = FRONTENDS[suffix]
        yield from case(5, f"71.{suffix}", state, probe(CLIENT, address, DROP, port=port))
        yield from case(5, f"72d.{suffix}", state, probe(PRIMARY, address, to(A, m=True), port=port))
    yield from case(5, "73", state, probe(POD, LB, to(A, m=False)))
    yield from case(5, "73d", state, probe(POD, VIP, to(A, m=False)), probe(POD, PRIMARY, to(A, m=False), port=3001))
