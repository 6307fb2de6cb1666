# SPDX-License-Identifier: Apache-2.0
"""What connections saw, in the words of an expectation, so that the two can be compared and printed side by side."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from conformance.executors.prober import SILENCE_SECONDS, Seen
from conformance.model import CATALOGUE_NODE_ADDRESSES, Expectation, Outcome, Probe, Target

MASQUERADE_ADDRESSES = CATALOGUE_NODE_ADDRESSES[:2]
"""What the topology's node masquerades as: its primary addresses."""


def patience_of(probe: Probe, answer_seconds: float) -> float:
    """How long one connection of a probe may take."""
    return SILENCE_SECONDS if probe.expect.outcome is Outcome.DROP else answer_seconds


def observed(probe: Probe, seen: Sequence[Seen]) -> str:
    """What all connections of a probe saw: one expectation's words if they agree with one, else each with its count."""
    kinds = Counter(words_of(probe, one) for one in seen)
    if len(kinds) == 1:
        only = next(iter(kinds))
        if isinstance(only, str):
            return only
    targets = sorted(kind for kind in kinds if isinstance(kind, Target))
    if len(targets) == len(kinds):
        return str(Expectation(Outcome.FORWARD, tuple(targets)))
    counts = (f"{count} x {kind}" for kind, count in sorted(kinds.items(), key=lambda item: str(item[0])))
    return "mixed: " + ", ".join(counts)


def words_of(probe: Probe, seen: Seen) -> Target | str:
    """One connection: the target it reached, `NONE`, or how it failed."""
    if seen.failure:
        return seen.failure
    if (seen.address, seen.port) == (probe.destination, probe.port):
        return "NONE" if seen.peer == probe.source else f"NONE with source {seen.peer}"
    target = Target(seen.address, seen.port, masquerade=False)
    if seen.peer == probe.source:
        # A process on the address that masquerading chooses anyway: nobody can see whether it was done.
        masqueraded = target._replace(masquerade=True)
        expected = probe.expect.targets if probe.lot is None else probe.lot.targets
        is_hidden = probe.source in MASQUERADE_ADDRESSES and masqueraded in expected
        return masqueraded if is_hidden else target
    if seen.peer in CATALOGUE_NODE_ADDRESSES:
        return target._replace(masquerade=True)
    return f"{target} with source {seen.peer}"
