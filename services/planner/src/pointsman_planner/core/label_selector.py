# SPDX-License-Identifier: Apache-2.0
"""Label selectors as Kubernetes writes them: `tier=web,env!=dev,zone in (a, b),arch notin (arm),gpu,!legacy`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

CHARACTERS_MAX = 4096
_KEY = r"(?:[A-Za-z0-9](?:[-A-Za-z0-9.]{0,251}[A-Za-z0-9])?/)?[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
_VALUE = r"(?:[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?"
_REQUIREMENT = re.compile(
    rf"""\s*(?:
        (?P<absent>!\s*{_KEY})
      | (?P<key>{_KEY})\s*(?:
            (?P<operator>==|=|!=)\s*(?P<value>{_VALUE})
          | \s(?P<word>in|notin)\s*\((?P<values>[^()]*)\)
        )?
    )\s*(?:,|$)""",
    re.VERBOSE,
)


@dataclass(frozen=True, slots=True)
class _Requirement:
    key: str
    values: frozenset[str] | None
    """None = any value."""
    is_wanted: bool

    def holds(self, labels: Mapping[str, str]) -> bool:
        value = labels.get(self.key)
        is_there = value is not None and (self.values is None or value in self.values)
        return is_there == self.is_wanted


@dataclass(frozen=True, slots=True)
class LabelSelector:
    """A conjunction of requirements; without any it selects everything."""

    requirements: tuple[_Requirement, ...] = ()

    def selects(self, labels: Mapping[str, str]) -> bool:
        """Whether an object with these labels is selected; `!=` and `notin` hold where the label is absent."""
        return all(requirement.holds(labels) for requirement in self.requirements)


def parse_label_selector(text: str) -> LabelSelector:
    """The selector that a text says.

    Raises:
        ValueError: it says none; the message points at the place.
    """
    if len(text) > CHARACTERS_MAX:
        raise ValueError(f"a label selector of {len(text)} characters; at most {CHARACTERS_MAX} are read")
    if not text.strip():
        return LabelSelector()
    requirements, start = [], 0
    while start < len(text) or text.rstrip().endswith(","):
        match = _REQUIREMENT.match(text, start)
        if match is None or match.end() == start:
            raise ValueError(
                f"label selector: cannot read {text[start : start + 80]!r}; write for instance `tier=web,env!=dev`"
            )
        requirements.append(_requirement(match))
        start = match.end()
    return LabelSelector(tuple(requirements))


def _requirement(match: re.Match[str]) -> _Requirement:
    if match["absent"]:
        return _Requirement(match["absent"].lstrip("!").strip(), None, is_wanted=False)
    if match["operator"]:
        return _Requirement(match["key"], frozenset({match["value"]}), is_wanted=match["operator"] != "!=")
    if match["word"]:
        values = frozenset(value.strip() for value in match["values"].split(","))
        bad = [value for value in values if re.fullmatch(_VALUE, value) is None]
        if bad:
            raise ValueError(f"label selector: {min(bad)[:80]!r} is no label value")
        return _Requirement(match["key"], values, is_wanted=match["word"] == "in")
    return _Requirement(match["key"], None, is_wanted=True)
