# SPDX-License-Identifier: Apache-2.0
"""`make fuzz SECONDS=60`: every target in turn, each for its share of the time, with seeds that change every run.

A failure prints the smallest value found and the command that runs it again. The last line counts targets.
"""

from __future__ import annotations

import argparse
import random
import re
import sys
import time
import traceback
import warnings

from fuzz.catalogue import TARGETS
from fuzz.harness import Executions, Target, run_blob, run_for

_BLOB = re.compile(r"@reproduce_failure\('[^']*', b'([^']*)'\)")
_NOTE_CHARACTERS_MAX = 4000
_FRAMES = 8


def main() -> int:
    """Run; 1 when a target failed."""
    parser = argparse.ArgumentParser(prog="tests/fuzz/run.py", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="for all targets together")
    parser.add_argument("--seed", type=int, help="of the first round; a random one unless given")
    parser.add_argument("--target", default="", help="only targets whose name contains this")
    parser.add_argument("--blob", help="run one failure again; needs --target")
    parsed = parser.parse_args()
    targets = [target for target in TARGETS if parsed.target in target.name]
    if not targets or (parsed.blob and len(targets) > 1):
        parser.error(f"{len(targets)} targets match {parsed.target!r}; there are: {[each.name for each in TARGETS]}")
    warnings.simplefilter("ignore")
    if parsed.blob:
        run_blob(targets[0], parsed.blob.encode())
        return 0
    start = random.SystemRandom().randrange(1 << 32) if parsed.seed is None else parsed.seed
    _say(f"fuzz: {len(targets)} targets, {parsed.seconds:g} s, first seed {start}")
    passed = sum(_run(target, parsed.seconds / len(targets), start) for target in targets)
    _say(f"{passed} passed, {len(targets) - passed} failed")
    return 0 if passed == len(targets) else 1


def _run(target: Target, seconds: float, start: int) -> bool:
    executions, began = Executions(), time.monotonic()
    error: BaseException | None = None
    try:
        run_for(target, executions, seconds=seconds, start=start)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as raised:  # noqa: BLE001 - whatever it is, it is what we are looking for
        error = raised
    took = time.monotonic() - began
    verdict = "ok" if error is None else "FAILED"
    _say(f"{verdict:6} {target.name}: {executions.count:,} executions in {took:.1f} s")
    if error is not None:
        _explain(target, error, start)
    return error is None


def _explain(target: Target, error: BaseException, start: int) -> None:
    """The exception, the value that caused it, and how to see it again."""
    for each in error.exceptions if isinstance(error, BaseExceptionGroup) else (error,):
        notes = "\n".join(getattr(each, "__notes__", ()))
        traceback.print_tb(each.__traceback__, limit=-_FRAMES, file=sys.stdout)
        _say(f"{type(each).__name__}: {str(each)[:_NOTE_CHARACTERS_MAX]}\n{notes[:_NOTE_CHARACTERS_MAX]}")
        for blob in _BLOB.findall(notes):
            _say(f"again: .venv/bin/python tests/fuzz/run.py --target '{target.name}' --blob '{blob}'")
    _say(f"again from the first seed: .venv/bin/python tests/fuzz/run.py --target '{target.name}' --seed {start}")


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - a command-line tool prints


if __name__ == "__main__":
    sys.exit(main())
