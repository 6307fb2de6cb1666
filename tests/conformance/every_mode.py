# SPDX-License-Identifier: Apache-2.0
"""`--mode all`: the table in each mode, one after the other, and then the matrix mode x section.

Each mode is a process of its own, as one of them runs in another kernel; what it says goes into a file, and what it
counted comes back in another.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec
from conformance.executors.modes import MODES
from conformance.model import RowResult
from conformance.table import SECTION_TITLES

NAME: Final = "all"
_PROGRAM: Final = Path(__file__).with_name("run.py")
_TITLE_WIDTH: Final = 35
_CELL_WIDTH_MIN: Final = 16


class Counted(msgspec.Struct, frozen=True):
    """Rows of a section, counted once for each executor that ran them."""

    passed: int = 0
    failed: int = 0


class Summary(msgspec.Struct, frozen=True):
    """What one mode counted: by section (as text, a JSON key), and its deviations as the report prints them."""

    sections: dict[str, Counted]
    deviations: list[str]


def summarise(results: Iterable[RowResult], deviations: Sequence[str]) -> Summary:
    """The counts of one mode."""
    sections: dict[str, Counted] = {}
    for result in results:
        before = sections.get(str(result.row.section), Counted())
        sections[str(result.row.section)] = Counted(
            before.passed + result.is_passed, before.failed + (not result.is_passed)
        )
    return Summary(sections=sections, deviations=list(deviations))


def run(argv: Sequence[str], directory: Path) -> int:
    """Run every mode with these arguments (without `--mode`), reports into `directory`; 0, 1 or 2 as for one mode."""
    directory.mkdir(parents=True, exist_ok=True)
    summaries: dict[str, Summary | None] = {}
    for mode in MODES:
        _say(f"mode {mode}: {directory / mode}.txt")
        summaries[mode] = _run_one(mode, argv, directory)
    for line in lines(summaries):
        _say(line)
    if None in summaries.values():
        return 2
    return int(any(cell.failed for each in summaries.values() if each is not None for cell in each.sections.values()))


def lines(summaries: Mapping[str, Summary | None]) -> Iterator[str]:
    """The matrix, the deviations by mode, the modes without a result, and `N passed, N failed`."""
    widths = [max(_CELL_WIDTH_MIN, len(mode) + 2) for mode in summaries]
    cells = {mode: each.sections for mode, each in summaries.items() if each is not None}
    yield ""
    yield f"{'section':<{_TITLE_WIDTH}}" + _line(summaries, widths)
    for section in sorted({int(each) for mine in cells.values() for each in mine}):
        title = f"{section:>2}  {SECTION_TITLES.get(section, '')}"[: _TITLE_WIDTH - 1]
        counts = (cells.get(mode, {}).get(str(section)) for mode in summaries)
        yield f"{title:<{_TITLE_WIDTH}}" + _line(map(_cell, counts), widths)
    everything = [cell for mine in cells.values() for cell in mine.values()]
    totals = [_cell(_sum(cells[mode].values())) if mode in cells else "no result" for mode in summaries]
    yield f"{'all':<{_TITLE_WIDTH}}" + _line(totals, widths)
    yield ""
    for mode, summary in summaries.items():
        for line in summary.deviations if summary is not None else ["could not run; its report says why"]:
            yield f"{mode}: {line}"
    total = _sum(everything)
    yield f"{total.passed} passed, {total.failed} failed"


def _run_one(mode: str, argv: Sequence[str], directory: Path) -> Summary | None:
    counted = directory / f"{mode}.json"
    counted.unlink(missing_ok=True)
    command = [sys.executable, str(_PROGRAM), *argv, "--mode", mode, "--summary", str(counted)]
    with (directory / f"{mode}.txt").open("w") as report:
        subprocess.run(command, stdout=report, stderr=report, check=False)
    if not counted.exists():
        return None
    return msgspec.json.decode(counted.read_bytes(), type=Summary)


def _sum(counts: Iterable[Counted]) -> Counted:
    passed = failed = 0
    for each in counts:
        passed, failed = passed + each.passed, failed + each.failed
    return Counted(passed, failed)


def _cell(counted: Counted | None) -> str:
    return f"{counted.passed}/{counted.passed + counted.failed}" if counted is not None else "-"


def _line(cells: Iterable[str], widths: Iterable[int]) -> str:
    return "".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
