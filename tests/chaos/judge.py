# SPDX-License-Identifier: Apache-2.0
"""Whether API server, plans and kernels agree, packet by packet.

The API server's objects go through the conformance suite's oracle, which shares no code with Pointsman; a node's plan,
as any planner shows it, through the reference tracer; a node's kernel through its own listing. For each place where
packets for a Service arrive, and for each kind of sender, the three must say the same.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from chaos.kernel_tables import KernelTables
from conformance.model import Event, Expectation, IpFamily, NodeSettings, Origin, Outcome, Probe, Row, Target, Verb
from conformance.oracle import NODE_PORT, Frontend, Node, Objects, frontends_of
from google.protobuf import json_format

from pointsman.control.v1 import control_service_pb2 as pb
from pointsman_lab.apiserver.resources import ENDPOINTSLICES, NODES, SERVICECIDRS, SERVICES
from pointsman_lab.errors import RemoteError
from pointsman_lab.net.topology import CLUSTER_CIDRS
from pointsman_lab.nodes import are_synced, node_states
from pointsman_model.names import Prefix, Protocol, ServiceKey, format_address, parse_address, parse_prefix
from pointsman_model.packet import Fate, Packet, trace_packet
from pointsman_model.plan import DataplaneSettings, DetectLocal, NodePlan
from pointsman_model.wire.plan import node_facts_from_pb, service_plan_from_pb
from support.lab_process import enforcer_status

if TYPE_CHECKING:
    from pointsman_lab.cluster import Cluster
    from pointsman_lab.net.topology import NodePlace

_KINDS = {"Service": SERVICES, "EndpointSlice": ENDPOINTSLICES, "Node": NODES, "ServiceCIDR": SERVICECIDRS}
_SETTINGS = NodeSettings(cluster_cidrs=CLUSTER_CIDRS, node_port_addresses=("primary",))
_NOTHING = Expectation(Outcome.NONE)
_SHOWN_MAX = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdicts:
    """What the API server's objects mean for one node."""

    node: NodePlace
    probes: tuple[Probe, ...]
    """With what must become of them."""
    places: frozenset[tuple[Any, ...]]
    """Where packets for Services arrive."""


async def disagreements(cluster: Cluster) -> list[str]:
    """What does not agree, in words; empty when everything does."""
    objects = await _objects(cluster)
    verdicts = [_verdicts(objects, node, cluster) for node in cluster.nodes]
    found = [line for each in await asyncio.gather(*(_in_kernel(cluster, one) for one in verdicts)) for line in each]
    if not found:
        found = [line for one in verdicts for line in await _in_plans(cluster, one)]
    return found or await _in_states(cluster)


async def _objects(cluster: Cluster) -> Objects:
    objects = Objects()
    for kind, resource in _KINDS.items():
        items = (await cluster.api.list(resource))["items"]
        objects.apply(Event(Verb.APPLY, json.dumps({**item, "kind": kind})) for item in items)
    return objects


def _verdicts(objects: Objects, node: NodePlace, cluster: Cluster) -> Verdicts:
    row = Row(
        number="chaos",
        section=0,
        family=IpFamily.IPV4,
        settings=_SETTINGS,
        node_name=node.name,
        extra_node_addresses=(*node.address, *node.secondary_address),
    )
    oracle = Node(objects, row)
    frontends = [frontend for service in objects.services() for frontend in frontends_of(service)]
    probes = [probe._replace(expect=oracle.fate(probe)) for one in frontends for probe in _probes(one, node, cluster)]
    places = {
        (one.protocol.lower(), one.port)
        if one.kind == NODE_PORT
        else (str(one.address), one.protocol.lower(), one.port)
        for one in frontends
    }
    return Verdicts(node=node, probes=tuple(probes), places=frozenset(places))


def _probes(frontend: Frontend, node: NodePlace, cluster: Cluster) -> Iterator[Probe]:
    """One of each kind of sender; none of them is an endpoint."""
    is_ipv4 = frontend.version == 4
    host, outside = ((ip.ipv4 if is_ipv4 else ip.ipv6) for ip in (node.address, cluster.topology.outside_address))
    cidr = node.pod_cidr.ipv4 if is_ipv4 else node.pod_cidr.ipv6
    pod = cidr.replace("0/24", "249") if is_ipv4 else cidr.replace("/64", "f9")
    destination = host if frontend.kind == NODE_PORT else str(frontend.address)
    for source, origin in ((pod, Origin.POD), (host, Origin.HOST), (outside, Origin.OUTSIDE)):
        yield Probe(source, destination, frontend.port, frontend.protocol, origin, _NOTHING)


