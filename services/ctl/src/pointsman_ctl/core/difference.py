# SPDX-License-Identifier: Apache-2.0
"""Planned against programmed: in which services a node's kernel differs, and why."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from pointsman.control.v1 import control_service_pb2 as pb
from pointsman_ctl.core.node_view import state_word
from pointsman_ctl.core.plain import enum_word, plain
from pointsman_ctl.core.table import Column

_LISTED_MAX: Final = 1000

COLUMNS: tuple[Column[pb.ServiceDifference], ...] = (
    Column(head="SERVICE", cell=lambda found: plain(found.service)),
    Column(head="PLAN IS", cell=lambda found: enum_word(pb.ServiceDifference.Standing.DESCRIPTOR, found.standing)),
    Column(head="WHY", cell=lambda found: found.reason),
)


def verdict(found: pb.GetNodeResponse) -> Iterator[str]:
    """What the digests prove, and what is known beyond."""
    status = found.status
    wanted, has = f"{status.desired_digest:016x}", f"{status.programmed_digest:016x}"
    planned = f"planned     revision {found.position.revision}  digest {wanted}"
    revision = status.programmed.revision if status.programmed.epoch else "-"
    yield planned
    yield f"programmed  revision {revision}  digest {has}"
    yield ""
    if status.state == pb.NodeStatus.STATE_SYNCED:
        yield f"{status.name} is Synced: its kernel has what the planner wants, by digest."
        return
    yield f"{status.name} is {state_word(status.state)}: {status.reason}"
    if not found.has_stream and status.state != pb.NodeStatus.STATE_DISCONNECTED:
        yield f"Only {status.planner_id or 'its planner'} knows what waits for it; here is what the node refused."
    elif status.state == pb.NodeStatus.STATE_DISCONNECTED:
        yield "Nobody knows what its kernel has now; it keeps what it had."
    if len(found.differences) == _LISTED_MAX:
        yield f"The first {_LISTED_MAX} services that differ:"


def difference_data(found: pb.GetNodeResponse) -> dict[str, Any]:
    """For JSON and YAML."""
    status = found.status
    return {
        "node": status.name,
        "state": state_word(status.state),
        "reason": status.reason,
        "isEqual": status.state == pb.NodeStatus.STATE_SYNCED,
        "desiredDigest": f"{status.desired_digest:016x}",
        "programmedDigest": f"{status.programmed_digest:016x}",
        "isComplete": found.has_stream and len(found.differences) < _LISTED_MAX,
        "items": [plain(each) for each in found.differences],
    }
