# SPDX-License-Identifier: Apache-2.0
"""A node's plan, as a table of services and as rules: one line for each frontend and class of sender.

The rules are the plan spelled out, the same for every proxy mode, since modes only translate: what the kernel should
do. What it does is shown by the node's own tools (`rules --local`).
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from pointsman.control.v1 import control_service_pb2 as pb
from pointsman.plan.v1 import plan_service_pb2 as plan_pb
from pointsman.types.v1 import types_pb2
from pointsman_ctl.core.plain import address_text, endpoint_text, enum_word, plain
from pointsman_ctl.core.table import Column

_SENDERS = ("pod", "host", "outside")


def service_text(planned: pb.PlannedService) -> str:
    """`namespace/name`."""
    return f"{planned.name.namespace}/{planned.name.name}"


PLAN_COLUMNS: tuple[Column[pb.PlannedService], ...] = (
    Column(head="SERVICE", cell=service_text),
    Column(head="PORTS", cell=lambda found: ",".join(_port(port) for port in found.plan.ports)),
    Column(head="FRONTENDS", cell=lambda found: sum(len(port.frontends) for port in found.plan.ports)),
    Column(head="ENDPOINTS", cell=lambda found: sum(_endpoints(port) for port in found.plan.ports)),
    Column(
        head="AFFINITY",
        cell=lambda found: f"{found.plan.affinity_timeout_seconds}s" if found.plan.affinity_timeout_seconds else "",
        is_wide=True,
    ),
    Column(head="HEALTH PORT", cell=lambda found: _health(found.plan), is_wide=True),
    Column(head="NEEDS", cell=lambda found: ",".join(found.plan.required_capabilities), is_wide=True),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What happens to new connections to one frontend from one or more classes of senders."""

    service: str
    frontend: str
    kind: str
    senders: tuple[str, ...]
    action: str
    endpoints: tuple[str, ...]
    is_masqueraded: bool
    source_ranges: tuple[str, ...]
    affinity_seconds: int

    def data(self) -> dict[str, Any]:
        """For JSON and YAML."""
        return {
            "service": self.service,
            "frontend": self.frontend,
            "kind": self.kind,
            "from": list(self.senders),
            "action": self.action,
            "endpoints": list(self.endpoints),
            "masquerade": self.is_masqueraded,
            "sourceRanges": list(self.source_ranges),
            "affinitySeconds": self.affinity_seconds,
        }


RULE_COLUMNS: tuple[Column[Rule], ...] = (
    Column(head="SERVICE", cell=lambda rule: rule.service),
    Column(head="FRONTEND", cell=lambda rule: rule.frontend),
    Column(head="KIND", cell=lambda rule: rule.kind),
    Column(head="FROM", cell=lambda rule: ",".join(rule.senders)),
    Column(head="ACTION", cell=lambda rule: rule.action + (" masq" if rule.is_masqueraded else "")),
    Column(head="SOURCES", cell=lambda rule: ",".join(rule.source_ranges), is_wide=True),
    Column(
        head="AFFINITY", cell=lambda rule: f"{rule.affinity_seconds}s" if rule.affinity_seconds else "", is_wide=True
    ),
    Column(head="ENDPOINTS", cell=lambda rule: ",".join(rule.endpoints)),
)


def rules(services: Iterable[pb.PlannedService]) -> Iterator[Rule]:
    """Every rule of a plan, in the plan's order; senders that are treated alike share one."""
    for planned in services:
        for port in planned.plan.ports:
            for frontend in port.frontends:
                yield from _frontend_rules(planned, port, frontend)


def plan_data(planned: pb.PlannedService) -> Any:
    """A planned service for JSON and YAML."""
    return plain(planned)


def _frontend_rules(
    planned: pb.PlannedService, port: plan_pb.ServicePortPlan, frontend: plan_pb.Frontend
) -> Iterator[Rule]:
    verdicts = (frontend.from_pod, frontend.from_host, frontend.from_outside)
    alike: dict[bytes, list[str]] = {}
    for sender, verdict in zip(_SENDERS, verdicts, strict=True):
        alike.setdefault(verdict.SerializeToString(deterministic=True), []).append(sender)
    for encoded, senders in alike.items():
        verdict = plan_pb.Verdict.FromString(encoded)
        is_forward = verdict.action == plan_pb.Verdict.ACTION_FORWARD
        chosen = port.endpoint_sets[verdict.endpoint_set] if is_forward else plan_pb.EndpointSet()
        yield Rule(
            service=service_text(planned) + (f":{port.name}" if port.name else ""),
            frontend=_frontend(port, frontend),
            kind=enum_word(plan_pb.Frontend.Kind.DESCRIPTOR, frontend.kind),
            senders=tuple(senders),
            action=enum_word(plan_pb.Verdict.Action.DESCRIPTOR, verdict.action),
            endpoints=tuple(_weighted(each) for each in plain(chosen)),
            is_masqueraded=verdict.masquerade,
            source_ranges=tuple(plain(each) for each in frontend.source_ranges),
            affinity_seconds=planned.plan.affinity_timeout_seconds,
        )


def _frontend(port: plan_pb.ServicePortPlan, frontend: plan_pb.Frontend) -> str:
    protocol = enum_word(types_pb2.Protocol.DESCRIPTOR, port.protocol)
    if frontend.address:
        return f"{endpoint_text(address_text(frontend.address), frontend.port)}/{protocol}"
    return f"(node {enum_word(types_pb2.IPFamily.DESCRIPTOR, port.family)}):{frontend.port}/{protocol}"


def _weighted(endpoint: dict[str, Any]) -> str:
    text = endpoint_text(endpoint["address"], endpoint["port"])
    return text if endpoint["weight"] == 1 else f"{text}*{endpoint['weight']}"


def _port(port: plan_pb.ServicePortPlan) -> str:
    family = enum_word(types_pb2.IPFamily.DESCRIPTOR, port.family)
    return f"{port.name or '-'}/{enum_word(types_pb2.Protocol.DESCRIPTOR, port.protocol)}/{family}"


def _endpoints(port: plan_pb.ServicePortPlan) -> int:
    return max((len(each.ports) for each in port.endpoint_sets), default=0)


def _health(plan: plan_pb.ServicePlan) -> str:
    if not plan.HasField("health_check"):
        return ""
    return f"{plan.health_check.node_port} ({plan.health_check.local_endpoints} local)"
