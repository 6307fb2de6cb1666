# SPDX-License-Identifier: Apache-2.0
"""What became of each rule: passed, broken (with what was seen), or not seen; and the lines that say so."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum


class Result(Enum):
    """Of one check."""

    PASSED = "pass"
    BROKEN = "FAIL"
    UNSEEN = "not seen"


class BrokenRuleError(Exception):
    """The peer broke the rule that is checked; the message says what was expected, and what was seen."""


class UnseenRuleError(Exception):
    """The rule could not be checked with this peer; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One check of one rule."""

    rule: str
    """As the comment of the proto numbers it."""
    fact: str
    """What holds when it passes."""
    result: Result
    seen: str = ""

    def __str__(self) -> str:
        text = f"rule {self.rule:>3}  {self.result.value:<8}  {self.fact}"
        return f"{text}\n{'':21}{self.seen}" if self.seen else text


@dataclass(slots=True)
class Verdicts:
    """All checks of a run, in order."""

    checks: list[Check] = field(default_factory=list)

    def add(self, rule: str, fact: str, result: Result, seen: str = "") -> Check:
        """One more."""
        check = Check(rule=rule, fact=fact, result=result, seen=seen)
        self.checks.append(check)
        return check

    @property
    def broken(self) -> int:
        """How many rules were broken."""
        return sum(check.result is Result.BROKEN for check in self.checks)

    def summary(self) -> Iterator[str]:
        """The last lines."""
        counts = {result: sum(check.result is result for check in self.checks) for result in Result}
        yield ""
        yield ", ".join(f"{count} {result.value.lower()}" for result, count in counts.items())


def require(condition: object, text: str) -> None:
    """Raise BrokenRuleError with this text unless the condition holds."""
    if not condition:
        raise BrokenRuleError(text)
