# SPDX-License-Identifier: Apache-2.0
"""`make mode-switch`: changes of mode under traffic, a line for each, and an exit status.

Modes that this kernel runs are tried in network namespaces of it; ipvs in a guest, where rules are legacy iptables.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from itertools import permutations
from pathlib import Path

from conformance.executors.modes import IPVS
from mode_switch.load import Counts
from mode_switch.scene import IN_GUEST, ON_HOST, Scene

from pointsman_enforcer.dataplane.nftables.message import Family
from pointsman_lab.guest.machine import run_in_guest
from support.nft_world import World

_ROOT = Path(__file__).resolve().parents[2]
_GUEST_SECONDS = 1200.0
_HEAD = ("from", "to", "opened", "delayed", "failed", "held", "reset")
Pair = tuple[str, str]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 1 when a connection failed or a flow was reset that the kernel could have kept."""
    parser = argparse.ArgumentParser(prog="make mode-switch", description=__doc__)
    parser.add_argument("pairs", nargs="*", metavar="FROM:TO", help="default: all pairs of modes")
    parser.add_argument("--inside", action="store_true", help="this is the guest: print JSON")
    arguments = parser.parse_args(argv)
    pairs = [(before, after) for before, _, after in (each.partition(":") for each in arguments.pairs)]
    if arguments.inside:
        for pair, counts in switches(pairs):
            sys.stdout.write(json.dumps({"pair": pair, "counts": counts.as_data()}) + "\n")
            sys.stdout.flush()
        return 0
    wanted = pairs or [*permutations(ON_HOST, 2), *permutations(IN_GUEST, 2)]
    sys.stdout.write(_line(_HEAD))
    is_good = True
    for pair, counts in everywhere(wanted):
        sys.stdout.write(_line(words(pair, counts)))
        sys.stdout.flush()
        is_good = is_good and not problems(pair, counts)
    sys.stdout.write("no new connection failed, no flow was reset that can be kept\n" if is_good else "FAILED\n")
    return 0 if is_good else 1


def everywhere(pairs: Sequence[Pair]) -> Iterator[tuple[Pair, Counts]]:
    """Each pair where it can run."""
    in_guest = [pair for pair in pairs if set(pair) <= IN_GUEST.keys()]
    yield from switches([pair for pair in pairs if pair not in in_guest])
    if in_guest:
        yield from _guest(in_guest)


def switches(pairs: Sequence[Pair]) -> Iterator[tuple[Pair, Counts]]:
    """Each pair, in namespaces of this kernel."""
    if not pairs:
        return
    with World(Family.IPV4) as world:
        for pair in pairs:
            with tempfile.TemporaryDirectory(prefix="pointsman-switch-") as directory:
                yield pair, Scene(world, Path(directory)).switch(*pair)


def problems(pair: Pair, counts: Counts) -> list[str]:
    """What must not have happened. A proxy's connections end with its process, whatever comes next."""
    found = [f"{count} {words}" for words, count in counts.failed.items()]
    if not pair[0].startswith("userspace"):
        found += [f"{count} held flows: {words}" for words, count in counts.reset.items()]
    return found if counts.opened else [*found, "nothing was opened"]


def words(pair: Pair, counts: Counts) -> tuple[str, ...]:
    """A line of the report."""
    failed, reset = (_words(each) for each in (counts.failed, counts.reset))
    note = " with the proxy" if counts.reset and pair[0].startswith("userspace") else ""
    return (*pair, str(counts.opened), str(counts.delayed), failed, str(counts.held), f"{reset}{note}")


def _words(counted: Mapping[str, int]) -> str:
    kinds = f" ({', '.join(counted)})" if counted else ""
    return f"{sum(counted.values())}{kinds}"


def _guest(pairs: Sequence[Pair]) -> Iterator[tuple[Pair, Counts]]:
    program = [sys.executable, str(_ROOT / "tests/mode_switch/run.py"), "--inside", *map(":".join, pairs)]
    with tempfile.TemporaryDirectory(prefix="pointsman-switch-") as shared:
        result = run_in_guest(
            program, shared=Path(shared), modules=IPVS.guest_modules, directory=_ROOT, timeout_seconds=_GUEST_SECONDS
        )
    seen = [json.loads(line) for line in result.output.splitlines() if line.startswith('{"pair"')]
    if result.status != 0 or len(seen) != len(pairs):
        raise RuntimeError(f"the guest ended with {result.status}:\n{result.output[-4000:]}")
    for each in seen:
        yield tuple(each["pair"]), Counts.from_data(each["counts"])


def _line(cells: Sequence[str]) -> str:
    return "{:<16} {:<16} {:>7} {:>8} {:<8} {:>5} {}".format(*cells).rstrip() + "\n"
