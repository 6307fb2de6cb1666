# SPDX-License-Identifier: Apache-2.0
"""Runs `pointsmanctl` as a user does: a process of its own, against a planner of the test."""

import asyncio
import json
import os
import sys
from dataclasses import dataclass
from typing import Any

_DEADLINE_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """What one run did."""

    status: int
    stdout: str
    stderr: str

    @property
    def lines(self) -> list[str]:
        """The lines of stdout."""
        return self.stdout.splitlines()

    @property
    def data(self) -> Any:
        """The JSON of stdout."""
        return json.loads(self.stdout)

    @property
    def rows(self) -> list[list[str]]:
        """The cells of a table, heads included; cells do not hold three blanks."""
        return [[cell.strip() for cell in line.split("   ") if cell.strip()] for line in self.lines]


async def pointsmanctl(*arguments: str, stdin: str = "", environment: dict[str, str] | None = None) -> Ran:
    """Run one command to its end."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("POINTSMAN_")}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "pointsman_ctl", *arguments, env=inherited | (environment or {}),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    async with asyncio.timeout(_DEADLINE_SECONDS):
        stdout, stderr = await process.communicate(stdin.encode())
    return Ran(status=process.returncode or 0, stdout=stdout.decode(), stderr=stderr.decode())


async def ask(address: str, *arguments: str, stdin: str = "") -> Ran:
    """Run one command against a planner that listens in plaintext."""
    return await pointsmanctl(
        *arguments, stdin=stdin, environment={"POINTSMAN_SERVERS": address, "POINTSMAN_INSECURE": "1"}
    )
