# SPDX-License-Identifier: Apache-2.0
"""Which node a pod goes to: spread over zones and nodes, as even as it can be. Pure."""

from collections import Counter
from collections.abc import Sequence

from pointsman_lab.controller.objects import (
    HOSTNAME_LABEL,
    ZONE_LABEL,
    Object,
    condition,
    is_pod_finished,
    is_terminating,
    labels,
    name,
    namespace,
    spec,
)


def choose_node(pod: Object, nodes: Sequence[Object], pods: Sequence[Object]) -> str | None:
    """The node for a pod, or None when none fits.

    Fits: Ready, not cordoned, all of `nodeSelector` matches. Of those: the node with the fewest pods of the same owner,
    then the zone with the fewest, then the emptiest node, then the first by name.
    """
    running = [other for other in pods if not is_terminating(other) and not is_pod_finished(other)]
    zone_of = {name(node): labels(node).get(ZONE_LABEL, "") for node in nodes}
    owner = _owner(pod)
    siblings = Counter(_node(other) for other in running if owner and _owner(other) == owner)
    all_pods = Counter(_node(other) for other in running)
    in_zone: Counter[str] = Counter()
    for node_name, count in siblings.items():
        in_zone[zone_of.get(node_name, "")] += count
    fitting = [name(node) for node in nodes if _fits(pod, node)]
    return min(
        fitting,
        key=lambda node: (siblings[node], in_zone[zone_of[node]], all_pods[node], node),
        default=None,
    )


def _node(pod: Object) -> str:
    return str(spec(pod).get("nodeName") or "")


def _owner(pod: Object) -> tuple[str, str] | None:
    for reference in pod["metadata"].get("ownerReferences") or ():
        if reference.get("controller"):
            return namespace(pod), str(reference.get("uid"))
    return None


def _fits(pod: Object, node: Object) -> bool:
    ready = condition(node, "Ready")
    if ready is None or ready.get("status") != "True" or spec(node).get("unschedulable"):
        return False
    selector = spec(pod).get("nodeSelector") or {}
    own = {HOSTNAME_LABEL: name(node), **labels(node)}
    return all(own.get(label) == value for label, value in selector.items())
