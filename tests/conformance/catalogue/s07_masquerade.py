# SPDX-License-Identifier: Apache-2.0
"""Section 7: policy x source x masquerade, with every kind of local detector."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from conformance.addresses import CLIENT, POD, PRIMARY, SECONDARY
from conformance.build import case, probe, to
from conformance.model import NodeSettings, Origin, Row
from conformance.objects import Port, apply, node, service, slice_of

_SERVICES = {
    "svc1": ("172.30.0.41", 3001, "1.2.3.4", "10.180.0.1", "10.180.1.1"),
    "svc2": ("172.30.0.42", 3002, "5.6.7.8", "10.180.0.2", "10.180.1.2"),
    "svc3": ("172.30.0.43", 3003, "9.10.11.12", "10.180.0.3", "10.180.1.3"),
}
_POLICIES = {"svc1": ("Cluster", "Cluster"), "svc2": ("Cluster", "Local"), "svc3": ("Local", "Cluster")}
_FRONTENDS = ("ClusterIP", "NodePort", "LB")

_DETECTED = """
    pod     LR-M LR+M LR+M   LR-M LR-M LR-M   L-M LR+M LR+M
    node    LR+M LR+M LR+M   LR+M LR+M LR+M   L+M LR+M LR+M
    outside LR+M LR+M LR+M   LR+M L-M  L-M    L+M LR+M LR+M
"""
_NO_DETECTOR = """
    pod     LR-M LR+M LR+M   LR-M L-M  L-M    L-M LR+M LR+M
    node    LR-M LR+M LR+M   LR-M LR+M LR+M   L-M LR+M LR+M
    outside LR-M LR+M LR+M   LR-M L-M  L-M    L-M LR+M LR+M
"""
_MASQUERADE_ALL = """
    pod     LR+M LR+M LR+M   LR+M LR-M LR-M   L+M LR+M LR+M
    node    LR+M LR+M LR+M   LR+M LR+M LR+M   L+M LR+M LR+M
    outside LR+M LR+M LR+M   LR+M L-M  L-M    L+M LR+M LR+M
"""
_BOTH = """
    pod     LR+M LR+M LR+M   LR+M L-M  L-M    L+M LR+M LR+M
    node    LR+M LR+M LR+M   LR+M LR+M LR+M   L+M LR+M LR+M
    outside LR+M LR+M LR+M   LR+M L-M  L-M    L+M LR+M LR+M
"""
_SOURCES = {"pod": (POD, Origin.POD), "node": (PRIMARY, Origin.HOST), "outside": (CLIENT, Origin.OUTSIDE)}
_SECONDARY_SOURCE = {"node": (SECONDARY, Origin.HOST)}
"""The same process on the node's secondary address: here masquerading can be seen from the endpoint's side."""

STATE = apply(
    *(
        service(name, vip, [Port(80, node_port=node_port)], load_balancer=[lb], itp=itp, etp=etp)
        for (name, (vip, node_port, lb, _, _)), (itp, etp) in zip(_SERVICES.items(), _POLICIES.values(), strict=True)
    ),
    *(slice_of(name, f"{here}@L {there}@R") for name, (_, _, _, here, there) in _SERVICES.items()),
)


def rows() -> Iterator[Row]:
    numbers = {"pod": "83", "node": "84", "outside": "85"}
    yield from _matrix(numbers, _DETECTED, NodeSettings())
    none = NodeSettings(detect_local_mode="", cluster_cidrs=())
    yield from _matrix(_suffixed("86d"), _NO_DETECTOR, none)
    yield from _matrix(_suffixed("87d"), _MASQUERADE_ALL, NodeSettings(masquerade_all=True))
    both = NodeSettings(detect_local_mode="", cluster_cidrs=(), masquerade_all=True)
    yield from _matrix(_suffixed("88"), _BOTH, both)
    by_prefix = NodeSettings(detect_local_mode="InterfaceNamePrefix", interface="pod", cluster_cidrs=())
    yield from _matrix(_suffixed("88p.d"), _DETECTED, by_prefix)
    by_bridge = NodeSettings(detect_local_mode="BridgeInterface", interface="pod0", cluster_cidrs=())
    yield from _matrix(_suffixed("88b.d"), _DETECTED, by_bridge)
    yield from _node_cidr()
    yield from _matrix({"node": "84s.d"}, _DETECTED, NodeSettings(), _SECONDARY_SOURCE)
    yield from _matrix({"node": "86s.d"}, _NO_DETECTOR, none, _SECONDARY_SOURCE)


def _node_cidr() -> Iterator[Row]:
    """Only the pods of this node's own block are its pods; those of other nodes are outside."""
    settings = NodeSettings(detect_local_mode="NodeCIDR", cluster_cidrs=())
    here = node(pod_cidrs=("10.180.0.0/24", "fd00:10::180:0:0/112"))
    vip, _, lb, local, remote = _SERVICES["svc2"]
    yield from case(
        7,
        "88n.d",
        (*STATE, *apply(here)),
        probe("10.180.0.9", vip, to(local, remote, m=False)),
        probe("10.180.0.9", lb, to(local, remote, m=False)),
        probe(POD, vip, to(local, remote, m=True)),
        probe(POD, lb, to(local, m=False)),
        probe(SECONDARY, lb, to(local, remote, m=True)),
        settings=settings,
        title="detect-local mode NodeCIDR",
    )


def _suffixed(number: str) -> dict[str, str]:
    return {source: f"{number}.{source}" for source in _SOURCES}


def _matrix(
    numbers: Mapping[str, str],
    matrix: str,
    settings: NodeSettings,
    sources: Mapping[str, tuple[str, Origin]] = _SOURCES,
) -> Iterator[Row]:
    for line in filter(str.strip, matrix.split("\n")):
        source, *cells = line.split()
        if source not in sources:
            continue
        for index, cell in enumerate(cells):
            name, frontend = f"svc{index // 3 + 1}", _FRONTENDS[index % 3]
            vip, node_port, lb, here, there = _SERVICES[name]
            address, port = {"ClusterIP": (vip, 80), "NodePort": (PRIMARY, node_port), "LB": (lb, 80)}[frontend]
            targets = [here, there] if cell.startswith("LR") else [here]
            client, origin = sources[source]
            attempt = probe(client, address, to(*targets, m=cell.endswith("+M")), port=port, origin=origin)
            yield from case(7, f"{numbers[source]}.{name}.{frontend}", STATE, attempt, settings=settings)
