# SPDX-License-Identifier: Apache-2.0
"""Faults on request: what the API server is told to do wrong, so that tests and demos can see clients cope.

State only, no IO. A fault names a resource by its plural (`endpointslices`); an empty name means every resource. Faults
that must reach open watches at once (dropping, thawing, another delay) tell the listeners.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from pointsman_lab.apiserver.resources import Resource


@dataclass(slots=True, kw_only=True)
class Refusal:
    """Answer the next `remaining` matching requests with an error; an empty verb matches all verbs."""

    resource: str
    verb: str
    code: int
    retry_after_seconds: int
    remaining: int

    def matches(self, resource: str, verb: str) -> bool:
        """Tell whether a request is one of those to refuse."""
        return self.remaining > 0 and self.resource in ("", resource) and self.verb in ("", verb)


class Faults:
    """The faults in force."""

    def __init__(self) -> None:
        self._refusals: list[Refusal] = []
        self._frozen: set[str] = set()
        self._delays: dict[str, float] = {}
        self._listeners: list[Callable[[], None]] = []

    def refuse(
        self, *, count: int, code: int = 429, retry_after_seconds: int = 1, resource: str = "", verb: str = ""
    ) -> None:
        """Refuse the next `count` requests with an HTTP code and Retry-After."""
        self._refusals.append(
            Refusal(resource=resource, verb=verb, code=code, retry_after_seconds=retry_after_seconds, remaining=count)
        )

    def next_refusal(self, resource: str, verb: str) -> Refusal | None:
        """Take one refusal for a request, if there is one."""
        for refusal in self._refusals:
            if refusal.matches(resource, verb):
                refusal.remaining -= 1
                if not refusal.remaining:
                    self._refusals.remove(refusal)
                return refusal
        return None

    def freeze_watches(self, resource: str = "") -> None:
        """Keep watches open but silent: no events, no bookmarks, until thawed."""
        self._frozen.add(resource)
        self._tell()

    def thaw_watches(self, resource: str = "") -> None:
        """Let frozen watches go on from where they were; without a name, all of them."""
        if resource:
            self._frozen.discard(resource)
        else:
            self._frozen.clear()
        self._tell()

    def delay_watches(self, seconds: float, resource: str = "") -> None:
        """Hold every watch event back for a time after its commit; 0 ends it."""
        if seconds > 0:
            self._delays[resource] = seconds
        else:
            self._delays.pop(resource, None)
        self._tell()

    def clear(self) -> None:
        """End all faults."""
        self._refusals.clear()
        self._frozen.clear()
        self._delays.clear()
        self._tell()

    def is_frozen(self, resource: Resource) -> bool:
        """Tell whether watches of a resource are silent."""
        return bool(self._frozen & {"", resource.plural})

    def delay_of(self, resource: Resource) -> float:
        """Give the seconds events of a resource are held back."""
        return max(self._delays.get(resource.plural, 0.0), self._delays.get("", 0.0))

    def on_change(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Have `listener` called when open watches should look again; gives the function that ends it."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def as_json(self) -> dict[str, object]:
        """Describe the faults in force."""
        return {
            "frozenWatches": sorted(self._frozen),
            "delayedWatches": dict(sorted(self._delays.items())),
            "refusals": [
                {"resource": r.resource, "verb": r.verb, "code": r.code, "remaining": r.remaining}
                for r in self._refusals
            ],
        }

    def _tell(self) -> None:
        for listener in tuple(self._listeners):
            listener()
