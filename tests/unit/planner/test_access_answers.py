# SPDX-License-Identifier: Apache-2.0
"""Answers of the API server: kept for a time, used a while longer when it is away, and never without bound."""

import pytest

from pointsman_chassis.clock import VirtualClock
from pointsman_chassis.errors import UnavailableError
from pointsman_planner.access.answers import Answers


class Server:
    def __init__(self) -> None:
        self.answer: str | None = "yes"
        self.is_away = False
        self.asked = 0

    async def ask(self) -> str | None:
        self.asked += 1
        if self.is_away:
            raise UnavailableError("away")
        return self.answer


def answers(clock: VirtualClock, size_max: int = 2) -> Answers[str]:
    return Answers(fresh_seconds=10, stale_seconds=100, size_max=size_max, clock=clock)


async def test_a_fresh_answer_is_not_asked_for_again() -> None:
    clock, server = VirtualClock(), Server()
    known = answers(clock)
    for _ in range(3):
        assert await known.get("a", server.ask) == "yes"
    assert server.asked == 1
    await clock.advance(11)
    server.answer = "no"
    assert await known.get("a", server.ask) == "no"


async def test_while_the_server_is_away_what_is_known_counts_for_a_time_and_what_is_not_is_unavailable() -> None:
    clock, server = VirtualClock(), Server()
    known = answers(clock)
    await known.get("a", server.ask)
    server.is_away = True
    await clock.advance(50)
    assert await known.get("a", server.ask) == "yes"
    with pytest.raises(UnavailableError):
        await known.get("b", server.ask)
    await clock.advance(51)
    with pytest.raises(UnavailableError):
        await known.get("a", server.ask)


async def test_nothing_is_kept_of_what_the_server_does_not_know() -> None:
    clock, server = VirtualClock(), Server()
    known = answers(clock)
    await known.get("a", server.ask)
    server.answer = None
    assert await known.get("b", server.ask) is None
    assert len(known) == 1
    await clock.advance(11)
    assert await known.get("a", server.ask) is None
    assert len(known) == 0
    server.is_away = True
    with pytest.raises(UnavailableError):
        await known.get("a", server.ask)


async def test_memory_is_bounded() -> None:
    clock, server = VirtualClock(), Server()
    known = answers(clock)
    for question in "abac":
        await known.get(question, server.ask)
    assert len(known) == 2
    await known.get("a", server.ask)
    assert server.asked == 3
