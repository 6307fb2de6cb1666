# SPDX-License-Identifier: Apache-2.0
"""Which connections to try for a Service, what the plan says becomes of each, and whether it did."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from pointsman.control.v1 import control_service_pb2 as pb
from pointsman.plan.v1 import plan_service_pb2 as plan_pb
from pointsman.types.v1 import types_pb2
from pointsman_ctl.core.packet_view import outcome_word
from pointsman_ctl.core.plain import address_text, endpoint_text, enum_word
from pointsman_ctl.core.verdict import Result, failed, passed, skipped

_EXPECTED: Final = {
    pb.ExplainPacketResponse.OUTCOME_FORWARD: "connected",
    pb.ExplainPacketResponse.OUTCOME_REJECT: "refused",
    pb.ExplainPacketResponse.OUTCOME_DROP: "timeout",
}


class Target(NamedTuple):
    """A connection to try."""

    service: str
    port_name: str
    kind: str
    """`ClusterIP`, `NodePort`, ..."""
    address: str
    port: int
    protocol: str

    @property
    def text(self) -> str:
        """`NodePort 10.0.0.5:30080/TCP`."""
        return f"{self.kind} {endpoint_text(self.address, self.port)}/{self.protocol}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """How one connection ended, see `probe.py`."""

    outcome: str
    milliseconds: float
    detail: str
    source: str


def targets(planned: pb.PlannedService, facts: plan_pb.NodeFacts) -> Iterator[Target]:
    """Every frontend of a service; a node port at the node's primary address of its family."""
    service = f"{planned.name.namespace}/{planned.name.name}"
    for port in planned.plan.ports:
        protocol = enum_word(types_pb2.Protocol.DESCRIPTOR, port.protocol)
        size = 4 if port.family == types_pb2.IP_FAMILY_IPV4 else 16
        own = next((address for address in facts.addresses if len(address) == size), b"")
        for frontend in port.frontends:
            address = frontend.address or own
            if address and protocol != "SCTP":
                yield Target(
                    service=service,
                    port_name=port.name,
                    kind=enum_word(plan_pb.Frontend.Kind.DESCRIPTOR, frontend.kind),
                    address=address_text(address),
                    port=frontend.port,
                    protocol=protocol,
                )


def judge(target: Target, answer: pb.ExplainPacketResponse, attempts: Sequence[Attempt]) -> Result:
    """Whether the connections ended as the plan says.

    A UDP server need not answer: silence where the plan forwards proves neither, and is skipped.
    """
    expected = _EXPECTED.get(answer.outcome)
    seen = _counted(attempts)
    if not attempts:
        return skipped(target.service, target.text, "no way from here to this address")
    if expected is None:
        return skipped(target.service, target.text, f"the plan leaves this packet alone; seen: {seen}")
    if all(attempt.outcome == expected for attempt in attempts):
        fastest = min(attempt.milliseconds for attempt in attempts)
        return passed(target.service, target.text, f"{seen}, as planned ({fastest:.1f} ms)")
    if target.protocol == "UDP" and expected == "connected" and not any(a.outcome == "error" for a in attempts):
        return skipped(target.service, target.text, f"{seen}; a UDP server need not answer")
    hint = (
        f"`pointsmanctl explain {attempts[0].source or 'FROM'} {endpoint_text(target.address, target.port)}"
        f"/{target.protocol} --node NODE` says what should become of it; is the application itself well?"
    )
    return failed(target.service, target.text, f"planned: {outcome_word(answer)} ({expected}); seen: {seen}", hint)


def _counted(attempts: Iterable[Attempt]) -> str:
    counts: dict[str, int] = {}
    for attempt in attempts:
        word = f"error ({attempt.detail})" if attempt.outcome == "error" else attempt.outcome
        counts[word] = counts.get(word, 0) + 1
    return ", ".join(f"{count} {word}" for word, count in sorted(counts.items()))
