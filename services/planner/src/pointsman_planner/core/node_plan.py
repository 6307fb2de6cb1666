# SPDX-License-Identifier: Apache-2.0
"""`plan(node, cluster state) -> NodePlan`: the whole of planning as one pure function.

No streams, caches or sharing: everything else in the planner is a faster way to the same bytes, tested against this.
"""

from __future__ import annotations

from pointsman_model.plan import NodePlan
from pointsman_planner.core.assignment import plan_service
from pointsman_planner.core.cluster_state import ClusterState
from pointsman_planner.core.view import view_of


def plan(node_name: str, cluster: ClusterState) -> NodePlan:
    """The plan of one node, services in order of their keys; an unknown node has no addresses and no zone."""
    node = cluster.node_view(node_name)
    services = cluster.services
    return NodePlan(
        facts=node.facts,
        services={
            key: plan_service(services[key].state, view_of(services[key].state, node), services[key].lost)
            for key in sorted(services)
        },
    )
