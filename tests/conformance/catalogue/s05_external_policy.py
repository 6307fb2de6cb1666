# SPDX-License-Identifier: Apache-2.0
"""Section 5: externalTrafficPolicy."""

from __future__ import annotations

from collections.abc import Iterator

from conformance.addresses import CLIENT, EXTERNAL_IP, POD, PRIMARY, SECONDARY
from conformance.build import DROP, IPVS, NONE, REJECT, case, listed, probe, sequence, to
from conformance.model import Event, Expectation, Probe, Row, Step
from conformance.objects import Port, SlicePort, apply, delete, service, slice_of

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
    yield from _datagrams()
    ignored = apply(service("svc1", VIP, etp="Local"), slice_of("svc1", f"{A}@R {B}@L"))
    yield from case(5, "75", ignored, probe(POD, VIP, to(A, B, m=False)))
    yield from listed(5, "74", "with no local endpoint all endpoints are used", modes=IPVS)
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


def _datagrams() -> Iterator[Row]:
    """Policy Local over UDP, where a refusal and a silence are seen as well as over TCP."""
    subject = service("dns", VIP, [Port(53, protocol="UDP", node_port=3053)], load_balancer=[LB], etp="Local")
    port = [SlicePort(53, protocol="UDP")]

    def ask(source: str, address: str, expect: Expectation, to_port: int = 53) -> Probe:
        return probe(source, address, expect, port=to_port, protocol="UDP")

    here, there = f"{B}:53", f"{A}:53"
    yield from case(
        5,
        "63u.d",
        apply(subject, slice_of("dns", f"{A}@R {B}@L", port)),
        ask(CLIENT, LB, to(here, m=False)),
        ask(CLIENT, PRIMARY, to(here, m=False), 3053),
        ask(POD, LB, to(here, there, m=False)),
        ask(SECONDARY, LB, to(here, there, m=True)),
    )
    remote = apply(subject, slice_of("dns", f"{A}@R", port))
    yield from case(
        5,
        "71u.d",
        remote,
        ask(CLIENT, LB, DROP),
        ask(CLIENT, PRIMARY, DROP, 3053),
        ask(POD, LB, to(there, m=False)),
        ask(SECONDARY, PRIMARY, to(there, m=True), 3053),
    )
    nobody = apply(subject)
    yield from case(
        5,
        "71r.d",
        nobody,
        ask(CLIENT, LB, REJECT),
        ask(CLIENT, PRIMARY, REJECT, 3053),
        ask(POD, VIP, REJECT),
        ask(SECONDARY, LB, REJECT),
    )


def _only_remote() -> Iterator[Row]:
    state = _state("Local", f"{A}@R")
    for suffix in ("externalIP", "LB", "nodePort"):
        address, port = FRONTENDS[suffix]
        yield from case(5, f"71.{suffix}", state, probe(CLIENT, address, DROP, port=port))
        yield from case(5, f"72d.{suffix}", state, probe(PRIMARY, address, to(A, m=True), port=port))
    yield from case(5, "73", state, probe(POD, LB, to(A, m=False)))
    yield from case(5, "73d", state, probe(POD, VIP, to(A, m=False)), probe(POD, PRIMARY, to(A, m=False), port=3001))
