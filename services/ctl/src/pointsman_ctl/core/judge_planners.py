# SPDX-License-Identifier: Apache-2.0
"""Judges what planners say of themselves, of their shards and of the nodes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from pointsman.control.v1 import control_service_pb2 as pb
from pointsman.plan.v1 import plan_service_pb2 as plan_pb
from pointsman_ctl.core.node_view import state_word, summary
from pointsman_ctl.core.plain import enum_word
from pointsman_ctl.core.verdict import Result, failed, passed, skipped, warning
from pointsman_ctl.core.words import age_text

PLANNERS: Final = "planners"
NODES: Final = "nodes"
SERVICES: Final = "services"
_LISTED_MAX: Final = 5
_DRIFT_SECONDS: Final = 3600.0
Page = Mapping[str, Any]


def judge_sync(page: Page) -> Result:
    """Whether a planner has seen the whole cluster."""
    name = f"in sync ({page.get('planner', '?')})"
    if page.get("inSync"):
        return passed(PLANNERS, name, "it has seen the whole cluster")
    hint = "is a watcher running and reachable? the logs of watcher and planner say what they wait for"
    return failed(PLANNERS, name, "it has not seen the whole cluster yet; nodes keep what they have", hint)


def judge_store(page: Page) -> Result:
    """Whether a planner reaches what planners share."""
    store = page.get("store") or {}
    name = f"Redis ({page.get('planner', '?')})"
    if store.get("isAvailable"):
        return passed(PLANNERS, name, "what planners share can be read and written")
    hint = "does Redis run, and is `redisURL` right? Services go on; shared affinity and overrides wait"
    return failed(PLANNERS, name, f"not available: {store.get('error') or 'no reason given'}", hint)


def judge_degraded(page: Page) -> Result:
    """Whatever else a planner says does not work."""
    name = f"whole ({page.get('planner', '?')})"
    found = [str(each) for each in page.get("degraded") or []]
    if not found:
        return passed(PLANNERS, name, "nothing is degraded")
    return warning(PLANNERS, name, "; ".join(found), "the planner's /statusz and log have the details")


def judge_shards(nodes: Sequence[pb.NodeStatus], pages: Sequence[Page]) -> Result:
    """Whether the planners agree on who they are, and every connected node is served by one of them."""
    views = {_members(page) for page in pages}
    if not views:
        return skipped(PLANNERS, "shards", "no /statusz of a planner could be read")
    if len(views) > 1:
        shown = " against ".join(sorted(", ".join(sorted(view)) or "none" for view in views))
        hint = "planners that do not see each other share no Redis, or it is away: see `redisURL` of each"
        return failed(PLANNERS, "shards", f"planners disagree on who they are: {shown}", hint)
    if any((page.get("membership") or {}).get("isFrozen") for page in pages):
        hint = "Redis is away: planners that join or end are not noticed until it is back"
        return warning(PLANNERS, "shards", "membership is frozen", hint)
    (members,) = views
    live = members or frozenset(str(page.get("planner")) for page in pages)
    connected = [node for node in nodes if node.state != pb.NodeStatus.STATE_DISCONNECTED]
    strays = [node.name for node in connected if node.planner_id not in live]
    if strays:
        hint = "the node's enforcer will move to a live planner; if it does not, see its log"
        return failed(PLANNERS, "shards", f"served by no live planner: {_some(strays)}", hint)
    shares = Counter(node.planner_id for node in connected)
    listed = ", ".join(f"{planner} {shares[planner]}" for planner in sorted(live))
    return passed(PLANNERS, "shards", f"every connected node has its planner ({listed})")


def judge_nodes(nodes: Sequence[pb.NodeStatus]) -> Result:
    """Whether every node has everything."""
    if not nodes:
        return failed(NODES, "converged", "there are no nodes", "may watchers list Nodes?")
    behind = [node for node in nodes if node.state != pb.NodeStatus.STATE_SYNCED]
    if not behind:
        return passed(NODES, "converged", summary(nodes))
    listed = _some([f"{node.name} {state_word(node.state)} ({node.reason})" for node in behind])
    if all(node.state == pb.NodeStatus.STATE_STALE for node in behind):
        return warning(NODES, "converged", listed, "something is under way; `pointsmanctl wait --all` waits for it")
    hint = "Disconnected: is its enforcer running, and may it reach the planners? Nacked: `pointsmanctl diff NODE`"
    return failed(NODES, "converged", listed, hint)


def judge_versions(nodes: Iterable[pb.NodeStatus]) -> Result:
    """Whether enforcers are of one version."""
    counts = Counter(node.version for node in nodes if node.version)
    if len(counts) > 1:
        listed = ", ".join(f"{count} x {version}" for version, count in sorted(counts.items()))
        return warning(
            NODES, "versions", f"enforcers of several versions: {listed}", "finish the upgrade, or roll back"
        )
    return passed(NODES, "versions", f"all enforcers are {next(iter(counts))}" if counts else "none says its version")


def judge_modes(nodes: Iterable[pb.NodeStatus]) -> Result:
    """What proxy modes are in use, and what users should know of them."""
    counts = Counter(enum_word(plan_pb.ProxyMode.DESCRIPTOR, node.mode) for node in nodes if node.mode)
    listed = ", ".join(f"{count} x {mode}" for mode, count in sorted(counts.items())) or "none connected"
    if "userspace" in counts:
        hint = "use it only where the kernel has no NAT; servers see the node's address in the place of the client's"
        return warning(NODES, "modes", listed, hint)
    return passed(NODES, "modes", listed)


def judge_drift(nodes: Iterable[pb.NodeStatus], now_seconds: float) -> Result:
    """Whether somebody else changed our kernel objects lately."""
    recent = [
        node
        for node in nodes
        if node.HasField("drift") and now_seconds - node.drift.repaired_at.seconds < _DRIFT_SECONDS
    ]
    if not recent:
        return passed(NODES, "foreign changes", "nobody touched our kernel objects in the last hour")
    listed = _some(
        [
            f"{node.name} {age_text(now_seconds - node.drift.repaired_at.seconds)} ago"
            + (f" by {node.drift.process}" if node.drift.process else "")
            for node in recent
        ]
    )
    hint = "it was put right; find who did it (a firewall reload, another proxy) before it happens again"
    return warning(NODES, "foreign changes", f"our kernel objects were changed: {listed}", hint)


def judge_conflicts(services: Iterable[pb.ServiceSummary]) -> Result:
    """Whether Services ask for what others hold."""
    found = [
        f"{each.service.name.namespace}/{each.service.name.name}: {conflict}"
        for each in services
        for conflict in each.conflicts
    ]
    if not found:
        return passed(SERVICES, "conflicts", "no two Services ask for the same address and port")
    hint = (
        "change one of the Services, or delete it; until then a cluster IP wins over a load balancer IP, that over an "
        "external IP, and of two alike the first by name"
    )
    return warning(SERVICES, "conflicts", _some(found), hint)


def _members(page: Page) -> frozenset[str]:
    members = (page.get("membership") or {}).get("members") or []
    return frozenset(str(member.get("planner")) for member in members)


def _some(texts: Sequence[str]) -> str:
    more = len(texts) - _LISTED_MAX
    return "; ".join(texts[:_LISTED_MAX]) + (f"; and {more} more" if more > 0 else "")
