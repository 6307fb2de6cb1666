# SPDX-License-Identifier: Apache-2.0
"""What is wrong with an object, said so that its author can find the place."""

from typing import NamedTuple


class Problem(NamedTuple):
    """One fault: the field as a path in the API object, and what was done about it."""

    field: str
    message: str

    def __str__(self) -> str:
        return f"{self.field}: {self.message}"


Problems = list[Problem]
"""Collected while an object is converted; what is faulty is left out, the rest goes on."""

QUOTED_CHARACTERS_MAX = 64


def quote(value: object) -> str:
    """A value for a message, cut to a length that does no harm in a log."""
    text = repr(value)
    return text if len(text) <= QUOTED_CHARACTERS_MAX else f"{text[:QUOTED_CHARACTERS_MAX]}..."
