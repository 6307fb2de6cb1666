# SPDX-License-Identifier: Apache-2.0
"""The matrix: rows by section, executor and family; and by name whatever was not run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from conformance.model import IpFamily, Row, RowResult
from conformance.pipeline import describe
from conformance.table import SECTION_TITLES

_TITLE_WIDTH = 31
_CELL_WIDTH_MIN = 14
_FAILURES_MAX = 200


def matrix(rows: Sequence[Row], results: Sequence[RowResult], executors: Sequence[str], mode: str) -> Iterator[str]:
    """Lines of the matrix: `passed/run` by executor and family, then how much is not this mode's and how much later."""
    columns = [(executor, family) for executor in executors for family in IpFamily]
    heads = [f"{executor} {family.value}" for executor, family in columns]
    heads += ["not this mode", "later"]
    widths = [max(_CELL_WIDTH_MIN, len(head) + 2) for head in heads]
    yield f"{'section':<{_TITLE_WIDTH + 4}}" + _line(heads, widths)
    for section in sorted({row.section for row in rows}):
        mine = [result for result in results if result.row.section == section]
        cells = [_cell(mine, executor, family) for executor, family in columns]
        listed = [row for row in rows if row.section == section]
        cells.append(_count(row for row in listed if mode not in row.modes))
        cells.append(_count(row for row in listed if mode in row.modes and row.later))
        title = SECTION_TITLES.get(section, "")
        yield f"{section:>2}  {title:<{_TITLE_WIDTH}}" + _line(cells, widths)


def not_run(rows: Sequence[Row], mode: str, executors: Sequence[str]) -> Iterator[str]:
    """Lines that name every row that was not run by some executor, and why. IPv4 stands for both families."""
    mine = [row for row in rows if row.family is IpFamily.IPV4]
    others = [row for row in mine if mode not in row.modes]
    if others:
        modes = sorted({name for row in others for name in row.modes})
        for name in modes:
            yield f"only {name}: " + _numbers(row for row in others if name in row.modes)
    for subject in sorted({row.later for row in mine if row.later and mode in row.modes}):
        yield f"later ({subject}): " + _numbers(row for row in mine if row.later == subject and mode in row.modes)
    if "pure" in executors:
        packets = [row for row in mine if row.needs_dataplane and not row.later and mode in row.modes]
        if packets:
            yield "not by the plan alone (about what happens meanwhile, or happened before): " + _numbers(packets)


def failures(results: Iterable[RowResult]) -> Iterator[str]:
    """Lines for every row that failed; of very many, the first ones."""
    failed = [result for result in results if not result.is_passed]
    for result in failed[:_FAILURES_MAX]:
        yield f"FAILED {result.executor}: {describe(result.row)}"
        yield from (f"    {failure}" for failure in result.failures)
    if len(failed) > _FAILURES_MAX:
        yield f"and {len(failed) - _FAILURES_MAX} rows more that failed"


def closing(results: Sequence[RowResult]) -> str:
    """The last line."""
    passed = sum(result.is_passed for result in results)
    return f"{passed} passed, {len(results) - passed} failed"


def _line(cells: Iterable[str], widths: Iterable[int]) -> str:
    return "".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))


def _cell(results: Iterable[RowResult], executor: str, family: IpFamily) -> str:
    mine = [result for result in results if result.executor == executor and result.row.family is family]
    passed = sum(result.is_passed for result in mine)
    return f"{passed}/{len(mine)}" if mine else "-"


def _count(rows: Iterable[Row]) -> str:
    return str(len({row.number for row in rows}) or "-")


def _numbers(rows: Iterable[Row]) -> str:
    return ", ".join(dict.fromkeys(row.number for row in rows))
