# SPDX-License-Identifier: Apache-2.0
"""Nodes and how far each has come."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, Final

from pointsman.control.v1 import control_service_pb2 as pb
from pointsman.plan.v1 import plan_service_pb2 as plan_pb
from pointsman_ctl.core.plain import enum_word, plain
from pointsman_ctl.core.table import Column
from pointsman_ctl.core.words import age_text

STATE_COLOURS: Final[Mapping[str, str]] = MappingProxyType(
    {"Synced": "green", "Stale": "yellow", "Nacked": "red", "Disconnected": "red", "Unresponsive": "red"}
)

_CONDITIONS_SHOWN: Final = 2


def state_word(state: int) -> str:
    """`Synced`, `Stale`, `Nacked`, `Disconnected`, `Unresponsive`."""
    return enum_word(pb.NodeStatus.State.DESCRIPTOR, state)


def columns(now_seconds: float) -> tuple[Column[pb.NodeStatus], ...]:
    """The columns of `status`; `now_seconds` since the epoch is what ages count from."""
    return (
        Column(head="NODE", cell=lambda node: node.name),
        Column(head="MODE", cell=lambda node: enum_word(plan_pb.ProxyMode.DESCRIPTOR, node.mode)),
        Column(head="SHARD", cell=lambda node: node.planner_id),
        Column(head="SENT", cell=lambda node: _revision(node.sent)),
        Column(head="ACKED", cell=_acked),
        Column(head="APPLIED", cell=lambda node: _revision(node.programmed)),
        Column(head="VERIFIED", cell=lambda node: _reached(node, plan_pb.ACK_LEVEL_VERIFIED), is_wide=True),
        Column(head="PENDING", cell=lambda node: node.pending_services, is_wide=True),
        Column(
            head="AGE",
            cell=lambda node: age_text(now_seconds - node.since.seconds) if node.HasField("since") else "",
        ),
        Column(
            head="STATE",
            cell=lambda node: state_word(node.state),
            colour=lambda node: STATE_COLOURS.get(state_word(node.state), ""),
        ),
        Column(
            head="SEEN",
            cell=lambda node: age_text(now_seconds - node.last_seen.seconds) if node.HasField("last_seen") else "",
            is_wide=True,
        ),
        Column(head="VERSION", cell=lambda node: node.version, is_wide=True),
        Column(head="REPAIRS", cell=lambda node: node.drift.repairs, is_wide=True),
        Column(head="REASON", cell=lambda node: "; ".join(reasons(node))),
    )


def reasons(node: pb.NodeStatus) -> list[str]:
    """Why a node is as it is, and what else an operator should know of it."""
    found = [node.reason] if node.reason else []
    if len(node.failures) and node.state != pb.NodeStatus.STATE_NACKED:
        found.append(f"{len(node.failures)} services refused")
    found += [f"{_name(each)}: {each.message}" for each in node.conditions.conditions[:_CONDITIONS_SHOWN]]
    if node.conditions.total > _CONDITIONS_SHOWN:
        found.append(f"{node.conditions.total - _CONDITIONS_SHOWN} more conditions")
    return found


def node_data(node: pb.NodeStatus) -> dict[str, Any]:
    """A node for JSON and YAML: the message, the name of its shard, and whether the digests agree."""
    data: dict[str, Any] = plain(node)
    data["isConverged"] = node.state == pb.NodeStatus.STATE_SYNCED and node.desired_digest == node.programmed_digest
    return data


def summary(nodes: Iterable[pb.NodeStatus]) -> str:
    """`3 nodes: 2 Synced, 1 Stale`."""
    counts: dict[str, int] = {}
    for node in nodes:
        counts[state_word(node.state)] = counts.get(state_word(node.state), 0) + 1
    total = sum(counts.values())
    listed = ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))
    return f"{total} node{'' if total == 1 else 's'}{': ' + listed if listed else ''}"


def _revision(position: plan_pb.Position) -> str:
    return str(position.revision) if position.epoch else ""


def _acked(node: pb.NodeStatus) -> str:
    """The newest revision that any ack named: on the node's disk, or, if it says no such thing, in its kernel."""
    newest = max((each.position.revision for each in node.reached), default=0)
    return str(newest) if node.reached else ""


def _reached(node: pb.NodeStatus, level: int) -> str:
    return next((_revision(each.position) for each in node.reached if each.level == level), "")


def _name(condition: plan_pb.ServiceCondition) -> str:
    return f"{condition.service.namespace}/{condition.service.name}"
