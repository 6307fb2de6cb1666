# SPDX-License-Identifier: Apache-2.0
"""A process of light enforcers, told what to do by lines on its standard input and answering each with one of JSON.

`read` answers with what was seen since the last `read`; `cut` breaks every live stream at once.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
from collections.abc import Sequence
from dataclasses import asdict
from functools import lru_cache

import msgspec

from pointsman_lab.bench.fanout.enforcer import LightEnforcer, Manner, Tally
from pointsman_model.digest import plan_digest

_REMEMBERED_DIGESTS = 20_000


class GeneratorOrder(msgspec.Struct, frozen=True, kw_only=True):
    """The nodes of one process: name, planner address and manner of each."""

    nodes: list[tuple[str, str, Manner]]


class Generator:
    """Owns the nodes of this process and what they saw."""

    def __init__(self, order: GeneratorOrder) -> None:
        self._tally = Tally()
        digest = lru_cache(maxsize=_REMEMBERED_DIGESTS)(plan_digest)
        self._enforcers = [
            LightEnforcer(node, address, manner, self._tally, digest) for node, address, manner in order.nodes
        ]
        self._running: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Let every node dial."""
        self._running = [asyncio.create_task(each.run()) for each in self._enforcers]

    def obey(self, word: str) -> dict[str, object]:
        """Do what a line says; the answer."""
        if word == "cut":
            for each in self._live():
                each.cut()
        elif word != "read":
            raise ValueError(f"a generator knows read and cut, not {word!r}")
        seen = asdict(self._tally)
        self._tally.acks.clear()
        usage = resource.getrusage(resource.RUSAGE_SELF)
        in_sync = sum(each.is_in_sync for each in self._live())
        return seen | {"in_sync": in_sync, "cpu_seconds": usage.ru_utime + usage.ru_stime}

    def _live(self) -> Sequence[LightEnforcer]:
        return [each for each in self._enforcers if each.manner is Manner.LIVE]


async def main() -> None:
    """Serve orders until standard input ends."""
    reader = asyncio.StreamReader(limit=16 << 20)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    generator = Generator(msgspec.json.decode(await reader.readline(), type=GeneratorOrder))
    generator.start()
    while line := await reader.readline():
        sys.stdout.write(json.dumps(generator.obey(line.decode().strip())) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main())
