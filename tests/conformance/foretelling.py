# SPDX-License-Identifier: Apache-2.0
"""Which endpoint a client of a Service with session affinity must get, of all those that its traffic may use.

The rule is the statement itself: a client keeps its endpoint of a ServicePort while that is among those that its
traffic may use, else it gets the pick, which is the same on every node.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import replace

from conformance.model import Expectation, Lot, Outcome, Probe, Step, Target

from pointsman_model.affinity import pick
from pointsman_model.names import parse_address
from pointsman_model.plan import PlanEndpoint

_Memory = dict[tuple[str, str, str], Target]
"""By client, ServicePort and protocol."""


def foretell(steps: tuple[Step, ...], ports: Mapping[int, str]) -> tuple[Step, ...]:
    """The steps with one target instead of all that are allowed; `ports` names the ServicePort of a destination port.

    A step that lets time pass once, passes enough of it for everybody to be forgotten.
    """
    memory: _Memory = {}
    told: list[Step] = []
    for step in steps:
        if is_forgotten(step):
            memory.clear()
        told.append(replace(step, probes=tuple(_told(one, memory, ports) for one in step.probes)))
    return tuple(told)


def is_forgotten(step: Step) -> bool:
    """Whether enough time passes before the step's probes for everybody to be forgotten."""
    return step.idle_seconds > 0 and step.repeats == 1


class Draws:
    """The same statement where the first endpoint is drawn by lot: what was seen first is what must be seen then."""

    def __init__(self) -> None:
        self._memory: _Memory = {}

    def forget(self) -> None:
        """Everybody is forgotten."""
        self._memory.clear()

    def keep_only(self, endpoints: Container[tuple[str, int]]) -> None:
        """The plan has no others: what was kept elsewhere is forgotten, also should that come back."""
        self._memory = {key: kept for key, kept in self._memory.items() if kept[:2] in endpoints}

    def expected(self, one: Probe, observed: str) -> str:
        """What the probe must see, in words: if it may be any of several, whatever of these it saw."""
        if one.lot is None:
            return str(one.expect)
        key = one.source, one.lot.port, one.protocol
        kept = self._memory.get(key)
        may_be = [target for target in one.lot.targets if kept and target[:2] == kept[:2]] or one.lot.targets
        words = {str(Expectation(Outcome.FORWARD, (target,))): target for target in may_be}
        if observed in words:
            self._memory[key] = words[observed]
            return observed
        return "one of " + ", ".join(words)


def _told(one: Probe, memory: _Memory, ports: Mapping[int, str]) -> Probe:
    """The probe with the one target its client must reach, which is then remembered."""
    if one.expect.outcome is not Outcome.FORWARD:
        return one
    key = one.source, ports[one.port], one.protocol
    targets = one.expect.targets
    kept = memory.get(key)
    chosen = next((target for target in targets if kept and target[:2] == kept[:2]), None) or _pick(one.source, targets)
    memory[key] = chosen
    return one._replace(expect=Expectation(Outcome.FORWARD, (chosen,)), lot=Lot(ports[one.port], targets))


def _pick(client: str, targets: tuple[Target, ...]) -> Target:
    by_endpoint = {PlanEndpoint(parse_address(target.address), target.port): target for target in targets}
    return by_endpoint[pick(parse_address(client), sorted(by_endpoint))]
