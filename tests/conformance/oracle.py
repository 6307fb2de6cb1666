# SPDX-License-Identifier: Apache-2.0
"""What must happen to a packet: the plain statement of what a Service means, on the objects as Kubernetes writes them.

This is the specification as code, and the judge of generated rows. It shares nothing with the planner, its model or
the reference tracer: it reads JSON, asks the questions of the specification in their order, and is slow. Letters and
numbers in comments are those of the inventory of kube-proxy's behaviour (`semantics.md`; where proxy modes differ, its
nftables column).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

from conformance.model import Event, Expectation, Origin, Outcome, Probe, Row, Target, Verb
from conformance.oracle_addresses import Address, Network, parse_address, parse_network
from conformance.oracle_endpoints import Endpoint, Policies, endpoints_of, sets_of

_PROXY_NAME_LABEL = "service.kubernetes.io/service-proxy-name"
_HEADLESS_LABEL = "service.kubernetes.io/headless"
_ZONE_LABEL = "topology.kubernetes.io/zone"
_CLIENT_INTERFACE = "pod0"
"""Where packets of pods come in; of pods that are endpoints, another one of the same prefix."""
CLUSTER_IP, LOAD_BALANCER, EXTERNAL_IP, NODE_PORT = "cluster IP", "load balancer", "external IP", "node port"
_PRECEDENCE = (CLUSTER_IP, LOAD_BALANCER, EXTERNAL_IP, NODE_PORT)
Json = dict[str, Any]


def judge(row: Row) -> Row:
    """The row with the expectation of every probe filled in."""
    objects = Objects()
    steps = []
    for step in row.steps:
        objects.apply(step.events)
        node = Node(objects, row)
        steps.append(replace(step, probes=tuple(one._replace(expect=node.fate(one)) for one in step.probes)))
    return replace(row, steps=tuple(steps))


class Objects:
    """What the API server has, of what a proxy is shown."""

    def __init__(self) -> None:
        self._objects: dict[tuple[str, str, str], Json] = {}

    def apply(self, events: Iterable[Event]) -> None:
        """Take in events in order."""
        for event in events:
            manifest = json.loads(event.manifest)
            names = manifest["metadata"]
            key = (manifest["kind"], names.get("namespace", ""), names["name"])
            if event.verb is Verb.APPLY:
                self._objects[key] = manifest
            else:
                self._objects.pop(key, None)

    def of_kind(self, kind: str) -> Iterator[Json]:
        """Objects of one kind, by namespace and name."""
        return (self._objects[key] for key in sorted(self._objects) if key[0] == kind)

    def services(self) -> Iterator[Json]:
        """A1: another proxy's are hidden. A3: those without a cluster IP, and aliases, are ignored."""
        for service in self.of_kind("Service"):
            labels, spec = service["metadata"].get("labels", {}), service["spec"]
            is_hidden = _PROXY_NAME_LABEL in labels or spec.get("clusterIP", "") in {"", "None"}
            if not is_hidden and spec.get("type") != "ExternalName":
                yield service

    def slices(self, service: Json) -> Iterator[Json]:
        """A2, A4: by label, in the namespace of the Service."""
        names = service["metadata"]
        for item in self.of_kind("EndpointSlice"):
            labels = item["metadata"].get("labels", {})
            is_same_namespace = item["metadata"].get("namespace") == names.get("namespace")
            is_mine = labels.get("kubernetes.io/service-name") == names["name"] and is_same_namespace
            if is_mine and _HEADLESS_LABEL not in labels:
                yield item


class Frontend(NamedTuple):
    """A place where packets for one ServicePort arrive; a node port has no address of its own."""

    kind: str
    address: Address | None
    port: int
    protocol: str
    version: int
    name: str
    service: Json


def frontends_of(service: Json) -> Iterator[Frontend]:
    """B1-B7: every place where packets for a Service arrive."""
    spec = service["spec"]
    families = spec.get("ipFamilies") or []
    clusters = [parse_address(text) for text in (spec.get("clusterIPs") or [spec["clusterIP"]])]
    versions = [4 if family == "IPv4" else 6 for family in families] or [ip.version for ip in clusters[:1] if ip]
    addresses = [(CLUSTER_IP, ip) for ip in clusters if ip and ip.version in versions]
    addresses += [(LOAD_BALANCER, ip) for ip in captured_load_balancers(service)]
    addresses += [(EXTERNAL_IP, parse_address(text)) for text in spec.get("externalIPs", ())]
    for port in spec.get("ports", ()):
        protocol, name = port.get("protocol", "TCP"), port.get("name", "")
        for kind, address in addresses:
            if address is not None and address.version in versions:
                yield Frontend(kind, address, port["port"], protocol, address.version, name, service)
        for version in versions if port.get("nodePort") else ():
            yield Frontend(NODE_PORT, None, port["nodePort"], protocol, version, name, service)


