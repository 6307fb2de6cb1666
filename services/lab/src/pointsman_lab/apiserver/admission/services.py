# SPDX-License-Identifier: Apache-2.0
"""Service allocations: cluster IPs out of the service CIDRs, node ports out of their range, and the rules over both.

What is taken is not stored: it follows from the services themselves, whose changes the allocator observes. So there
is nothing to repair after a refused write, and objects loaded in bulk count like all others.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, TypeVar

from pointsman_lab.apiserver import errors
from pointsman_lab.apiserver.admission.service_defaults import (
    carry_over,
    default_service,
    family_of,
    is_headless,
    needs_cluster_ip,
    needs_health_check_port,
    needs_node_ports,
)
from pointsman_lab.apiserver.admission.service_validation import validate_service, validate_service_update

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Sequence

    from pointsman_lab.apiserver.encoding import Json
    from pointsman_lab.apiserver.errors import Cause
    from pointsman_lab.apiserver.eventlog import Event

T = TypeVar("T")
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class ServiceAllocator:
    """Which addresses and node ports the services hold, and free ones on request.

    Args:
        networks: gives the service CIDRs of the moment, the default family first.
        node_ports: the numbers node ports are taken from.
        chooser: where to start looking; seeded by the owner.
    """

    def __init__(self, networks: Callable[[], Sequence[Network]], node_ports: range, chooser: random.Random) -> None:
        self._networks = networks
        self._node_ports = node_ports
        self._chooser = chooser
        self._addresses: dict[str, str] = {}
        self._ports: dict[int, str] = {}

    @property
    def families(self) -> list[str]:
        """The families the service CIDRs offer, in their order."""
        found: list[str] = []
        for network in self._networks():
            family = f"IPv{network.version}"
            if family not in found:
                found.append(family)
        return found or ["IPv4"]

    def observe(self, event: Event) -> None:
        """Follow a change of a service."""
        for stored, hold in ((event.before, False), (event.after, True)):
            if stored is None:
                continue
            spec = stored.decode().get("spec") or {}
            self._mark(
                self._addresses, [ip for ip in spec.get("clusterIPs") or [] if ip != "None"], event.key, hold=hold
            )
            self._mark(self._ports, _node_ports_of(spec), event.key, hold=hold)

    @staticmethod
    def _mark(held: dict[T, str], values: list[T], key: str, *, hold: bool) -> None:
        for value in values:
            if hold:
                held[value] = key
            elif held.get(value) == key:
                del held[value]

    def address_refusal(self, address: str, key: str) -> str:
        """Tell why a service may not have an address it asks for; empty when it may."""
        parsed = ipaddress.ip_address(address)
        if not any(parsed in network for network in self._networks()):
            ranges = ",".join(str(network) for network in self._networks())
            why = f"the provided IP is not in the valid range. The range of valid IPs is {ranges}"
            return f"failed to allocate IP {address}: {why}"
        if self._addresses.get(str(parsed), key) != key:
            return f"failed to allocate IP {address}: provided IP is already allocated"
        return ""

    def port_refusal(self, port: object, key: str) -> str:
        """Tell why a service may not have a node port it asks for; empty when it may."""
        if not isinstance(port, int) or port not in self._node_ports:
            first, last = self._node_ports.start, self._node_ports.stop - 1
            return f"provided port is not in the valid range. The range of valid ports is {first}-{last}"
        if self._ports.get(port, key) != key:
            return "provided port is already allocated"
        return ""

    def free_address(self, family: str) -> str:
        """Give an address nobody holds.

        Raises:
            ApiError: 500 when every range of the family is full, as a real server answers.
        """
        for network in self._networks():
            if f"IPv{network.version}" != family:
                continue
            usable = network.num_addresses - (2 if network.version == 4 else 1)
            offset = self._chooser.randrange(max(usable, 1))
            for step in range(min(usable, len(self._addresses) + 1)):
                candidate = str(network[1 + (offset + step) % usable])
                if candidate not in self._addresses:
                    return candidate
        raise errors.ApiError(500, "InternalError", f"failed to allocate a serviceIP: range is full ({family})")

    def free_port(self, taken: set[int]) -> int:
        """Give a node port nobody holds, and not one of `taken`.

        Raises:
            ApiError: 500 when the range is full, as a real server answers.
        """
        size = len(self._node_ports)
        offset = self._chooser.randrange(max(size, 1))
        for step in range(size):
            candidate = self._node_ports[(offset + step) % size]
            if candidate not in self._ports and candidate not in taken:
                return candidate
        raise errors.ApiError(500, "InternalError", "failed to allocate a nodePort: range is full")


def _node_ports_of(spec: Json) -> list[int]:
    found = [port["nodePort"] for port in spec.get("ports") or [] if port.get("nodePort")]
    if spec.get("healthCheckNodePort"):
        found.append(spec["healthCheckNodePort"])
    return found


class ServiceRules:
    """The rules of Services, over an allocator."""

    def __init__(self, allocator: ServiceAllocator) -> None:
        self._allocator = allocator

    def on_create(self, body: Json) -> list[Cause]:
        """Default, check and allocate; a new service has no load balancer status."""
        body["status"] = {}
        default_service(body, self._allocator.families)
        return validate_service(body["spec"], self._allocator.families) or self._allocate(body)

    def on_update(self, body: Json, before: Json) -> list[Cause]:
        """Keep what is allocated, then as on create."""
        body["spec"] = body.get("spec") or {}
        body["spec"].setdefault("type", "ClusterIP")
        carry_over(body, before)
        default_service(body, self._allocator.families)
        causes = validate_service(body["spec"], self._allocator.families)
        causes += validate_service_update(body["spec"], before["spec"])
        return causes or self._allocate(body)

    def _allocate(self, body: Json) -> list[Cause]:
        metadata, spec = body["metadata"], body["spec"]
        key = f"{metadata.get('namespace')}/{metadata['name']}"
        causes = self._allocate_addresses(spec, key) if needs_cluster_ip(spec) else []
        return causes + self._allocate_ports(spec, key)

    def _allocate_addresses(self, spec: Json, key: str) -> list[Cause]:
        if is_headless(spec):
            spec["clusterIP"], spec["clusterIPs"] = "None", ["None"]
            return []
        given = [str(ipaddress.ip_address(ip)) for ip in spec.get("clusterIPs") or []]
        for address in given:
            refusal = self._allocator.address_refusal(address, key)
            if refusal:
                return [errors.invalid_value("spec.clusterIPs", given, refusal)]
        by_family = {family_of(address): address for address in given}
        chosen = [by_family.get(family) or self._allocator.free_address(family) for family in spec["ipFamilies"]]
        spec["clusterIP"], spec["clusterIPs"] = chosen[0], chosen
        return []

    def _allocate_ports(self, spec: Json, key: str) -> list[Cause]:
        causes: list[Cause] = []
        ports = spec.get("ports") or []
        taken = {port["nodePort"] for port in ports if port.get("nodePort")}
        given: dict[int, int] = {}
        for index, port in enumerate(ports):
            if port.get("nodePort"):
                refusal = self._allocator.port_refusal(port["nodePort"], key)
                if refusal:
                    causes.append(errors.invalid_value(f"spec.ports[{index}].nodePort", port["nodePort"], refusal))
            elif needs_node_ports(spec):
                port["nodePort"] = given.get(port["port"]) or self._allocator.free_port(taken)
                taken.add(port["nodePort"])
                given[port["port"]] = port["nodePort"]
        if needs_health_check_port(spec):
            if spec.get("healthCheckNodePort"):
                refusal = self._allocator.port_refusal(spec["healthCheckNodePort"], key)
                if refusal:
                    causes.append(
                        errors.invalid_value("spec.healthCheckNodePort", spec["healthCheckNodePort"], refusal)
                    )
            else:
                spec["healthCheckNodePort"] = self._allocator.free_port(taken)
        return causes
