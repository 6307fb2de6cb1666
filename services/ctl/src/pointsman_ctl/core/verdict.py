# SPDX-License-Identifier: Apache-2.0
"""What a check found, and a report of many. What is not right always says what to do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final
from xml.etree import ElementTree as ET

import click


class Outcome(Enum):
    """How a check ended."""

    PASSED = "passed"
    WARNING = "warning"
    FAILED = "failed"
    SKIPPED = "skipped"


_MARKS: Final = {
    Outcome.PASSED: ("ok", "green"),
    Outcome.WARNING: ("!!", "yellow"),
    Outcome.FAILED: ("XX", "red"),
    Outcome.SKIPPED: ("--", ""),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One check."""

    category: str
    name: str
    outcome: Outcome
    message: str
    hint: str = ""
    """What to do; required of warnings and failures."""
    seconds: float = 0.0

    def __post_init__(self) -> None:
        """Refuse a complaint without advice."""
        if self.outcome in (Outcome.WARNING, Outcome.FAILED) and not self.hint:
            raise ValueError(f"check {self.name} complains without a hint")

    def data(self) -> dict[str, Any]:
        """For JSON and YAML."""
        return {
            "category": self.category,
            "name": self.name,
            "outcome": self.outcome.value,
            "message": self.message,
            "hint": self.hint,
            "seconds": round(self.seconds, 3),
        }


def passed(category: str, name: str, message: str) -> Result:
    """All is well."""
    return Result(category=category, name=name, outcome=Outcome.PASSED, message=message)


def skipped(category: str, name: str, message: str) -> Result:
    """It could not be looked at; says why."""
    return Result(category=category, name=name, outcome=Outcome.SKIPPED, message=message)


def warning(category: str, name: str, message: str, hint: str) -> Result:
    """It works, and deserves a look."""
    return Result(category=category, name=name, outcome=Outcome.WARNING, message=message, hint=hint)


def failed(category: str, name: str, message: str, hint: str) -> Result:
    """It does not work."""
    return Result(category=category, name=name, outcome=Outcome.FAILED, message=message, hint=hint)


def is_failure(results: Iterable[Result]) -> bool:
    """Whether any failed."""
    return any(result.outcome is Outcome.FAILED for result in results)


def report(results: Sequence[Result], *, colours: bool = False) -> Iterator[str]:
    """One line for each check under its category, its hint below, and the counts at the end."""
    category = ""
    for result in results:
        if result.category != category:
            category = result.category
            yield from ([""] if result is not results[0] else [])
            yield category
        mark, colour = _MARKS[result.outcome]
        shown = click.style(mark, fg=colour) if colours and colour else mark
        yield f"  {shown} {result.name}: {result.message}"
        if result.hint:
            yield f"       hint: {result.hint}"
    yield ""
    yield summary(results)


def summary(results: Sequence[Result]) -> str:
    """`12 passed, 1 warning, 0 failed, 2 skipped`."""
    counts = {outcome: sum(result.outcome is outcome for result in results) for outcome in Outcome}
    return (
        f"{counts[Outcome.PASSED]} passed, {counts[Outcome.WARNING]} warnings, "
        f"{counts[Outcome.FAILED]} failed, {counts[Outcome.SKIPPED]} skipped"
    )


def report_data(results: Sequence[Result]) -> dict[str, Any]:
    """The report for JSON and YAML."""
    return {
        "passed": not is_failure(results),
        "summary": {outcome.value: sum(r.outcome is outcome for r in results) for outcome in Outcome},
        "items": [result.data() for result in results],
    }


def junit(suite: str, results: Sequence[Result]) -> str:
    """The report as JUnit XML, as CI systems read it; a warning passes, with its message as output."""
    root = ET.Element(
        "testsuite",
        name=suite,
        tests=str(len(results)),
        failures=str(sum(result.outcome is Outcome.FAILED for result in results)),
        skipped=str(sum(result.outcome is Outcome.SKIPPED for result in results)),
        time=f"{sum(result.seconds for result in results):.3f}",
    )
    for result in results:
        case = ET.SubElement(
            root,
            "testcase",
            classname=f"{suite}.{result.category}",
            name=_xml_text(result.name),
            time=f"{result.seconds:.3f}",
        )
        text = _xml_text(result.message + (f"\nhint: {result.hint}" if result.hint else ""))
        if result.outcome is Outcome.FAILED:
            ET.SubElement(case, "failure", message=_xml_text(result.message)).text = text
        elif result.outcome is Outcome.SKIPPED:
            ET.SubElement(case, "skipped", message=_xml_text(result.message))
        else:
            ET.SubElement(case, "system-out").text = text
    ET.indent(root)
    return ET.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _xml_text(text: str) -> str:
    """Text without what XML cannot hold."""
    return "".join(letter if letter.isprintable() or letter in "\n\t" else "?" for letter in text)
