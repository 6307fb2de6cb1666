# SPDX-License-Identifier: Apache-2.0
"""Which scheduler a virtual server gets: what the Service wishes, else what the node is configured for. Pure.

A wish is written as one word: `mh`, or with the flags of the scheduler `mh,mh-fallback,mh-port`.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from pointsman_enforcer.dataplane.base import UnsupportedPlanError
from pointsman_enforcer.dataplane.ipvs.genetlink.model import ServiceFlags

NAMES: Final = ("rr", "wrr", "lc", "wlc", "fo", "ovf", "lblc", "lblcr", "dh", "sh", "mh", "sed", "nq", "twos")
"""All that Linux has; which of them this kernel has is asked when one is needed."""
_WEIGHTED: Final = {"rr": "wrr", "lc": "wlc"}
"""The same scheduler for servers that have weights: with equal ones it does the same."""
_WITHOUT_WEIGHTS: Final = frozenset({"dh"})
_FLAGS: Final = {
    "mh": {"mh-fallback": ServiceFlags.MH_FALLBACK, "mh-port": ServiceFlags.MH_PORT},
    "sh": {"sh-fallback": ServiceFlags.SH_FALLBACK, "sh-port": ServiceFlags.SH_PORT},
}


class Scheduler(NamedTuple):
    """A scheduler of the kernel. An empty name: round robin."""

    name: str = ""
    flags: ServiceFlags = ServiceFlags.NONE


ROUND_ROBIN: Final = Scheduler()
"""Weighted where endpoints have weights."""


def parse_wish(text: str) -> Scheduler:
    """What a Service's annotation says.

    Raises:
        UnsupportedPlanError: there is no such scheduler, or it has no such flag; the text says which there are.
    """
    name, *flags = (word.strip() for word in text.split(","))
    if name not in NAMES:
        raise UnsupportedPlanError(f"IPVS has no scheduler {name!r}; it has {', '.join(NAMES)}")
    known = _FLAGS.get(name, {})
    found = ServiceFlags.NONE
    for flag in flags:
        if flag not in known:
            raise UnsupportedPlanError(
                f"scheduler {name} has no flag {flag!r}; it has {', '.join(known) if known else 'none'}"
            )
        found |= known[flag]
    return Scheduler(name, found)


def suited_to(scheduler: Scheduler, weights: list[int]) -> Scheduler:
    """The scheduler that honours these weights.

    Raises:
        UnsupportedPlanError: it knows none, and they differ.
    """
    has_weights = len(set(weights)) > 1
    name = scheduler.name or "rr"
    if has_weights and name in _WITHOUT_WEIGHTS:
        raise UnsupportedPlanError(f"scheduler {name} knows no weights, and the endpoints have some")
    return Scheduler(_WEIGHTED.get(name, name) if has_weights else name, scheduler.flags)
