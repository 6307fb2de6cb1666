# SPDX-License-Identifier: Apache-2.0
"""Where a packet goes, and why."""

from collections.abc import Iterator
from typing import Final

from pointsman.control.v1 import control_service_pb2 as pb
from pointsman_ctl.core.plain import address_text, endpoint_text, enum_word

_MEANINGS: Final = {
    pb.ExplainPacketResponse.OUTCOME_FORWARD: "goes to one of {count}",
    pb.ExplainPacketResponse.OUTCOME_REJECT: "is refused: the sender sees `connection refused` or an ICMP error",
    pb.ExplainPacketResponse.OUTCOME_DROP: "is dropped: the sender gets no answer",
    pb.ExplainPacketResponse.OUTCOME_NONE: "is no Service's: it goes on as it is",
}


def outcome_word(found: pb.ExplainPacketResponse) -> str:
    """`Forward`, `Reject`, `Drop`, `None`."""
    return enum_word(pb.ExplainPacketResponse.Outcome.DESCRIPTOR, found.outcome)


def explanation(found: pb.ExplainPacketResponse, *, source: str, destination: str, node: str) -> Iterator[str]:
    """The answer, the endpoints with their shares, the steps that led there, and the endpoints left out."""
    count = f"{len(found.endpoints)} endpoint{'' if len(found.endpoints) == 1 else 's'}"
    meaning = _MEANINGS.get(found.outcome, outcome_word(found)).format(count=count)
    yield f"{source} -> {destination} on {node}: {outcome_word(found).upper()}"
    service = f"{found.service.namespace}/{found.service.name}" if found.HasField("service") else ""
    about = f" ({service}{':' + found.port_name if found.port_name else ''})" if service else ""
    yield f"The packet {meaning}{about}."
    shares = sum(each.weight for each in found.endpoints)
    for each in found.endpoints:
        where = endpoint_text(address_text(each.address), each.port)
        masquerade = "source becomes the node's" if each.masquerade else "source stays"
        yield f"  -> {where}   {100 * each.weight / shares:.4g} %, {masquerade}"
    if found.steps:
        yield "Why:"
        yield from (f"  {number}. {step}" for number, step in enumerate(found.steps, 1))
    if found.exclusions:
        yield "Not chosen:"
        for other in found.exclusions:
            yield f"  {endpoint_text(address_text(other.address), other.port)}   {other.reason}"
