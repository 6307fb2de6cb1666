# SPDX-License-Identifier: Apache-2.0
"""A whole enforcer on a kernel in memory, as a process of its own that a test can freeze.

Usage: python -m support.enforcer_main DIRECTORY ADDRESS...
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from support.enforcer_node import Node


async def _main(directory: str, addresses: list[str]) -> None:
    async with Node(Path(directory)).enforcer(*addresses):
        await asyncio.get_running_loop().create_future()


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1], sys.argv[2:]))