async def _in_kernel(cluster: Cluster, verdicts: Verdicts) -> list[str]:
    node = verdicts.node.name
    try:
        listings = [
            await cluster.node_exec(node, "nft", "-j", "list", "table", family, "pointsman") for family in ("ip", "ip6")
        ]
    except RemoteError as error:
        return [f"kernel of {node}: {error}"]
    tables = {4: KernelTables(listings[0]), 6: KernelTables(listings[1])}
    found = [
        line
        for probe in verdicts.probes
        for line in _compared(f"kernel of {node}", probe, tables[6 if ":" in probe.destination else 4].fate(probe))
    ]
    held = {place for each in tables.values() for place in each.frontends}
    found += [
        f"kernel of {node}: {place} is {'not planned' if place in held else 'missing'}"
        for place in sorted(held ^ verdicts.places, key=str)
    ]
    return found


async def _in_plans(cluster: Cluster, verdicts: Verdicts) -> list[str]:
    """Every planner's plan for the node, against the API server and against what the enforcer says it holds."""
    node = verdicts.node.name
    status = await enforcer_status(cluster, node)
    held = (int(status["digest"], 16), int(status["programmedDigest"], 16))
    found = [] if held[0] == held[1] else [f"enforcer of {node}: programmed {held[1]:016x} of {held[0]:016x}"]
    for planner in cluster.topology.planners:
        try:
            [line] = await cluster.ask_planner("plan", node, planner=planner.name)
        except RemoteError as error:
            found.append(f"{planner.name}: {error}")
            continue
        answer = json_format.Parse(line, pb.GetNodePlanResponse())
        if answer.digest != held[0]:
            found.append(f"{planner.name}: {node} should have {answer.digest:016x} and holds {held[0]:016x}")
        found += _traced(f"plan of {node} by {planner.name}", answer, verdicts)
    return found


async def _in_states(cluster: Cluster) -> list[str]:
    """Every planner knows of every node that it has everything, whoever serves it."""
    states = await node_states(cluster)
    return [] if are_synced(cluster, states) else [f"planners say: {states}"]


def _traced(where: str, answer: pb.GetNodePlanResponse, verdicts: Verdicts) -> Iterator[str]:
    address = verdicts.node.address
    settings = DataplaneSettings(
        detect_local=DetectLocal.CIDR,
        detect_local_cidrs=tuple(map(parse_prefix, CLUSTER_CIDRS)),
        node_port_addresses=(Prefix(parse_address(address.ipv4), 32), Prefix(parse_address(address.ipv6), 128)),
    )
    plan = NodePlan(
        facts=node_facts_from_pb(answer.node),
        services={
            ServiceKey(each.name.namespace, each.name.name): service_plan_from_pb(each.plan) for each in answer.services
        },
    )
    for probe in verdicts.probes:
        packet = Packet(
            source=parse_address(probe.source),
            destination=parse_address(probe.destination),
            destination_port=probe.port,
            protocol=Protocol[probe.protocol],
        )
        outcome = trace_packet(plan, settings, packet)
        targets = (Target(format_address(c.address), c.port, c.masquerade) for c in outcome.candidates)
        yield from _compared(where, probe, Expectation(_OUTCOMES[outcome.fate], tuple(sorted(targets))))


_OUTCOMES = {
    Fate.FORWARD: Outcome.FORWARD,
    Fate.REJECT: Outcome.REJECT,
    Fate.DROP: Outcome.DROP,
    Fate.NONE: Outcome.NONE,
}


def _compared(where: str, probe: Probe, seen: Expectation) -> Iterable[str]:
    if seen != probe.expect:
        yield f"{where}: {probe}: {seen}, by the API server {probe.expect}"


def shown(lines: Sequence[str]) -> str:
    """The first of them."""
    more = f"\n  and {len(lines) - _SHOWN_MAX} more" if len(lines) > _SHOWN_MAX else ""
    return "\n".join(f"  {line}" for line in lines[:_SHOWN_MAX]) + more
