# SPDX-License-Identifier: Apache-2.0
"""All overrides, by the Service they are about: a Service looks at its own and at the few that are about many.

How many those are is bounded here too, although callers are refused before: a store may hold anything, and a Service
must not become slow to plan for it. What is above a bound, in the order of names, waits without effect; so which ones
count depends on the set of overrides alone, as everything about them does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from pointsman_model.names import ServiceKey
from pointsman_planner.core.override import Override, OverrideChange, OverrideKey, Register
from pointsman_planner.core.override_rules import OVERRIDES_OF_MANY_MAX, OVERRIDES_OF_ONE_MAX


class OverrideTable:
    """Overrides in force; one with a name that is held already replaces it."""

    __slots__ = ("_counted", "_held", "_of_many", "_of_many_max", "_of_one", "_of_one_max")

    def __init__(self, *, of_one_max: int = OVERRIDES_OF_ONE_MAX, of_many_max: int = OVERRIDES_OF_MANY_MAX) -> None:
        self._of_one_max = of_one_max
        self._of_many_max = of_many_max
        self._held: dict[OverrideKey, Override] = {}
        self._of_one: dict[ServiceKey, dict[OverrideKey, Override]] = {}
        self._of_many: dict[OverrideKey, Override] = {}
        self._counted: dict[OverrideKey, Override] = {}
        """Those about many Services that count."""

    @property
    def held(self) -> Mapping[OverrideKey, Override]:
        """Every override. Not to be changed by the caller."""
        return self._held

    def of(self, service: ServiceKey) -> tuple[Override, ...]:
        """Those that concern a Service and count, in no particular order."""
        own = self._of_one.get(service)
        if own is not None and len(own) > self._of_one_max:
            own = _first(own, self._of_one_max)
        if not self._counted:
            return tuple(own.values()) if own else ()
        return (*(own or {}).values(), *(each for each in self._counted.values() if each.concerns(service)))

    def registering(self) -> Iterator[ServiceKey]:
        """Services for which endpoints are registered."""
        for service, own in self._of_one.items():
            if any(isinstance(each.kind, Register) for each in own.values()):
                yield service

    def take(self, changes: Iterable[OverrideChange]) -> tuple[Override, ...]:
        """Take in changes; every override that had an effect before, or has one now, and is not what it was."""
        touched: list[Override] = []
        is_many_changed = False
        for change in changes:
            for each in (self._remove(change.key), self._add(change.value)):
                if each is not None and each.service is not None:
                    touched.append(each)
                is_many_changed |= each is not None and each.service is None
        if is_many_changed:
            before, self._counted = self._counted, _first(self._of_many, self._of_many_max)
            for key in before.keys() | self._counted.keys():
                if before.get(key) != self._counted.get(key):
                    touched += [found[key] for found in (before, self._counted) if key in found]
        return tuple(touched)

    def _add(self, value: Override | None) -> Override | None:
        if value is not None:
            self._held[value.key] = value
            group = self._of_many if value.service is None else self._of_one.setdefault(value.service, {})
            group[value.key] = value
        return value

    def _remove(self, key: OverrideKey) -> Override | None:
        before = self._held.pop(key, None)
        if before is None:
            return None
        if before.service is None:
            del self._of_many[key]
            return before
        own = self._of_one[before.service]
        del own[key]
        if not own:
            del self._of_one[before.service]
        return before


def _first(overrides: Mapping[OverrideKey, Override], count: int) -> dict[OverrideKey, Override]:
    return {key: overrides[key] for key in sorted(overrides)[:count]}
