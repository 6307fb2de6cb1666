# SPDX-License-Identifier: Apache-2.0
"""The command: run the packet-flow table and print its matrix.

The last line is `N passed, N failed`, counted in rows per executor. The exit status is 1 if a row failed, 2 if the
suite could not run.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import platform
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

import msgspec
import structlog
from conformance import every_mode, generated, generated_affinity, guest, report, systematic
from conformance.executors import component, deviations, kernel, pure
from conformance.executors.modes import MODES, NFTABLES, KernelMode
from conformance.executors.pool import KernelPool
from conformance.executors.rendered import executor as rendered
from conformance.executors.rendered import rendering
from conformance.model import EVERY_MODE, ProbeFailure, Row, RowResult, RowSource
from conformance.pipeline import describe
from conformance.table import CATALOGUE, all_rows, runnable

RunGroups = Callable[[Iterable[Sequence[Row]]], Iterable[list[RowResult]]]
EXECUTORS = (pure.NAME, rendered.NAME, kernel.NAME, component.NAME)
_REPORTS = Path("build/conformance")
WITHOUT_ROOT = frozenset({pure.NAME, rendered.NAME})


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, run, print; the exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    options = _parser().parse_args(words)
    if options.mode == every_mode.NAME:
        at = words.index("--mode")
        return every_mode.run(words[:at] + words[at + 2 :], options.reports)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    wanted = EXECUTORS if options.executor == "all" else (options.executor,)
    refusal = _refusal(options.mode, wanted)
    if refusal:
        sys.stderr.write(f"conformance: {refusal}" + "\n")
        return 2
    mode = MODES.get(options.mode, NFTABLES)
    rows = [row for row in all_rows(_sources(options, mode)) if _is_asked_for(row, options)]
    if not rows:
        sys.stderr.write(f"conformance: nothing is row {options.row or 'any'} of section {options.section or 'any'}\n")
        return 2
    if mode.guest_modules and wanted != (pure.NAME,) and not guest.is_inside():
        return guest.run(words, mode, options.summary)
    executors = [name for name in wanted if name != rendered.NAME or options.mode in rendering.EXECUTORS]
    if guest.is_inside() and options.executor == "all":
        executors.remove(pure.NAME)
        _say(f"executor {pure.NAME}: the same for every mode, and asked with those that the kernel here can do")
    started = time.monotonic()
    mine = runnable(rows, _rows_of(options.mode))
    for_kernel = mine if options.full else tuple(systematic.for_kernel(mine, mode.fewer))
    results = list(_results(mine, for_kernel, mode, executors, _printer(verbose=options.verbose)))
    _say(f"mode {options.mode}, Linux {platform.release()}, {time.monotonic() - started:.0f} s\n")
    for line in report.matrix(rows, results, executors, _rows_of(options.mode)):
        _say(line)
    _say("")
    deviating = deviations.lines(for_kernel, mode.deviations)
    for line in (*deviating, *report.not_run(rows, _rows_of(options.mode), executors), *report.failures(results)):
        _say(line)
    if kernel.NAME in executors and len(for_kernel) < len(mine):
        _say(f"kernel: {len(for_kernel)} of {len(mine)} rows, a fixed sample of the generated ones; FULL=1 runs all")
    if options.summary is not None:
        options.summary.write_bytes(msgspec.json.encode(every_mode.summarise(results, deviating)))
    _say(report.closing(results))
    return 0 if results and all(result.is_passed for result in results) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="The packet-flow table against the planner and a real kernel.")
    modes = [*sorted(EVERY_MODE | MODES.keys()), every_mode.NAME]
    parser.add_argument("--mode", choices=modes, default=NFTABLES.name, help="proxy mode (default nftables)")
    parser.add_argument("--summary", type=Path, metavar="FILE", help="write the counts there as JSON")
    parser.add_argument(
        "--reports", type=Path, default=_REPORTS, metavar="DIRECTORY", help="of `--mode all` (build/conformance)"
    )
    parser.add_argument("--executor", choices=[*EXECUTORS, "all"], default="all", help="default: all")
    parser.add_argument("--section", type=int, action="append", help="only this section; may be given again")
    parser.add_argument(
        "--row", action="append", help="only rows of this number, as `-v` prints it; may be given again"
    )
    parser.add_argument("--full", action="store_true", help="all generated rows in the kernel, too: several minutes")
    parser.add_argument("--generate", type=int, default=20, metavar="N", help="N random rows in each family (20)")
    parser.add_argument("--seed", type=int, default=1, help="of the random rows")
    parser.add_argument("-v", "--verbose", action="store_true", help="print every row")
    return parser


def _is_asked_for(row: Row, options: argparse.Namespace) -> bool:
    is_of_section = not options.section or row.section in options.section
    return is_of_section and (not options.row or row.number in options.row or row.id in options.row)


def _rows_of(mode: str) -> str:
    """What rows call the mode."""
    return MODES[mode].rows if mode in MODES else mode


def _refusal(mode: str, executors: Sequence[str]) -> str:
    """Why this cannot run, empty when it can."""
    if executors == (pure.NAME,):
        return ""
    if mode not in MODES:
        modes = ", ".join(sorted(MODES))
        return f"there is no dataplane for mode {mode} yet (there is: {modes}); `--executor pure` runs without one"
    if os.geteuid() != 0 and not WITHOUT_ROOT.issuperset(executors):
        return "the kernel executor makes network namespaces and needs root; `--executor rendered` does without"
    if executors == (rendered.NAME,) and mode not in rendering.EXECUTORS:
        return f"the executor {rendered.NAME} reads what nf_tables or iptables is told, and mode {mode} tells neither"
    return ""


def _sources(options: argparse.Namespace, mode: KernelMode) -> list[RowSource]:
    """Products, whose rows have words for numbers, are only made when they are asked for: they are large.

    A slow kernel makes but the mixture, in which every two values meet.
    """
    is_of_catalogue = options.row and all(number[0].isdigit() for number in options.row)
    usual = systematic.PRODUCTS if mode.fewer == 1 or options.full else {systematic.COVERING}
    wanted = () if is_of_catalogue else options.section or usual
    products = [source for section, source in systematic.PRODUCTS.items() if section in wanted]
    count = max(options.generate // mode.fewer, 2) if not options.full else options.generate
    histories = [partial(of.rows, count, seed=options.seed) for of in (generated, generated_affinity)]
    return [*CATALOGUE, *histories, *products]


def _results(
    rows: Sequence[Row],
    for_kernel: Sequence[Row],
    mode: KernelMode,
    executors: Sequence[str],
    show: Callable[[RowResult], None],
) -> Iterator[RowResult]:
    """Each executor with the rows that it can judge."""
    probing = [row for row in rows if row.check is None]
    with contextlib.ExitStack() as stack:
        runs: list[tuple[Sequence[Row], RunGroups]] = []
        if pure.NAME in executors:
            runs.append(([row for row in probing if not row.needs_dataplane], partial(map, _run_pure)))
        if rendered.NAME in executors:
            runs.append((probing, partial(map, stack.enter_context(rendering.EXECUTORS[mode.name]()).run_group)))
        if kernel.NAME in executors and for_kernel:
            asked = deviations.held_to([row for row in for_kernel if row.check is None], mode.deviations)
            runs.append((asked, stack.enter_context(KernelPool(mode)).run))
        if component.NAME in executors:
            checked = deviations.held_to([row for row in rows if row.check is not None], mode.deviations)
            runs.append((checked, partial(map, stack.enter_context(component.ComponentExecutor(mode)).run_group)))
        for chosen, run in runs:
            for results in run(kernel.groups(chosen)):
                for result in results:
                    show(result)
                    yield result


def _run_pure(rows: Sequence[Row]) -> list[RowResult]:
    """Rows that make the planner raise have failed; the others are still of interest."""
    try:
        return pure.run_group(rows)
    except Exception as error:  # noqa: BLE001 - whatever it is, it belongs into the report beside its rows
        words = f"{type(error).__name__}: {error}"
        failure = ProbeFailure(1, "the row as a whole", "a plan", words)
        return [RowResult(row, pure.NAME, (failure,)) for row in rows]


def _printer(*, verbose: bool) -> Callable[[RowResult], None]:
    def show(result: RowResult) -> None:
        if verbose:
            verdict = "passed" if result.is_passed else "FAILED"
            _say(f"{verdict} {result.executor:<9} {describe(result.row)}")

    return show


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
