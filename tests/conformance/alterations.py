# SPDX-License-Identifier: Apache-2.0
"""Wrong plans, made from right ones: what a planner or a dataplane with one fault would come to.

Only for tests of the executors: each must notice every one of these, and both must notice it in the same rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from conformance.pipeline import Alteration

from pointsman_model.plan import (
    DROP,
    REJECT,
    Action,
    Frontend,
    FrontendKind,
    NodePlan,
    PlanEndpoint,
    ServicePortPlan,
    Verdict,
)


def _each_port(change: Callable[[ServicePortPlan], ServicePortPlan]) -> Alteration:
    def alter(plan: NodePlan) -> NodePlan:
        services = {
            key: replace(service, ports=tuple(map(change, service.ports))) for key, service in plan.services.items()
        }
        return replace(plan, services=services)

    return alter


def _with_verdicts(one: Frontend, change: Callable[[Verdict], Verdict]) -> Frontend:
    return one._replace(
        from_pod=change(one.from_pod), from_host=change(one.from_host), from_outside=change(one.from_outside)
    )


def _each_verdict(change: Callable[[Verdict], Verdict]) -> Alteration:
    return _each_port(
        lambda port: replace(port, frontends=tuple(_with_verdicts(one, change) for one in port.frontends))
    )


def _each_endpoint(change: Callable[[PlanEndpoint], PlanEndpoint]) -> Alteration:
    return _each_port(
        lambda port: replace(port, endpoint_sets=tuple(tuple(map(change, s)) for s in port.endpoint_sets))
    )


def _swap_refusals(verdict: Verdict) -> Verdict:
    return {Action.REJECT: DROP, Action.DROP: REJECT}.get(verdict.action, verdict)


def _flip_masquerade(verdict: Verdict) -> Verdict:
    return verdict._replace(masquerade=not verdict.masquerade) if verdict.action is Action.FORWARD else verdict


def _flip_outer_masquerade(port: ServicePortPlan) -> ServicePortPlan:
    """Not for cluster IPs: there masquerade follows from settings, and a dataplane may refuse a plan against them."""
    return replace(
        port,
        frontends=tuple(
            one if one.kind is FrontendKind.CLUSTER_IP else _with_verdicts(one, _flip_masquerade)
            for one in port.frontends
        ),
    )


ALTERATIONS: Mapping[str, Alteration] = {
    "nothing is programmed": lambda plan: replace(plan, services={}),
    "masquerade is the opposite": _each_port(_flip_outer_masquerade),
    "everybody is treated as from outside": _each_port(
        lambda port: replace(
            port,
            frontends=tuple(f._replace(from_pod=f.from_outside, from_host=f.from_outside) for f in port.frontends),
        )
    ),
    "refusals are exchanged": _each_verdict(_swap_refusals),
    "the first endpoint of each set is missing": _each_port(
        lambda port: replace(port, endpoint_sets=tuple(s[1:] or s for s in port.endpoint_sets))
    ),
    "endpoint ports are off by one": _each_endpoint(lambda endpoint: endpoint._replace(port=endpoint.port + 1)),
    "no hairpin": _each_endpoint(lambda endpoint: endpoint._replace(hairpin=False)),
    "no source ranges": _each_port(
        lambda port: replace(port, frontends=tuple(f._replace(source_ranges=()) for f in port.frontends))
    ),
    "no service CIDRs": lambda plan: replace(plan, facts=replace(plan.facts, service_cidrs=())),
    "another primary address": lambda plan: replace(
        plan, facts=replace(plan.facts, addresses=tuple(reversed(plan.facts.addresses)))
    ),
}
