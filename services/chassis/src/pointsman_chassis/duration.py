# SPDX-License-Identifier: Apache-2.0
"""Durations as configuration writes them: `250ms`, `5s`, `1m`, `1h30m`."""

import re
from decimal import Decimal
from types import MappingProxyType
from typing import Final, Self

_UNIT_SECONDS: Final = MappingProxyType(
    {
        "ns": Decimal("1e-9"),
        "us": Decimal("1e-6"),
        "ms": Decimal("0.001"),
        "s": Decimal(1),
        "m": Decimal(60),
        "h": Decimal(3600),
    }
)
_PART: Final = re.compile(r"(\d+(?:\.\d+)?)(ns|us|ms|s|m|h)")
_WHOLE: Final = re.compile(rf"(?:{_PART.pattern})+")


class Duration(float):
    """A span of time >= 0: a float of seconds that reads and writes the form above."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse `1h30m`, `250ms`, `0s` or `0`; ValueError says what was expected."""
        if text == "0":
            return cls(0)
        if not _WHOLE.fullmatch(text):
            raise ValueError(f"expected a duration such as 250ms, 5s, 1m or 1h30m, got {text!r}")
        return cls(sum(Decimal(number) * _UNIT_SECONDS[unit] for number, unit in _PART.findall(text)))

    def __str__(self) -> str:
        milliseconds = round(float(self) * 1000, 6)
        if milliseconds % 1000:
            return f"{milliseconds:.6f}".rstrip("0").rstrip(".") + "ms"
        seconds = int(milliseconds) // 1000
        if seconds and seconds % 3600 == 0:
            return f"{seconds // 3600}h"
        if seconds and seconds % 60 == 0:
            return f"{seconds // 60}m"
        return f"{seconds}s"
