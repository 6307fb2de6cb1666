# SPDX-License-Identifier: Apache-2.0
"""What rules act upon: a packet, the registers of a rule, and numbers drawn at random."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from pointsman_enforcer.dataplane.nftables import uapi
from support.fake_nftables import FakeTable

_WORD = 4
_WORDS = 16


class UnknownRuleError(ValueError):
    """A rule says something whose meaning is not known here, so nobody can tell what becomes of the packet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Packet:
    """The first packet of a connection, and what was decided about it so far."""

    source: bytes
    destination: bytes
    port: int
    protocol: int
    interface: str = ""
    """It came in by; empty for this host's own."""
    mark: int = 0
    priority: int = 0
    is_translated: bool = False
    is_masqueraded: bool = False
    has_left: bool = False
    """It has passed every hook and is on its way to somebody else."""
    refusal: str = ""
    """Not empty when its way has ended: `DROP`, `REJECT`, or another ICMP error in words."""


@dataclass
class Dice:
    """Numbers already drawn; what is drawn beyond them is 0, and how many sides that had is kept."""

    given: Sequence[int]
    sides: list[int] = field(default_factory=list)

    def draw(self, sides: int) -> int:
        """A number below `sides`."""
        self.sides.append(sides)
        place = len(self.sides) - 1
        return self.given[place] if place < len(self.given) else 0


class Registers:
    """Sixteen words of four bytes, empty at the beginning of each rule: what was not stored cannot be read."""

    def __init__(self) -> None:
        self._words: list[bytes | None] = [None] * _WORDS

    def get(self, register: bytes, length: int) -> bytes:
        """So many bytes from a register on.

        Raises:
            UnknownRuleError: some of them were never stored, which the kernel refuses when the rule is loaded.
        """
        first = _index(register)
        found = self._words[first : first + (length + _WORD - 1) // _WORD]
        stored = [word for word in found if word is not None]
        if len(stored) < len(found) or first + len(found) > _WORDS:
            raise UnknownRuleError(f"register {first} is read for {length} bytes, and not all were stored")
        return b"".join(stored)[:length]

    def put(self, register: bytes, value: bytes) -> None:
        """Values take whole words; the rest of the last one is zero."""
        first, padded = _index(register), value + bytes(-len(value) % _WORD)
        for place in range(0, len(padded), _WORD):
            self._words[first + place // _WORD] = padded[place : place + _WORD]


@dataclass
class Situation:
    """Everything an expression can see and change."""

    table: FakeTable
    packet: Packet
    dice: Dice
    hook: int
    local: frozenset[bytes]
    """Addresses of this host."""
    registers: Registers = field(default_factory=Registers)


def _index(register: bytes) -> int:
    number = int.from_bytes(register, "big") - uapi.NFT_REG32_00
    if not 0 <= number < _WORDS:
        raise UnknownRuleError(f"there is no register of four bytes with the number {number + uapi.NFT_REG32_00}")
    return number