def captured_load_balancers(service: Json) -> list[Address]:
    """B5, B6: hostnames and addresses of mode Proxy are not ours."""
    ingress = service.get("status", {}).get("loadBalancer", {}).get("ingress", ())
    captured = (entry for entry in ingress if entry.get("ip") and entry.get("ipMode", "VIP") == "VIP")
    return [address for entry in captured if (address := parse_address(entry["ip"])) is not None]


class Node:
    """The node under test, in one state of the cluster."""

    def __init__(self, objects: Objects, row: Row) -> None:
        self._objects = objects
        self._name = row.node_name.strip().lower()  # A9
        self._local = {parse_address(text) for text in row.node_addresses}
        self._settings = row.settings
        mine = [node for node in objects.of_kind("Node") if node["metadata"]["name"] == row.node_name]
        self._object: Json = mine[0] if mine else {"metadata": {}}
        self._frontends = [one for service in objects.services() for one in frontends_of(service)]
        self._endpoints: dict[tuple[str, ...], list[Endpoint]] = {}

    def fate(self, probe: Probe) -> Expectation:
        """E12, G7, I12: virtual IPs, then other ports of cluster IPs, then unallocated addresses, then node ports."""
        destination = _address(probe.destination)
        found = self._virtual_ip(destination, probe)
        if found is not None:
            return self._through(found, probe)
        if any(one.kind == CLUSTER_IP and one.address == destination for one in self._frontends):
            return Expectation(Outcome.REJECT)
        if any(destination in cidr for cidr in self._service_cidrs()):
            return Expectation(Outcome.DROP)
        found = self._node_port(destination, probe)
        return self._through(found, probe) if found is not None else Expectation(Outcome.NONE)

    def _virtual_ip(self, destination: Address, probe: Probe) -> Frontend | None:
        """B16: two Services may claim one place. Upstream leaves open who has it; ours says by kind, then by name."""
        place = (destination, probe.port, probe.protocol)
        mine = [one for one in self._frontends if (one.address, one.port, one.protocol) == place]
        return min(mine, key=_rank, default=None)

    def _node_port(self, destination: Address, probe: Probe) -> Frontend | None:
        """G: on local addresses within nodePortAddresses, and never on loopback (G5, G6)."""
        if destination not in self._local or destination.is_loopback or not self._answers_node_ports(destination):
            return None
        place = (NODE_PORT, destination.version, probe.port, probe.protocol)
        mine = [one for one in self._frontends if (one.kind, one.version, one.port, one.protocol) == place]
        return min(mine, key=_rank, default=None)

    def _answers_node_ports(self, destination: Address) -> bool:
        """G2: no block of this family matches every address. G3: `primary` is the node's own first address."""
        if self._settings.node_port_addresses == ("primary",):
            return destination == self._primary(destination.version)
        blocks = [block for text in self._settings.node_port_addresses if (block := parse_network(text))]
        mine = [block for block in blocks if block.version == destination.version]
        return not mine or any(destination in block for block in mine)

    def _through(self, frontend: Frontend, probe: Probe) -> Expectation:
        """One packet that arrived at a frontend."""
        source = _address(probe.source)
        if frontend.kind == LOAD_BALANCER and not self._may_use_load_balancer(frontend, source):
            return Expectation(Outcome.DROP)  # B8, B8a: whether there are endpoints or not
        endpoints = self._endpoints_behind(frontend)
        policies = policies_of(frontend, self._frontends)
        cluster, local, has_any = sets_of(endpoints, policies, self._name, self._zone())
        if not has_any:
            return Expectation(Outcome.REJECT)  # C7
        use_local, masquerade = self._treatment(frontend, policies, probe)
        chosen = local if use_local else cluster
        if not chosen:
            return Expectation(Outcome.DROP)  # C7
        targets = (
            Target(str(e.address), e.port, masquerade or (e.address == source and e.may_be_on(self._name)))  # E8
            for e in chosen
        )
        return Expectation(Outcome.FORWARD, tuple(sorted(targets)))

    def _treatment(self, frontend: Frontend, policies: Policies, probe: Probe) -> tuple[bool, bool]:
        """E: whether only local endpoints may be used, and whether the source is masqueraded."""
        has_detector = self._has_detector(frontend.version)
        is_pod = has_detector and self._is_detected(probe)
        if frontend.kind == CLUSTER_IP:
            is_masqueraded = self._settings.masquerade_all or (has_detector and not is_pod)  # E1, E2
            return policies.internal_local, is_masqueraded
        if not policies.external_local:
            return False, True  # E3
        if is_pod:
            return False, False  # E5
        if _address(probe.source) in self._local:
            return False, True  # E7
        return True, False  # E4, E6

    def _has_detector(self, version: int) -> bool:
        """F: interface modes detect in both families, CIDR modes in those they have a CIDR of."""
        mode = self._settings.detect_local_mode
        if mode in {"BridgeInterface", "InterfaceNamePrefix"}:
            return True
        return self._pod_cidr(version) is not None

    def _is_detected(self, probe: Probe) -> bool:
        """F. What the node itself sends comes in by no interface."""
        mode = self._settings.detect_local_mode
        if mode == "BridgeInterface":
            return probe.origin is Origin.POD and self._settings.interface == _CLIENT_INTERFACE
        if mode == "InterfaceNamePrefix":
            return probe.origin is Origin.POD and _CLIENT_INTERFACE.startswith(self._settings.interface)
        source = _address(probe.source)
        cidr = self._pod_cidr(source.version)
        return cidr is not None and source in cidr

    def _pod_cidr(self, version: int) -> Network | None:
        """F: the first CIDR of the family, of the cluster or of this node."""
        if self._settings.detect_local_mode == "NodeCIDR":
            texts: Iterable[str] = self._object.get("spec", {}).get("podCIDRs", ())
        else:
            texts = self._settings.cluster_cidrs
        blocks = (parse_network(text) for text in texts)
        return next((block for block in blocks if block is not None and block.version == version), None)

    def _may_use_load_balancer(self, frontend: Frontend, source: Address) -> bool:
        """B8: ranges of the family, none of which is everything; the VIP itself where the node may use it."""
        texts = frontend.service["spec"].get("loadBalancerSourceRanges", ())
        ranges = [block for text in texts if (block := parse_network(text)) and block.version == frontend.version]
        if not ranges or any(block.prefixlen == 0 for block in ranges):
            return True
        if any(source in block for block in ranges):
            return True
        primary = self._primary(frontend.version)
        is_node_allowed = primary is not None and any(primary in block for block in ranges)
        return is_node_allowed and source in captured_load_balancers(frontend.service)

    def _endpoints_behind(self, frontend: Frontend) -> list[Endpoint]:
        names = frontend.service["metadata"]
        key = (names["namespace"], names["name"], frontend.name, frontend.protocol, str(frontend.version))
        if key not in self._endpoints:
            slices = self._objects.slices(frontend.service)
            self._endpoints[key] = endpoints_of(slices, frontend.name, frontend.protocol, frontend.version)
        return self._endpoints[key]

    def _primary(self, version: int) -> Address | None:
        listed = self._object.get("status", {}).get("addresses", ())
        internal = (parse_address(entry["address"]) for entry in listed if entry["type"] == "InternalIP")
        return next((address for address in internal if address is not None and address.version == version), None)

    def _zone(self) -> str:
        zone: str = self._object["metadata"].get("labels", {}).get(_ZONE_LABEL, "")
        return zone

    def _service_cidrs(self) -> Iterator[Network]:
        for item in self._objects.of_kind("ServiceCIDR"):
            yield from (block for text in item["spec"]["cidrs"] if (block := parse_network(text)) is not None)


def policies_of(frontend: Frontend, everything: Iterable[Frontend]) -> Policies:
    """B10, B11: eTP counts only for what can be reached from outside (node port, external IP, captured VIP)."""
    spec = frontend.service["spec"]
    mine = (frontend.service["metadata"], frontend.name, frontend.protocol, frontend.version)
    is_external = any(
        one.kind != CLUSTER_IP and (one.service["metadata"], one.name, one.protocol, one.version) == mine
        for one in everything
    )
    return Policies(
        internal_local=spec.get("internalTrafficPolicy") == "Local",
        external_local=spec.get("externalTrafficPolicy") == "Local",
        is_external=is_external,
    )


def _rank(frontend: Frontend) -> tuple[int, str, str]:
    names = frontend.service["metadata"]
    return _PRECEDENCE.index(frontend.kind), names["namespace"], names["name"]


def _address(text: str) -> Address:
    found = parse_address(text)
    if found is None:
        raise ValueError(f"{text!r} in a probe is no address")
    return found
