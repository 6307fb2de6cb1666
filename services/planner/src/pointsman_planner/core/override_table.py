# SPDX-License-Identifier: Apache-2.0
"""All overrides, by the Service they are about: a Service looks at its own and at the few that are about many."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pointsman_model.names import ServiceKey
from pointsman_planner.core.override import Override, OverrideKey, Register


class OverrideTable:
    """Overrides in force; one with a name that is held already replaces it."""

    __slots__ = ("_held", "_of_many", "_of_one")

    def __init__(self) -> None:
        self._held: dict[OverrideKey, Override] = {}
        self._of_one: dict[ServiceKey, dict[OverrideKey, Override]] = {}
        self._of_many: dict[OverrideKey, Override] = {}

    @property
    def held(self) -> Mapping[OverrideKey, Override]:
        """Every override. Not to be changed by the caller."""
        return self._held

    def of(self, service: ServiceKey) -> tuple[Override, ...]:
        """Those that concern a Service, in no particular order."""
        own = self._of_one.get(service)
        if not self._of_many:
            return tuple(own.values()) if own else ()
        many = (each for each in self._of_many.values() if each.concerns(service))
        return (*(own or {}).values(), *many)

    def registering(self) -> Iterator[ServiceKey]:
        """Services for which endpoints are registered."""
        for service, own in self._of_one.items():
            if any(isinstance(each.kind, Register) for each in own.values()):
                yield service

    def put(self, key: OverrideKey, value: Override | None) -> Override | None:
        """Exchange one override, or remove it; what was held under its name before."""
        before = self._held.pop(key, None)
        if before is not None:
            self._forget(before)
        if value is not None:
            self._held[key] = value
            if value.service is None:
                self._of_many[key] = value
            else:
                self._of_one.setdefault(value.service, {})[key] = value
        return before

    def _forget(self, before: Override) -> None:
        if before.service is None:
            del self._of_many[before.key]
            return
        own = self._of_one[before.service]
        del own[before.key]
        if not own:
            del self._of_one[before.service]
