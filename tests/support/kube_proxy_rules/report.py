# SPDX-License-Identifier: Apache-2.0
"""`make takeover`: nodes are taken over from kube-proxy under traffic, a line for each, and an exit status.

Each of kube-proxy's modes to each of ours that one kernel can run beside it; ipvs in a guest, where rules are those of
legacy iptables. Delayed is what took longer than 0.9 s, with those before our enforcer was started in brackets.
"""

from __future__ import annotations

import argparse
import difflib
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path

from pointsman_lab.guest.machine import run_in_guest
from support.kube_proxy_rules.guest import MODULES
from support.kube_proxy_rules.takeover import Takeover, take_over

ON_HOST = tuple(
    product(
        ("iptables-legacy", "iptables-nft", "nftables"), ("nftables", "iptables-legacy", "iptables-nft", "userspace")
    )
)
IN_GUEST = (("ipvs", "ipvs"), ("ipvs", "iptables-legacy"))
_TESTS = Path(__file__).resolve().parents[2]
_GUEST_SECONDS = 590.0
_HEAD = (
    "kube-proxy",
    "Pointsman",
    "opened",
    "delayed",
    "failed",
    "reset",
    "removed",
    "left",
    "others' rules",
    "seconds",
)
_FORMAT = "{:<16} {:<16} {:>7} {:>9} {:>6} {:>5} {:>7} {:>4} {:<13} {:>7}\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 1 when a connection failed, a flow ended, or something is left or gone that should not be."""
    parser = argparse.ArgumentParser(prog="make takeover", description=__doc__)
    parser.add_argument("pairs", nargs="*", metavar="THEIRS:OURS", help="default: all pairs of modes")
    arguments = parser.parse_args(argv)
    chosen = [(theirs, ours) for theirs, _, ours in (each.partition(":") for each in arguments.pairs)]
    sys.stdout.write(_FORMAT.format(*_HEAD))
    bad: list[Takeover] = []
    for each in takeovers(chosen or [*ON_HOST, *IN_GUEST]):
        sys.stdout.write(_FORMAT.format(*_cells(each)))
        sys.stdout.flush()
        bad += [] if each.is_good else [each]
    for each in bad:
        sys.stdout.write("\n".join([f"{each.theirs} -> {each.ours}:", *problems(each), ""]))
    sys.stdout.write(
        "FAILED\n" if bad else "no new connection failed, no flow was reset, nothing of others was touched\n"
    )
    return 1 if bad else 0


def takeovers(pairs: Sequence[tuple[str, str]]) -> Iterator[Takeover]:
    """Each pair where it can run."""
    for theirs, ours in pairs:
        if theirs != "ipvs":
            yield take_over(theirs, ours)
    in_guest = [ours for theirs, ours in pairs if theirs == "ipvs"]
    if in_guest:
        yield from takeovers_in_guest(in_guest)


def takeovers_in_guest(ours: Sequence[str]) -> Iterator[Takeover]:
    """kube-proxy's IPVS to each of our modes. RuntimeError when the guest did not finish."""
    with tempfile.TemporaryDirectory(prefix="pointsman-takeover-") as shared:
        result = run_in_guest(
            [sys.executable, "-m", "support.kube_proxy_rules.guest", *ours],
            shared=Path(shared),
            modules=MODULES,
            environment={"PYTHONPATH": str(_TESTS)},
            timeout_seconds=_GUEST_SECONDS,
        )
    seen = [json.loads(line) for line in result.output.splitlines() if line.startswith('{"theirs"')]
    if result.status != 0 or len(seen) != len(ours):
        raise RuntimeError(f"the guest ended with {result.status}:\n{result.output[-4000:]}")
    yield from (Takeover(**each) for each in seen)


def problems(takeover: Takeover) -> list[str]:
    """What should not have happened, for people."""
    changed = difflib.unified_diff(
        takeover.others_before.splitlines(), takeover.others_after.splitlines(), "before", "after", lineterm="", n=0
    )
    return [*takeover.failed, *takeover.reset, *takeover.left, *changed]


def _cells(each: Takeover) -> tuple[str, ...]:
    numbers = (
        each.opened,
        f"{each.slow} ({each.slow_before})",
        len(each.failed),
        len(each.reset),
        each.removed,
        len(each.left),
    )
    untouched = "untouched" if each.others_before == each.others_after else "CHANGED"
    return (each.theirs, each.ours, *map(str, numbers), untouched, f"{each.seconds:.1f}")


if __name__ == "__main__":
    sys.exit(main())
